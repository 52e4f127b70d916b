"""The verdict for every pair of models on every data set: whether b overtakes a, and at how many images (N*).

The result is the `crossover.json` of docs/estimators.md: numbers or null, never NaN.
"""

from collections.abc import Mapping
from functools import cache, partial

import numpy as np
import pandas as pd
from scipy import stats

from crossover.analysis.caveats import estimand, holm, safe_signs, saturation
from crossover.analysis.compare import compare
from crossover.analysis.contract import Pair, Result, Study
from crossover.analysis.estimate import estimate
from crossover.analysis.extrapolation import ModelLaws, extrapolate
from crossover.analysis.pairing import smooth_model
from crossover.analysis.runs import Method, Told, clip_notes, ordered_pairs, primary_runs, quietly, validate_runs
from crossover.analysis.sentences import summarise


def analyse(
    runs: pd.DataFrame, method: Method, *, chance: Mapping[str, float] | None = None, told: Told = quietly
) -> Result:
    """Return the studies of crossover.json; `chance` maps a data set to the error of guessing."""
    runs, notes = validate_runs(runs, method.metric)
    studies = [
        _study(str(dataset), every, method, notes, (chance or {}).get(str(dataset)), told)
        for dataset, every in runs.groupby("dataset", sort=False)
    ]
    return Result(metric=method.metric, confidence=method.confidence, studies=studies)


def _study(
    dataset: str, every: pd.DataFrame, method: Method, notes: list[str], guess: float | None, told: Told
) -> Study:
    """Return one data set; `guess` is the error of guessing, and `notes` are those of all data sets."""
    part, said, chosen = primary_runs(every)
    said += clip_notes(part, method.metric)
    models = [str(model) for model in dict.fromkeys(part["model"])]
    if len(models) < 2:
        said.append(f"Only {models[0]} has finished runs: a crossover needs two models.")
    laws = {model: ModelLaws(unit_table(part, model, method.metric), guess) for model in models}
    smoothed = cache(partial(smooth_model, part, metric=method.metric))
    points = saturation(every, part, method.metric, method.confidence)
    pairs: list[Pair] = []
    for a, b in told(ordered_pairs(models), f"pairs of {dataset} compared"):
        pair = compare(part, a, b, method, smoothed=smoothed, chance=guess)
        if pair["verdict"] in ("a_better", "undecided") and pair["gap"] and pair["gap"][-1]["log_error_ratio"] > 0:
            pair["extrapolation"] = extrapolate(laws[a], laws[b], pair["n_max"] or 0)
        pairs.append(pair)
    holm(pairs, 1 - method.confidence)
    for pair in pairs:
        for row, safe in zip(pair["gap"], safe_signs(pair, points), strict=True):
            row["safe"] = safe
        pair["summary"] = summarise(pair, points, guess)
    return Study(
        dataset=dataset,
        setting=chosen,
        chance=guess,
        estimand=estimand(part),
        notes=[*notes, *said, estimand(part)],
        pairs=pairs,
        saturation=points,
        laws=[law.described(model) for model, law in told(list(laws.items()), f"models of {dataset} described")],
    )


def unit_table(runs: pd.DataFrame, model: str, metric: str) -> pd.DataFrame:
    """Return the mean metric of a model over seeds: one row per chain (per seed, if there is one chain), n across."""
    part = runs[runs["model"] == model]
    unit = "chain" if part["chain"].nunique() > 1 or part["seed"].nunique() == 1 else "seed"
    return part.pivot_table(index=unit, columns="n_train", values=metric, aggfunc="mean")


def curve_summary(runs: pd.DataFrame, method: Method) -> pd.DataFrame:
    """Return the geometric mean of the error over chains with its t interval by dataset, model and n_train.

    The interval is for one size; it is NaN without replicates.
    """
    runs, _ = validate_runs(runs, method.metric)
    rows = []
    for dataset, study in runs.groupby("dataset", sort=False):
        chosen = primary_runs(study)[0]
        for model in dict.fromkeys(chosen["model"]):
            table = unit_table(chosen, model, method.metric)
            sizes = table.columns.to_numpy(float)
            logs = estimate(sizes, np.log(table.to_numpy()))
            critical = np.nan if logs is None else stats.t.ppf((1 + method.confidence) / 2, logs.df)
            half = np.full(len(sizes), np.nan) if logs is None else logs.se * critical
            means = np.exp(np.log(table).mean()).to_numpy()
            for n, error, h, chains in zip(sizes, means, half, table.notna().sum(), strict=True):
                ends = error * np.exp(-h), error * np.exp(h)
                rows.append((dataset, model, round(n), error, *ends, int(chains)))
    columns = ["dataset", "model", "n_train", "error_mean", "error_low", "error_high", "chains"]
    return pd.DataFrame(rows, columns=columns)
