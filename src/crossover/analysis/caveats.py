"""Caveats that belong with a verdict: the pool, the number of pairs, outlying runs, models near chance."""

import numpy as np
import pandas as pd

from crossover.analysis.band import infer, verdict
from crossover.analysis.contract import Influential, NewImages, Pair
from crossover.analysis.estimate import Estimate, Floats, for_new_images
from crossover.analysis.runs import listed

OVERLAP = 0.2
"""Share of the pool above which the chains of a size hold so many of the same images that it is marked."""
NEAR_CHANCE = 0.85
"""Share of the error of guessing above which a model is near chance."""
FAR, FAR_LOG = 8.0, 0.4
"""A run is far from its replicates: by so many robust standard deviations, and by so much in log error."""
MOST_INFLUENTIAL = 3


def estimand(part: pd.DataFrame) -> str:
    known = "n_pool" in part and part["n_pool"].notna().any()
    pool = f"one pool of {part['n_pool'].min():,.0f} images" if known else "their pool, whose size is not recorded"
    return (
        f"The intervals are about training again on other subsets of {pool}, tested on other images of the same kind."
    )


def holm(pairs: list[Pair], level: float) -> None:
    """Enter whether each verdict holds among all pairs of a data set (Holm 1979): at most `level` to be wrong once."""
    tested = sorted((pair for pair in pairs if pair["family"]["p_value"] is not None), key=_p_of)
    holds = True
    for i, pair in enumerate(tested):
        holds = holds and _p_of(pair) <= level / (len(tested) - i)
        pair["family"]["pairs"] = len(tested)
        if pair["verdict"] != "undecided":
            pair["family"]["holds"] = holds


def _p_of(pair: Pair) -> float:
    return pair["family"]["p_value"] or 0.0


def near_chance(runs: pd.DataFrame, a: str, b: str, sizes: Floats, metric: str, chance: float | None) -> list[int]:
    if chance is None or not metric.endswith("error"):
        return []
    best = runs[runs["model"].isin([a, b])].groupby(["n_train", "model"])[metric].mean().groupby("n_train").min()
    return [round(n) for n in sizes if n in best.index and best[n] >= NEAR_CHANCE * chance]


def about_new_images(values: Estimate, pool: float, confidence: float, rng: np.random.Generator) -> NewImages | None:
    wider = for_new_images(values, np.minimum(values.n / pool, 1.0))
    if wider is None:
        return None
    bounds, found = infer(wider, confidence, rng)
    low, high = found[0] if len(found) == 1 else (None, None)
    return NewImages(n_max=round(wider.n[-1]), verdict=verdict(bounds.knot_signs), ci_low=low, ci_high=high)


def overlap_note(pair: Pair) -> str:
    sizes = listed(f"{n:,}" for n in pair["overlapping"])
    start = (
        f"At {sizes} images the chains hold many of the same images (above a fifth of the pool of {pair['n_pool']:,}):"
        " the intervals are about this pool."
    )
    wider = pair["new_images"]
    if wider is None:
        return f"{start} For new images no interval can be given."
    ends = " to ".join("?" if end is None else f"{end:,.0f}" for end in (wider["ci_low"], wider["ci_high"]))
    return f"{start} For new images, up to {wider['n_max']:,}: {wider['verdict'].replace('_', ' ')}, N* within {ends}."


def far_runs(runs: pd.DataFrame, a: str, b: str, metric: str) -> list[tuple[pd.Series, float]]:
    """Return runs far from the other chains of their model and size, the farthest first, and what those have."""
    far: list[tuple[float, pd.Series, float]] = []
    for model in (a, b):
        part = runs[runs["model"] == model]
        logs, sizes = np.log(part[metric].to_numpy(float)), part["n_train"].to_numpy()
        typical = logs.copy()
        for i, n in enumerate(sizes):
            others = (sizes == n) & (np.arange(len(logs)) != i)
            if others.sum() > 1:
                typical[i] = np.median(logs[others])
        away = np.abs(logs - typical)
        limit = max(FAR * 1.4826 * float(np.median(away)), FAR_LOG)
        far += [(float(away[i]), part.iloc[i], float(np.exp(typical[i]))) for i in np.flatnonzero(away > limit)]
    far.sort(key=lambda one: -one[0])
    return [(run, typical) for _, run, typical in far[:MOST_INFLUENTIAL]]


def influence_note(run: Influential, metric: str) -> str:
    return (
        f"Run {run['run_id']} has a {metric} of {run['error']:.3g} where the other chains have {run['typical']:.3g};"
        f" without it the verdict is: {run['verdict_without'].replace('_', ' ')}."
    )
