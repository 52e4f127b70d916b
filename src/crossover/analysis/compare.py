"""The comparison of two models: verdict, N*, gap, data-equivalence and trend of a pair.

Every interval of the difference holds at all sizes at once; N* is stated only with the verdict `crossover`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from crossover.analysis import band
from crossover.analysis.contract import AmongPairs, Equivalence, Gap, Influential, NewImages, Pair
from crossover.analysis.estimate import TINY, Estimate, Floats, for_new_images, t_value, trend
from crossover.analysis.pairing import pair_models
from crossover.analysis.runs import Method
from crossover.analysis.sentences import named_verdict, overlap_note, summarise
from crossover.record import title

FLAT = 0.1
"""A gap is parallel when its whole band stays within this log error ratio of its mean, at every size."""
OVERLAP = 0.2
"""Share of the pool above which the chains of a size hold so many of the same images that it is marked."""
NEAR_CHANCE = 0.85
"""Share of the error of guessing above which a model is near chance."""
FAR, FAR_LOG = 8.0, 0.4
"""A run is far from its replicates: by so many robust standard deviations, and by so much in log error."""
MOST_INFLUENTIAL = 3
McNEMAR = "McNemar's tests compare these trained networks: they leave out the variance of training."


def compare(
    runs: pd.DataFrame, a: str, b: str, method: Method, *, chance: float | None = None, influence: bool = True
) -> Pair:
    """Return one pair of crossover.json from runs of one data set and setting; its extrapolation is left open."""
    paired = pair_models(runs, a, b, method)
    values, confidence = paired.difference, method.confidence
    sizes = [round(n) for n in values.n]
    pool = float(runs["n_pool"].min()) if "n_pool" in runs else np.nan
    rng = pair_generator(method.seed, str(runs["dataset"].iloc[0]), a, b)
    bounds: band.Band | None = None
    found: list[band.Interval] = [(None, None)]
    ends: list[band.Interval] = found * len(sizes)
    signs: Floats = np.zeros(1)
    if values.df:
        bounds, found = band.infer(values, confidence, rng)
        half, signs = bounds.critical * values.se, bounds.knot_signs
        ends = list(zip((values.mean - half).tolist(), (values.mean + half).tolist(), strict=True))
    changes = band.changes(signs)
    between = changes[0] if len(changes) == 1 else None
    falling = between is None or bool(signs[between[0]] > 0)
    before, inside, beyond = band.root_probabilities(values, falling, rng) if bounds else (None, None, None)
    kind, slope, slope_low, slope_high = _trend(values, confidence, rng)
    gap = zip(sizes, values.mean.tolist(), ends, paired.accuracy_gap.tolist(), strict=True)
    pair = Pair(
        a=a,
        b=b,
        n_min=min(sizes, default=None),
        n_max=max(sizes, default=None),
        chains=paired.chains,
        interval=paired.kind,
        confidence=confidence,
        verdict=band.verdict(signs),
        n_star=None if between is None else band.root(values, falling, between),
        ci_low=found[0][0] if len(found) == 1 else None,
        ci_high=found[0][1] if len(found) == 1 else None,
        p_in_range=inside,
        p_beyond=beyond,
        p_before=before,
        direction=None if between is None else "b_overtakes_a" if falling else "a_overtakes_b",
        confidence_set=[list(interval) for interval in found],
        crossing_of_means=band.root(values, None if between is None else falling),
        trend=kind,
        trend_slope=slope,
        trend_low=slope_low,
        trend_high=slope_high,
        gap=[
            Gap(n_train=n, log_error_ratio=ratio, ci_low=low, ci_high=high, accuracy_gap=points, safe=None)
            for n, ratio, (low, high), points in gap
        ],
        data_equivalence=[_equivalence(n, against, confidence) for n, against in paired.anchors],
        mcnemar=paired.mcnemar,
        family=AmongPairs(pairs=0, p_value=None, holds=None),
        n_pool=None if np.isnan(pool) else round(pool),
        overlapping=[n for n in sizes if n > OVERLAP * pool],
        new_images=None,
        influential=[],
        near_chance=_near_chance(runs, a, b, sizes, method.metric, chance),
        notes=paired.notes,
        extrapolation=None,
        summary="",
    )
    if bounds is not None:
        pair["family"] = AmongPairs(pairs=1, p_value=band.p_value(bounds, confidence, values.df), holds=None)
        if pair["overlapping"]:
            pair["new_images"] = _about_new_images(values, pool, confidence, rng)
            pair["notes"].append(overlap_note(pair))
        if influence and paired.kind in ("chains", "unpaired"):
            pair["influential"] = _influential(runs, a, b, method)
    for run in pair["influential"]:
        pair["notes"].append(
            f"Run {run['run_id']} has a {title(method.metric)} of {run['error']:.3g} where the other chains have"
            f" {run['typical']:.3g}; without it the verdict is: {named_verdict(a, b, run['verdict_without'])}."
        )
    if paired.mcnemar:
        pair["notes"].append(McNEMAR)
    if len(sizes) == 1:
        pair["notes"].append("One size: neither a crossing nor a trend can be seen; add sizes.")
    pair["summary"] = summarise(pair, (), chance)
    return pair


def pair_generator(seed: int, dataset: str, a: str, b: str) -> np.random.Generator:
    """Return the random generator of a pair, independent of the other models."""
    return np.random.default_rng([seed, zlib.crc32("\0".join((dataset, a, b)).encode())])


def _trend(
    values: Estimate, confidence: float, rng: np.random.Generator
) -> tuple[Literal["closing", "parallel", "widening", "undecided"], float | None, float | None, float | None]:
    """Return the trend of the gap, and its slope with an interval."""
    if not values.df or len(values.n) < 2:
        return "undecided", None, None, None
    slope, low, high = trend(values, confidence)
    centre = np.eye(len(values.n)) - 1 / len(values.n)
    se = np.maximum(np.sqrt(np.diag(centre @ values.cov @ centre)), TINY)
    critical = np.quantile(np.abs(values.deviations(rng) @ centre / se).max(axis=1), confidence)
    apart = float((np.abs(centre @ values.mean) + critical * se).max())
    if apart <= FLAT and max(abs(low), abs(high)) * (values.x[-1] - values.x[0]) <= 2 * FLAT:
        return "parallel", slope, low, high
    if low * high <= 0 or values.mean[-1] == 0:
        return "undecided", slope, low, high
    return "widening" if slope * values.mean[-1] > 0 else "closing", slope, low, high


def _equivalence(n: float, against: Estimate | None, confidence: float) -> Equivalence:
    """Return how many times n model b needs for the error of a at n, with an interval for this size alone."""
    ends: list[float | None] = [None, None, None]
    if against is not None:
        ends[0] = band.root(against, True)
        if against.df > 0:
            found = band.confidence_set(band.band(against, t_value(confidence, against.df)))
            ends[1:] = found[0][0], found[-1][1]
    factor, low, high = (None if end is None else end / n for end in ends)
    return Equivalence(n_train=round(n), factor=factor, ci_low=low, ci_high=high)


def _near_chance(
    runs: pd.DataFrame, a: str, b: str, sizes: Sequence[int], metric: str, chance: float | None
) -> list[int]:
    if chance is None or not metric.endswith("error"):
        return []
    best = runs[runs["model"].isin([a, b])].groupby(["n_train", "model"])[metric].mean().groupby("n_train").min()
    return [n for n in sizes if best.get(n, 0.0) >= NEAR_CHANCE * chance]


def _about_new_images(values: Estimate, pool: float, confidence: float, rng: np.random.Generator) -> NewImages | None:
    wider = for_new_images(values, np.minimum(values.n / pool, 1.0))
    if wider is None:
        return None
    bounds, found = band.infer(wider, confidence, rng)
    low, high = found[0] if len(found) == 1 else (None, None)
    return NewImages(n_max=round(wider.n[-1]), verdict=band.verdict(bounds.knot_signs), ci_low=low, ci_high=high)


def _influential(runs: pd.DataFrame, a: str, b: str, method: Method) -> list[Influential]:
    """Return the runs far from the other chains of their model and size, the farthest first."""
    found = []
    for model in (a, b):
        part = runs[runs["model"] == model]
        logs = np.log(part[method.metric])
        typical = pd.concat([_of_others(same) for _, same in logs.groupby(part["n_train"])])
        away = (logs - typical).abs()
        limit = max(FAR * 1.4826 * away.median(), FAR_LOG)
        found.append(part.assign(away=away, typical=np.exp(typical))[away > limit])
    farthest = pd.concat(found).sort_values("away", ascending=False, kind="stable")[:MOST_INFLUENTIAL]
    alone = replace(method, predictions={})
    return [
        Influential(
            run_id=str(run["run_id"]),
            n_train=round(run["n_train"]),
            error=float(run[method.metric]),
            typical=float(run["typical"]),
            verdict_without=compare(runs[runs["run_id"] != run["run_id"]], a, b, alone, influence=False)["verdict"],
        )
        for run in farthest.to_dict("records")
    ]


def _of_others(logs: "pd.Series[float]") -> "pd.Series[float]":
    """Return for each value the median of the others, or itself where fewer than two others are there."""
    return logs if len(logs) < 3 else pd.Series({i: logs.drop(i).median() for i in logs.index})
