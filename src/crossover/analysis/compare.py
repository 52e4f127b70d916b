"""The comparison of two models: verdict, N*, gap, data-equivalence and trend of a pair.

Every interval of the difference holds at all sizes at once; N* is stated only with the verdict `crossover`.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace

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
    far_runs,
    influence_note,
    near_chance,
    overlap_note,
)
from crossover.analysis.contract import Equivalence, Family, Gap, Influential, Pair
from crossover.analysis.estimate import TINY, Estimate, Floats, Smooth, trend, without_replicates
from crossover.analysis.pairing import Pairing, pair_models
from crossover.analysis.runs import Method
from crossover.analysis.sentences import summarise

FLAT = 0.1
"""A gap is parallel when its whole band stays within this log error ratio of its mean, at every size."""
McNEMAR = "McNemar's tests compare these trained networks: they leave out the variance of training."


def compare(
    runs: pd.DataFrame,
    a: str,
    b: str,
    method: Method,
    *,
    smoothed: Callable[[str], Smooth] | None = None,
    chance: float | None = None,
    look_for_influence: bool = True,
) -> Pair:
    """Return one pair of crossover.json, without its extrapolation; `runs` are of one data set and setting."""
    metric, confidence = method.metric, method.confidence
    paired = pair_models(runs, a, b, method, smoothed)
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
        rng = pair_generator(method.seed, str(runs["dataset"].iloc[0]), a, b)
        bounds, found = infer(bounded, confidence, rng)
        pair["gap"] = _gap(paired, bounds)
        _enter_crossing(pair, bounded, bounds, found, rng)
        _enter_trend(pair, bounded, rng)
        pair["family"] = Family(pairs=1, p_value=p_value(bounds, confidence, bounded.df), holds=None)
        if pair["overlapping"]:
            pair["new_images"] = about_new_images(bounded, float(pools.min()), confidence, rng)
            pair["notes"].append(overlap_note(pair))
        if look_for_influence and paired.kind in ("chains", "unpaired"):
            pair["influential"] = [
                _without(runs, pair, method, run, typical) for run, typical in far_runs(runs, a, b, metric)
            ]
            pair["notes"] += [influence_note(run, metric) for run in pair["influential"]]
    if paired.mcnemar:
        pair["notes"].append(McNEMAR)
    if len(sizes) == 1:
        pair["notes"].append("One size: neither a crossing nor a trend can be seen; add sizes.")
    pair["summary"] = summarise(pair, (), chance)
    return pair


def _without(runs: pd.DataFrame, pair: Pair, method: Method, run: pd.Series, typical: float) -> Influential:
    """Return the verdict without one run."""
    rest, quick = runs[runs["run_id"] != run["run_id"]], replace(method, predictions={})
    other = compare(rest, pair["a"], pair["b"], quick, look_for_influence=False)
    return Influential(
        run_id=str(run["run_id"]),
        n_train=round(run["n_train"]),
        error=float(run[method.metric]),
        typical=typical,
        verdict_without=other["verdict"],
    )


def pair_generator(seed: int, dataset: str, a: str, b: str) -> np.random.Generator:
    """Return the random generator of a pair, independent of the other models."""
    return np.random.default_rng([seed, zlib.crc32("\0".join((dataset, a, b)).encode())])


def _enter_crossing(
    pair: Pair, values: Estimate, bounds: Band, found: list[Interval], rng: np.random.Generator
) -> None:
    """Enter the verdict, N*, its confidence set and probabilities."""
    signs = bounds.knot_signs
    falling, between = is_falling(values), established(signs)
    if between is not None:
        falling = bool(signs[between[0]] > 0)
        pair["n_star"] = root(values, falling, between)
        pair["direction"] = "b_overtakes_a" if falling else "a_overtakes_b"
    pair["verdict"] = verdict(signs)
    pair["p_before"], pair["p_in_range"], pair["p_beyond"] = root_probabilities(values, falling, rng)
    if len(found) == 1:
        pair["ci_low"], pair["ci_high"] = found[0]
    pair["confidence_set"] = [list(interval) for interval in found]
    pair["crossing_of_means"] = root(values, falling) if len(values.n) > 1 else None


def _enter_trend(pair: Pair, values: Estimate, rng: np.random.Generator) -> None:
    """Enter the trend of the gap, from the point of view of the model ahead at the largest size."""
    if len(values.n) < 2:
        return
    middle, low, high = trend(values, pair["confidence"])
    centre = np.eye(len(values.n)) - 1 / len(values.n)
    se = np.maximum(np.sqrt(np.diag(centre @ values.cov @ centre)), TINY)
    critical = np.quantile(np.abs(values.deviations(rng) @ centre / se).max(axis=1), pair["confidence"])
    apart = float((np.abs(centre @ values.mean) + critical * se).max())
    moved = max(abs(low), abs(high)) * (values.x[-1] - values.x[0])
    if apart <= FLAT and moved <= 2 * FLAT:
        pair["trend"] = "parallel"
    elif low * high > 0 and values.mean[-1] != 0:
        pair["trend"] = "widening" if middle * values.mean[-1] > 0 else "closing"
    pair["trend_slope"], pair["trend_low"], pair["trend_high"] = middle, low, high


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
