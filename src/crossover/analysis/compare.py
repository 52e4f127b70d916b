"""The comparison of two models: verdict, N*, gap, data-equivalence and trend of a pair.

Every interval of the difference holds at all sizes at once; N* is stated only with the verdict `crossover`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from crossover.analysis import band
from crossover.analysis.contract import Crossing, Equivalence, Family, Gap, Influential, NewImages, Pair, Trend
from crossover.analysis.estimate import TINY, Estimate, for_new_images, t_value, trend
from crossover.analysis.pairing import Pairing, pair_models
from crossover.analysis.runs import Method, listed
from crossover.analysis.sentences import named_verdict, summarise

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
    rng = pair_generator(method.seed, str(runs["dataset"].iloc[0]), a, b)
    bounds: band.Band | None = None
    found: list[band.Interval] = [(None, None)]
    if values.df:
        bounds, found = band.infer(values, confidence, rng)
    pool = float(runs["n_pool"].min()) if "n_pool" in runs else np.nan
    pair = Pair(
        a=a,
        b=b,
        n_min=sizes[0] if sizes else None,
        n_max=sizes[-1] if sizes else None,
        chains=paired.chains,
        interval=paired.kind,
        confidence=confidence,
        **_crossing(values, bounds, found, rng),
        **_trend(values, confidence, rng),
        gap=_gap(paired, bounds),
        data_equivalence=[_equivalence(n, against, confidence) for n, against in paired.anchors],
        mcnemar=paired.mcnemar,
        family=Family(pairs=0 if bounds is None else 1, p_value=None, holds=None),
        n_pool=None if np.isnan(pool) else round(pool),
        overlapping=[n for n in sizes if n > OVERLAP * pool],
        new_images=None,
        influential=[],
        near_chance=near_chance(runs, a, b, sizes, method.metric, chance),
        notes=list(paired.notes),
        extrapolation=None,
        summary="",
    )
    if bounds is not None:
        pair["family"]["p_value"] = band.p_value(bounds, confidence, values.df)
        if pair["overlapping"]:
            pair["new_images"] = _about_new_images(values, pool, confidence, rng)
            pair["notes"].append(overlap_note(pair))
        if influence and paired.kind in ("chains", "unpaired"):
            pair["influential"] = _influential(runs, a, b, method)
            pair["notes"] += [
                f"Run {run['run_id']} has a {method.metric.replace('_', ' ')} of {run['error']:.3g} where the other"
                f" chains have {run['typical']:.3g}; without it the verdict is:"
                f" {named_verdict(a, b, run['verdict_without'])}."
                for run in pair["influential"]
            ]
    if paired.mcnemar:
        pair["notes"].append(McNEMAR)
    if len(sizes) == 1:
        pair["notes"].append("One size: neither a crossing nor a trend can be seen; add sizes.")
    pair["summary"] = summarise(pair, (), chance)
    return pair


def pair_generator(seed: int, dataset: str, a: str, b: str) -> np.random.Generator:
    """Return the random generator of a pair, independent of the other models."""
    return np.random.default_rng([seed, zlib.crc32("\0".join((dataset, a, b)).encode())])


def _crossing(
    values: Estimate, bounds: band.Band | None, found: list[band.Interval], rng: np.random.Generator
) -> Crossing:
    """Return the verdict, N*, its confidence set and probabilities."""
    signs = np.zeros(1) if bounds is None else bounds.knot_signs
    crossings = band.changes(signs)
    between = crossings[0] if len(crossings) == 1 else None
    falling = between is None or bool(signs[between[0]] > 0)
    chances = None if bounds is None else band.root_probabilities(values, falling, rng)
    before, inside, beyond = chances or (None, None, None)
    low, high = found[0] if len(found) == 1 else (None, None)
    means = None
    if len(values.n) > 1:
        means = band.root(values, band.is_falling(values) if between is None else falling)
    return Crossing(
        verdict=band.verdict(signs),
        n_star=None if between is None else band.root(values, falling, between),
        ci_low=low,
        ci_high=high,
        p_in_range=inside,
        p_beyond=beyond,
        p_before=before,
        direction=None if between is None else "b_overtakes_a" if falling else "a_overtakes_b",
        confidence_set=[list(interval) for interval in found],
        crossing_of_means=means,
    )


def _trend(values: Estimate, confidence: float, rng: np.random.Generator) -> Trend:
    if not values.df or len(values.n) < 2:
        return Trend(trend="undecided", trend_slope=None, trend_low=None, trend_high=None)
    middle, low, high = trend(values, confidence)
    centre = np.eye(len(values.n)) - 1 / len(values.n)
    se = np.maximum(np.sqrt(np.diag(centre @ values.cov @ centre)), TINY)
    critical = np.quantile(np.abs(values.deviations(rng) @ centre / se).max(axis=1), confidence)
    apart = float((np.abs(centre @ values.mean) + critical * se).max())
    found = Trend(trend="undecided", trend_slope=middle, trend_low=low, trend_high=high)
    if apart <= FLAT and max(abs(low), abs(high)) * (values.x[-1] - values.x[0]) <= 2 * FLAT:
        found["trend"] = "parallel"
    elif low * high > 0 and values.mean[-1] != 0:
        found["trend"] = "widening" if middle * values.mean[-1] > 0 else "closing"
    return found


def _gap(paired: Pairing, bounds: band.Band | None) -> list[Gap]:
    values = paired.difference
    half = [None] * len(values.n) if bounds is None else bounds.half_at_knots
    return [
        Gap(
            n_train=round(n),
            log_error_ratio=float(d),
            ci_low=None if h is None else float(d - h),
            ci_high=None if h is None else float(d + h),
            accuracy_gap=float(gap),
            safe=None,
        )
        for n, d, h, gap in zip(values.n, values.mean, half, paired.accuracy_gap, strict=True)
    ]


def _equivalence(n: float, against: Estimate | None, confidence: float) -> Equivalence:
    """Return how many times n model b needs for the error of a at n, with an interval for this size alone."""
    ends: list[float | None] = [None, None, None]
    if against is not None:
        ends[0] = band.root(against, falling=True) if len(against.n) > 1 else None
        if against.df > 0:
            found = band.confidence_set(band.band(against, t_value(confidence, against.df)))
            ends[1:] = found[0][0], found[-1][1]
    factor, low, high = (None if end is None else end / n for end in ends)
    return Equivalence(n_train=round(n), factor=factor, ci_low=low, ci_high=high)


def near_chance(
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


def overlap_note(pair: Pair) -> str:
    sizes = listed(f"{n:,}" for n in pair["overlapping"])
    start = (
        f"At {sizes} images the chains hold many of the same images (above a fifth of the pool of {pair['n_pool']:,}):"
        " the intervals are about this pool."
    )
    wider = pair["new_images"]
    if wider is None:
        return f"{start} For new images no interval can be given."
    said = named_verdict(pair["a"], pair["b"], wider["verdict"])
    low, high = (None if end is None else f"{end:,.0f}" for end in (wider["ci_low"], wider["ci_high"]))
    if low and high:
        said += f", N* within {low} to {high}"
    elif low or high:
        said += f", N* above {low} or never" if low else f", N* below {high} or never"
    return f"{start} For new images, up to {wider['n_max']:,}: {said}."


def _influential(runs: pd.DataFrame, a: str, b: str, method: Method) -> list[Influential]:
    """Return the runs far from the other chains of their model and size, the farthest first."""
    far: list[tuple[float, Influential]] = []
    for model in (a, b):
        part = runs[runs["model"] == model]
        logs, sizes = np.log(part[method.metric].to_numpy(float)), part["n_train"].to_numpy()
        typical = logs.copy()
        for i, n in enumerate(sizes):
            others = (sizes == n) & (np.arange(len(logs)) != i)
            if others.sum() > 1:
                typical[i] = np.median(logs[others])
        away = np.abs(logs - typical)
        limit = max(FAR * 1.4826 * float(np.median(away)), FAR_LOG)
        for i in map(int, np.flatnonzero(away > limit)):
            found = Influential(
                run_id=str(part["run_id"].iloc[i]),
                n_train=round(sizes[i]),
                error=float(part[method.metric].iloc[i]),
                typical=float(np.exp(typical[i])),
                verdict_without="",
            )
            far.append((float(away[i]), found))
    worst = [found for _, found in sorted(far, key=lambda one: -one[0])[:MOST_INFLUENTIAL]]
    for run in worst:
        rest = runs[runs["run_id"] != run["run_id"]]
        run["verdict_without"] = compare(rest, a, b, replace(method, predictions={}), influence=False)["verdict"]
    return worst
