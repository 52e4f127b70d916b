"""The verdict for every pair of models on every data set: whether b overtakes a, and at how many images (N*).

The result is the `crossover.json` of docs/estimators.md: numbers or null, never NaN. Every interval of the
difference holds at all sizes at once; N* (`root` of band.py) is stated only with the verdict `crossover`.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from crossover.analysis.band import (
    Band,
    Interval,
    band,
    confidence_set,
    established,
    infer,
    is_falling,
    p_value,
    root,
    root_probabilities,
    verdict,
)
from crossover.analysis.caveats import (
    OVERLAP,
    about_new_images,
    estimand,
    far_runs,
    holm,
    influence_note,
    near_chance,
    overlap_note,
)
from crossover.analysis.contract import Equivalence, Family, Gap, Influential, Pair, Result, Study
from crossover.analysis.estimate import TINY, Estimate, Floats, estimate, trend, without_replicates
from crossover.analysis.laws import ModelLaws, extrapolate
from crossover.analysis.pairing import Pairing, pair_models, smooth_model
from crossover.analysis.runs import AnalysisError, clip_notes, ordered_pairs, primary_runs, validate_runs
from crossover.analysis.saturation import safe_signs, saturation
from crossover.analysis.sentences import summarise
from crossover.analysis.smooth import Smooth
from crossover.analysis.testset import Predictions

FLAT = 0.1
"""A gap is parallel when its whole band stays within this log error ratio of its mean, at every size."""
McNEMAR = "McNemar's tests compare these trained networks: they leave out the variance of training."
Progress = Callable[[int, int, str], None]
"""Called with pairs done, pairs in total, and the next pair."""


def analyse(
    runs: pd.DataFrame,
    *,
    seed: int,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
    chance: Mapping[str, float] | None = None,
    setting: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Result:
    """Return the studies of crossover.json.

    `predictions` maps run_id to test labels and predictions; `chance` maps a data set to the error of guessing;
    `setting` asks for another budget, augment or recipe than the first of the table.
    """
    if not 0.5 <= confidence < 1:
        raise AnalysisError(f"confidence must be in [0.5, 1); got {confidence}; 0.95 is usual")
    runs, notes = validate_runs(runs, metric)
    studies: list[Study] = []
    done, total = 0, 0
    for _, every in runs.groupby("dataset", sort=False):
        count = every["model"].nunique()
        total += count * (count - 1) // 2
    for dataset, every in runs.groupby("dataset", sort=False):
        part, said, chosen = primary_runs(every, setting)
        said += clip_notes(part, metric)
        models = [str(model) for model in dict.fromkeys(part["model"])]
        if len(models) < 2:
            said.append(f"Only {models[0]} has finished runs: a crossover needs two models.")
        guess = (chance or {}).get(str(dataset))
        laws = {model: ModelLaws(unit_table(part, model, metric), guess) for model in models}
        smoothed = _smoother(part, metric)
        points = saturation(every, part, metric, confidence)
        pairs: list[Pair] = []
        for a, b in ordered_pairs(models):
            if progress:
                progress(done, total, f"{dataset}: {a} and {b}")
            pair = compare(
                part,
                a,
                b,
                seed=seed,
                metric=metric,
                predictions=predictions,
                confidence=confidence,
                smoothed=smoothed,
                chance=guess,
            )
            if pair["verdict"] in ("a_better", "undecided") and pair["gap"] and pair["gap"][-1]["log_error_ratio"] > 0:
                pair["extrapolation"] = extrapolate(laws[a], laws[b], pair["n_max"] or 0)
            pairs.append(pair)
            done += 1
        holm(pairs, 1 - confidence)
        for pair in pairs:
            for row, safe in zip(pair["gap"], safe_signs(pair, points), strict=True):
                row["safe"] = safe
            pair["summary"] = summarise(pair, points, guess)
        studies.append(
            Study(
                dataset=str(dataset),
                setting=chosen,
                chance=guess,
                estimand=estimand(part),
                notes=[*notes, *said, estimand(part)],
                pairs=pairs,
                saturation=points,
                laws=[{"model": model} | law.described() for model, law in laws.items()],
            )
        )
    return Result(metric=metric, confidence=confidence, studies=studies)


def _smoother(part: pd.DataFrame, metric: str) -> Callable[[str], Smooth]:
    """Return a function that smooths the curve of a model once, however many pairs it is in."""
    return cache(lambda model: smooth_model(part, model, metric))


def compare(
    runs: pd.DataFrame,
    a: str,
    b: str,
    *,
    seed: int,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
    smoothed: Callable[[str], Smooth] | None = None,
    chance: float | None = None,
    look_for_influence: bool = True,
) -> Pair:
    """Return one pair of crossover.json, without its extrapolation; `runs` are of one data set and setting."""
    paired = pair_models(runs, a, b, metric, predictions, smoothed)
    bounded, sizes = paired.difference, paired.n
    pools = runs["n_pool"].dropna() if "n_pool" in runs else pd.Series(dtype=float)
    pair = Pair(
        a=a,
        b=b,
        n_min=round(sizes[0]) if len(sizes) else None,
        n_max=round(sizes[-1]) if len(sizes) else None,
        chains=paired.chains,
        interval=paired.kind,
        confidence=confidence,
        verdict="undecided",
        n_star=None,
        ci_low=None,
        ci_high=None,
        p_in_range=None,
        p_beyond=None,
        p_before=None,
        direction=None,
        confidence_set=[[None, None]],
        crossing_of_means=None,
        trend="undecided",
        trend_slope=None,
        trend_low=None,
        trend_high=None,
        gap=_gap(paired, None),
        data_equivalence=[_equivalence(n, against, confidence) for n, against in paired.anchors],
        mcnemar=paired.mcnemar,
        family=Family(pairs=0, p_value=None, holds=None),
        n_pool=round(float(pools.min())) if len(pools) else None,
        overlapping=[round(n) for n in sizes if len(pools) and n > OVERLAP * float(pools.min())],
        new_images=None,
        influential=[],
        near_chance=near_chance(runs, a, b, sizes, metric, chance),
        notes=list(paired.notes),
        extrapolation=None,
        summary="",
    )
    if bounded is None and len(sizes) > 1:
        described = without_replicates(sizes, paired.mean)
        pair["crossing_of_means"] = root(described, is_falling(described))
    elif bounded is not None:
        rng = pair_generator(seed, str(runs["dataset"].iloc[0]), a, b)
        bounds, found = infer(bounded, confidence, rng)
        pair["gap"] = _gap(paired, bounds)
        pair.update(_crossing(bounded, bounds, found, rng))  # type: ignore[typeddict-item]
        pair.update(_trend(bounded, confidence, rng))  # type: ignore[typeddict-item]
        pair["family"] = Family(pairs=1, p_value=p_value(bounds, confidence, bounded.df), holds=None)
        if pair["overlapping"]:
            pair["new_images"] = about_new_images(bounded, float(pools.min()), confidence, rng)
            pair["notes"].append(overlap_note(pair))
        if look_for_influence and paired.kind in ("chains", "unpaired"):
            pair["influential"] = [
                _without(runs, pair, run, typical, seed, metric) for run, typical in far_runs(runs, a, b, metric)
            ]
            pair["notes"] += [influence_note(run, metric) for run in pair["influential"]]
    if paired.mcnemar:
        pair["notes"].append(McNEMAR)
    if len(sizes) == 1:
        pair["notes"].append("One size: neither a crossing nor a trend can be seen; add sizes.")
    pair["summary"] = summarise(pair, (), chance)
    return pair


def _without(
    runs: pd.DataFrame, pair: Pair, run: "pd.Series[Any]", typical: float, seed: int, metric: str
) -> Influential:
    """Return the verdict without one run."""
    rest, level = runs[runs["run_id"] != run["run_id"]], pair["confidence"]
    other = compare(rest, pair["a"], pair["b"], seed=seed, metric=metric, confidence=level, look_for_influence=False)
    return Influential(
        run_id=str(run["run_id"]),
        n_train=round(run["n_train"]),
        error=float(run[metric]),
        typical=typical,
        verdict_without=other["verdict"],
    )


def pair_generator(seed: int, dataset: str, a: str, b: str) -> np.random.Generator:
    """Return the random generator of a pair, independent of the other models."""
    return np.random.default_rng([seed, zlib.crc32("\0".join((dataset, a, b)).encode())])


def _crossing(values: Estimate, bounds: Band, found: list[Interval], rng: np.random.Generator) -> dict[str, Any]:
    """Return the verdict, N* and its confidence set and probabilities."""
    signs = bounds.knot_signs
    falling, between = is_falling(values), established(signs)
    if between is not None:
        falling = bool(signs[between[0]] > 0)
    before, inside, beyond = root_probabilities(values, falling, rng)
    single = found[0] if len(found) == 1 else (None, None)
    return {
        "verdict": verdict(signs),
        "n_star": root(values, falling, between) if between else None,
        "ci_low": single[0],
        "ci_high": single[1],
        "p_in_range": inside,
        "p_beyond": beyond,
        "p_before": before,
        "direction": None if between is None else "b_overtakes_a" if falling else "a_overtakes_b",
        "confidence_set": [list(interval) for interval in found],
        "crossing_of_means": root(values, falling) if len(values.n) > 1 else None,
    }


def _trend(values: Estimate, confidence: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return the trend of the gap, from the point of view of the model ahead at the largest size."""
    if len(values.n) < 2:
        return {"trend": "undecided"}
    middle, low, high = trend(values, confidence)
    centre = np.eye(len(values.n)) - 1 / len(values.n)
    se = np.maximum(np.sqrt(np.diag(centre @ values.cov @ centre)), TINY)
    critical = np.quantile(np.abs(values.deviations(rng) @ centre / se).max(axis=1), confidence)
    apart = float((np.abs(centre @ values.mean) + critical * se).max())
    moved = max(abs(low), abs(high)) * (values.x[-1] - values.x[0])
    kind = "undecided"
    if apart <= FLAT and moved <= 2 * FLAT:
        kind = "parallel"
    elif low * high > 0 and values.mean[-1] != 0:
        kind = "widening" if middle * values.mean[-1] > 0 else "closing"
    return {"trend": kind, "trend_slope": middle, "trend_low": low, "trend_high": high}


