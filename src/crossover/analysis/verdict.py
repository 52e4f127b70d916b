"""The verdict for every pair of models on every data set: whether b overtakes a, and at how many images (N*).

The result is the `crossover.json` of docs/estimators.md: numbers or null, never NaN.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import gmean

from crossover.analysis.compare import compare
from crossover.analysis.contract import Analysis, Pair, Result, Saturation
from crossover.analysis.estimate import estimate, t_value
from crossover.analysis.extrapolation import ModelLaws, extrapolate
from crossover.analysis.runs import Method, listed, ordered_pairs, primary_runs, validate_runs
from crossover.analysis.sentences import summarise
from crossover.record import title
from crossover.text import tracked

TOLERANCE = 0.05
"""Largest gain in log error from the last doubling of the budget that counts as small; declared beforehand."""
RATIO = (0.45, 0.55)
"""Images seen by a twin, as a share of its run's: half, up to rounding to whole steps."""
KEYS = ["model", "n_train", "chain", "seed", "augment", "recipe"]


def analyse(runs: pd.DataFrame, method: Method, *, chance: Mapping[str, float] | None = None) -> Result:
    """Return the studies of crossover.json; `chance` maps a data set to the error of guessing."""
    runs, notes = validate_runs(runs, method.metric)
    studies = [
        _study(str(dataset), every, method, notes, (chance or {}).get(str(dataset)))
        for dataset, every in runs.groupby("dataset", sort=False)
    ]
    return Result(metric=method.metric, confidence=method.confidence, studies=studies)


def _study(dataset: str, every: pd.DataFrame, method: Method, notes: list[str], guess: float | None) -> Analysis:
    """Return one data set; `guess` is the error of guessing, and `notes` are those of all data sets."""
    part, said, chosen = primary_runs(every)
    zero = part.loc[part["clipped"], "run_id"]
    if len(zero):
        said.append(f"A {title(method.metric)} of zero counts as half an image: {listed(zero)}.")
    models = [str(model) for model in dict.fromkeys(part["model"])]
    if len(models) < 2:
        said.append(f"Only {models[0]} has finished runs: a crossover needs two models.")
    known = "n_pool" in part and part["n_pool"].notna().any()
    pool = f"one pool of {part['n_pool'].min():,.0f} images" if known else "their pool, whose size is not recorded"
    replicates = part.groupby("model")[["chain", "seed"]].nunique().max()
    again = f"on other subsets of {pool}" if replicates["chain"] > 1 else "with other seeds on the same subsets"
    about = f"The intervals are about training again {again}, tested on other images of the same kind."
    if replicates.max() == 1:
        about = "Every model was trained once at each size: no interval is about training again."
    laws = {model: ModelLaws(unit_table(part, model, method.metric), guess) for model in models}
    points = saturation(every, part, method.metric, method.confidence)
    pairs: list[Pair] = []
    every_pair = ordered_pairs(part)
    for a, b in tracked(every_pair, f"pairs of {dataset} compared", len(every_pair)):
        pair = compare(part, a, b, method, chance=guess)
        if pair["verdict"] in ("a_better", "undecided") and pair["gap"] and pair["gap"][-1]["log_error_ratio"] > 0:
            pair["extrapolation"] = extrapolate(laws[a], laws[b], pair["n_max"] or 0)
        pairs.append(pair)
    _holm(pairs, 1 - method.confidence)
    for pair in pairs:
        _mark_safe(pair, points)
        pair["summary"] = summarise(pair, points, guess)
    return Analysis(
        dataset=dataset,
        setting=chosen,
        chance=guess,
        estimand=about,
        notes=[*notes, *said, about],
        pairs=pairs,
        saturation=points,
        laws=[laws[m].described(m) for m in tracked(models, f"models of {dataset} described", len(models))],
    )


def unit_table(runs: pd.DataFrame, model: str, metric: str) -> pd.DataFrame:
    """Return the geometric mean of a metric over seeds: one row per chain (or seed of one chain), n across."""
    part = runs[runs["model"] == model]
    unit = "chain" if part["chain"].nunique() > 1 or part["seed"].nunique() == 1 else "seed"
    return part.pivot_table(index=unit, columns="n_train", values=metric, aggfunc=gmean)


