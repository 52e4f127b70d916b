"""At how many training images does model b overtake model a? The verdict of every pair of every data set.

The result is the `crossover.json` of docs/estimators.md: numbers or null, never NaN. Every interval of the
difference holds at all sizes at once; N* is stated only with the verdict `crossover`.
"""

import zlib
from collections.abc import Mapping
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
    root,
    root_probabilities,
    slope,
    verdict,
)
from crossover.analysis.estimate import Estimate, Floats, estimate, without_replicates
from crossover.analysis.laws import ModelLaws, extrapolate
from crossover.analysis.pairing import Pairing, Predictions, pair_models
from crossover.analysis.runs import AnalysisError, clip_notes, ordered_pairs, primary_runs, validate_runs
from crossover.analysis.sentences import summarise

__all__ = ["AnalysisError", "analyse", "compare", "curve_summary"]

FLAT = 0.1
"""A gap is parallel when its whole interval says that the log error ratio changes by less than this over the range."""


def analyse(
    runs: pd.DataFrame,
    *,
    seed: int,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
    chance: Mapping[str, float] | None = None,
    setting: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the studies of crossover.json.

    `predictions` maps run_id to test labels and predictions; `chance` maps a data set to the error of guessing;
    `setting` asks for another budget, augment or recipe than the first of the table.
    """
    if not 0.5 <= confidence < 1:
        raise AnalysisError(f"confidence must be in [0.5, 1); got {confidence}; 0.95 is usual")
    runs, notes = validate_runs(runs, metric)
    studies = []
    for dataset, part in runs.groupby("dataset", sort=False):
        part, said, chosen = primary_runs(part, setting)
        said += clip_notes(part, metric)
        models = [str(model) for model in dict.fromkeys(part["model"])]
        if len(models) < 2:
            said.append(f"Only {models[0]} has finished runs: a crossover needs two models.")
        guess = (chance or {}).get(str(dataset))
        laws = {model: ModelLaws(unit_table(part, model, metric), guess) for model in models}
        pairs = []
        for a, b in ordered_pairs(models):
            pair = compare(part, a, b, seed=seed, metric=metric, predictions=predictions, confidence=confidence)
            pair["extrapolation"] = None
            if pair["verdict"] in ("a_better", "undecided") and pair["gap"] and pair["gap"][-1]["log_error_ratio"] > 0:
                pair["extrapolation"] = extrapolate(laws[a], laws[b], pair["n_max"])
            pairs.append(pair)
        study = {"dataset": str(dataset), "setting": chosen, "chance": guess, "notes": notes + said, "pairs": pairs}
        studies.append(study | {"laws": [{"model": model} | law.described() for model, law in laws.items()]})
    return {"metric": metric, "confidence": confidence, "studies": studies}


def compare(
    runs: pd.DataFrame,
    a: str,
    b: str,
    *,
    seed: int,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Return one pair of crossover.json, without its extrapolation; `runs` are of one data set and setting."""
    paired = pair_models(runs, a, b, metric, predictions)
    bounded, sizes = paired.difference, paired.n
    pair: dict[str, Any] = {
        "a": a,
        "b": b,
        "n_min": round(sizes[0]) if len(sizes) else None,
        "n_max": round(sizes[-1]) if len(sizes) else None,
        "chains": paired.chains,
        "verdict": "undecided",
        **dict.fromkeys(("n_star", "ci_low", "ci_high", "p_in_range", "p_beyond", "p_before", "direction")),
        "confidence_set": [[None, None]],
        "crossing_of_means": None,
        "trend": "undecided",
        **dict.fromkeys(("trend_slope", "trend_low", "trend_high")),
        "gap": _gap(paired, None),
        "data_equivalence": [_equivalence(n, against, confidence) for n, against in paired.anchors],
        "mcnemar": paired.mcnemar,
        "notes": list(paired.notes),
    }
    if bounded is None and len(sizes) > 1:
        described = without_replicates(sizes, paired.mean)
        pair["crossing_of_means"] = root(described, is_falling(described))
    elif bounded is not None:
        rng = pair_generator(seed, str(runs["dataset"].iloc[0]), a, b)
        bounds, found = infer(bounded, confidence, rng)
        pair |= {"gap": _gap(paired, bounds), **_crossing(bounded, bounds, found, rng), **_trend(bounded, confidence)}
    if len(sizes) == 1:
        pair["notes"].append("One size: neither a crossing nor a trend can be seen; add sizes.")
    return pair | {"summary": summarise(pair, confidence)}


def pair_generator(seed: int, dataset: str, a: str, b: str) -> np.random.Generator:
    """Return the random draws of a pair: its own, so that no other model changes them."""
    return np.random.default_rng([seed, zlib.crc32("\0".join((dataset, a, b)).encode())])


def _crossing(values: Estimate, bounds: Band, found: list[Interval], rng: np.random.Generator) -> dict[str, Any]:
    """Return the verdict, N* and what is known about its place."""
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


def _trend(values: Estimate, confidence: float) -> dict[str, Any]:
    """Return how the gap moves, seen from the model ahead at the largest size."""
    if len(values.n) < 2:
        return {"trend": "undecided"}
    middle, low, high = slope(values, float(stats.t.ppf((1 + confidence) / 2, values.df)))
    flat = FLAT / (values.x[-1] - values.x[0])
    trend = "undecided"
    if max(abs(low), abs(high)) <= flat:
        trend = "parallel"
    elif low * high > 0 and values.mean[-1] != 0:
        trend = "widening" if middle * values.mean[-1] > 0 else "closing"
    return {"trend": trend, "trend_slope": middle, "trend_low": low, "trend_high": high}


def _gap(paired: Pairing, bounds: Band | None) -> list[dict[str, Any]]:
    half: Floats | list[None] = [None] * len(paired.n) if bounds is None else bounds.half_at_knots
    return [
        {
            "n_train": round(n),
            "log_error_ratio": float(d),
            "ci_low": None if h is None else float(d - h),
            "ci_high": None if h is None else float(d + h),
            "accuracy_gap": float(gap),
        }
        for n, d, h, gap in zip(paired.n, paired.mean, half, paired.accuracy_gap, strict=True)
    ]


def _equivalence(n: float, against: Estimate | None, confidence: float) -> dict[str, Any]:
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
    return {"n_train": round(n), "factor": factor, "ci_low": low, "ci_high": high}


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
    """Return the mean error over chains with its t interval (in log error) by dataset, model and n_train.

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
            for n, error, h, chains in zip(sizes, table.mean().to_numpy(), half, table.notna().sum(), strict=True):
                ends = {"error_low": error * np.exp(-h), "error_high": error * np.exp(h)}
                row = {"dataset": dataset, "model": model, "n_train": round(n), "error_mean": error}
                rows.append(row | ends | {"chains": int(chains)})
    columns = ["dataset", "model", "n_train", "error_mean", "error_low", "error_high", "chains"]
    return pd.DataFrame(rows, columns=columns)