def _gap(paired: Pairing, bounds: Band | None) -> list[Gap]:
    half: Floats | list[None] = [None] * len(paired.n) if bounds is None else bounds.half_at_knots
    return [
        Gap(
            n_train=round(n),
            log_error_ratio=float(d),
            ci_low=None if h is None else float(d - h),
            ci_high=None if h is None else float(d + h),
            accuracy_gap=float(gap),
            safe=None,
        )
        for n, d, h, gap in zip(paired.n, paired.mean, half, paired.accuracy_gap, strict=True)
    ]


def _equivalence(n: float, against: Estimate | None, confidence: float) -> Equivalence:
    """Return how many times n model b needs for the error of a at n; null where its curve does not reach it.

    The interval is for this size alone: t critical value, inverted like the band of the difference.
    """
    factor: float | None = None
    low: float | None = None
    high: float | None = None
    if against is not None:
        crossing = root(against, falling=True) if len(against.n) > 1 else None
        factor = None if crossing is None else crossing / n
        if against.df > 0:
            found = confidence_set(band(against, float(stats.t.ppf((1 + confidence) / 2, against.df))))
            ends: Interval = found[0][0], found[-1][1]
            low, high = (None if end is None else end / n for end in ends)
    return Equivalence(n_train=round(n), factor=factor, ci_low=low, ci_high=high)