def curve_summary(runs: pd.DataFrame, method: Method) -> pd.DataFrame:
    """Return the geometric mean of the error over chains, with its t interval for one size, of every curve."""
    runs, _ = validate_runs(runs, method.metric)
    parts = []
    for dataset, study in runs.groupby("dataset", sort=False):
        chosen = primary_runs(study)[0]
        for model in dict.fromkeys(chosen["model"]):
            table = unit_table(chosen, model, method.metric)
            logs = estimate(table.columns.to_numpy(float), np.log(table.to_numpy()))
            half = logs.se * t_value(method.confidence, logs.df)
            ends = {"error_mean": logs.mean, "error_low": logs.mean - half, "error_high": logs.mean + half}
            curve = {"dataset": dataset, "model": model, "n_train": logs.n.round().astype(int)}
            curve |= {name: np.exp(values) for name, values in ends.items()}
            parts.append(pd.DataFrame(curve | {"chains": table.count().to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def _holm(pairs: list[Pair], level: float) -> None:
    """Enter whether each verdict holds among all pairs of a data set (Holm 1979): at most `level` to be wrong once."""
    tested = [(p, pair) for pair in pairs if (p := pair["family"]["p_value"]) is not None]
    holds = True
    for i, (p, pair) in enumerate(sorted(tested, key=lambda one: one[0])):
        holds = holds and p <= level / (len(tested) - i)
        pair["family"]["pairs"] = len(tested)
        if pair["verdict"] != "undecided":
            pair["family"]["holds"] = holds


def saturation(runs: pd.DataFrame, chosen: pd.DataFrame, metric: str, confidence: float) -> list[Saturation]:
    """Return the state of every size of every model among the `chosen` runs; `runs` may contain their twins."""
    tables: dict[str, pd.DataFrame] = {}
    if "images_seen" in chosen:
        both = chosen.merge(runs, on=[name for name in KEYS if name in chosen], suffixes=("", "_twin"))
        both = both[(both["images_seen_twin"].astype(float) / both["images_seen"].astype(float)).between(*RATIO)]
        gains = both.assign(gain=np.log(both[f"{metric}_twin"]) - np.log(both[metric]))
        for model, own in gains.groupby("model"):
            tables[str(model)] = own.pivot_table(index="chain", columns="n_train", values="gain")
    found: list[Saturation] = []
    for model, part in chosen.groupby("model", sort=False):
        rows = {
            float(n): Saturation(
                model=str(model), n_train=round(n), state="not checked", gain=None, ci_low=None, ci_high=None, chains=0
            )
            for n in sorted(part["n_train"].unique())
        }
        if str(model) in tables:
            table = tables[str(model)]
            joint = estimate(table.columns.to_numpy(float), table.to_numpy(float))
            halves = t_value(confidence, joint.df) * joint.se
            for n, gain, half, count in zip(joint.n, joint.mean, halves, table.count(), strict=True):
                _enter_gain(rows[float(n)], float(gain), float(half), int(count))
        found += rows.values()
    return found


def _enter_gain(row: Saturation, gain: float, half: float, chains: int) -> None:
    """Enter the gain of a size and what it says; without replicates `half` is NaN."""
    row["gain"], row["chains"], row["state"] = gain, chains, "not established"
    if np.isfinite(half):
        row["ci_low"], row["ci_high"] = gain - half, gain + half
    if gain + half < TOLERANCE:
        row["state"] = "data-limited"
    elif gain - half > TOLERANCE:
        row["state"] = "budget-limited"


def _mark_safe(pair: Pair, points: list[Saturation]) -> None:
    """Enter by size whether the lead minus its half band exceeds the difference of the two gains, where it is known."""
    gains = {(point["model"], point["n_train"]): point["gain"] for point in points}
    for row in pair["gap"]:
        one, other = (gains.get((model, row["n_train"])) for model in (pair["a"], pair["b"]))
        if one is not None and other is not None and row["ci_low"] is not None and row["ci_high"] is not None:
            row["safe"] = max(row["ci_low"], -row["ci_high"]) > abs(one - other)