def unit_table(runs: pd.DataFrame, model: str, metric: str) -> pd.DataFrame:
    """Return the mean metric of a model over seeds: one row per chain (per seed, if there is one chain), n across."""
    part = runs[runs["model"] == model]
    unit = "chain" if part["chain"].nunique() > 1 or part["seed"].nunique() == 1 else "seed"
    return part.pivot_table(index=unit, columns="n_train", values=metric, aggfunc="mean")


def curve_summary(
    runs: pd.DataFrame,
    *,
    metric: str = "test_error",
    confidence: float = 0.95,
    setting: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the geometric mean of the error over chains with its t interval by dataset, model and n_train.

    The interval is for one size; it is NaN without replicates.
    """
    runs, _ = validate_runs(runs, metric)
    rows: list[dict[str, Any]] = []
    for dataset, study in runs.groupby("dataset", sort=False):
        chosen = primary_runs(study, setting)[0]
        for model in dict.fromkeys(chosen["model"]):
            table = unit_table(chosen, model, metric)
            sizes = table.columns.to_numpy(float)
            logs = estimate(sizes, np.log(table.to_numpy()))
            half = np.full(len(sizes), np.nan) if logs is None else logs.se * stats.t.ppf((1 + confidence) / 2, logs.df)
            means = np.exp(np.log(table).mean()).to_numpy()
            for n, error, h, chains in zip(sizes, means, half, table.notna().sum(), strict=True):
                ends = {"error_low": error * np.exp(-h), "error_high": error * np.exp(h)}
                row = {"dataset": dataset, "model": model, "n_train": round(n), "error_mean": error}
                rows.append(row | ends | {"chains": int(chains)})
    columns = ["dataset", "model", "n_train", "error_mean", "error_low", "error_high", "chains"]
    return pd.DataFrame(rows, columns=columns)
