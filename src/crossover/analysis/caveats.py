"""Caveats that belong with a verdict: budget or data, the pool, the number of pairs, outlying runs, near chance."""

import numpy as np
import pandas as pd
from scipy import stats

from crossover.analysis.band import infer, verdict
from crossover.analysis.contract import Influential, NewImages, Pair, Saturation, State
from crossover.analysis.estimate import Estimate, Floats, estimate, for_new_images
from crossover.analysis.runs import listed

OVERLAP = 0.2
"""Share of the pool above which the chains of a size hold so many of the same images that it is marked."""
NEAR_CHANCE = 0.85
"""Share of the error of guessing above which a model is near chance."""
FAR, FAR_LOG = 8.0, 0.4
"""A run is far from its replicates: by so many robust standard deviations, and by so much in log error."""
MOST_INFLUENTIAL = 3
TOLERANCE = 0.05
"""Largest gain in log error from the last doubling of the budget that counts as small; declared beforehand."""
RATIO = (0.45, 0.55)
"""Images seen by a twin, as a share of its run's: half, up to rounding to whole steps."""
KEYS = ["model", "n_train", "chain", "seed", "augment", "recipe"]


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
    leads = {"a_better": f"{pair['a']} leads", "b_better": f"{pair['b']} leads"}
    said = leads.get(wider["verdict"], wider["verdict"].replace("_", " "))
    low, high = (None if end is None else f"{end:,.0f}" for end in (wider["ci_low"], wider["ci_high"]))
    if low and high:
        said += f", N* within {low} to {high}"
    elif low or high:
        said += f", N* above {low} or never" if low else f", N* below {high} or never"
    return f"{start} For new images, up to {wider['n_max']:,}: {said}."


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


def saturation(runs: pd.DataFrame, chosen: pd.DataFrame, metric: str, confidence: float) -> list[Saturation]:
    """Return the state of every size of every model among the `chosen` runs; `runs` may contain their twins."""
    keys = [name for name in KEYS if name in chosen]
    both = chosen.iloc[:0]
    if "images_seen" in chosen:
        both = chosen.merge(runs, on=keys, suffixes=("", "_twin"))
        both = both[(both["images_seen_twin"].astype(float) / both["images_seen"].astype(float)).between(*RATIO)]
    found: list[Saturation] = []
    for model, part in chosen.groupby("model", sort=False):
        own = both[both["model"] == model]
        gains: dict[float, tuple[float, float | None, int]] = {}
        if len(own):
            change = own.assign(gain=np.log(own[f"{metric}_twin"]) - np.log(own[metric]))
            table = change.pivot_table(index="chain", columns="n_train", values="gain")
            joint = estimate(table.columns.to_numpy(float), table.to_numpy())
            critical = None if joint is None else float(stats.t.ppf((1 + confidence) / 2, joint.df))
            for i, n in enumerate(table):
                half = None if joint is None or critical is None else critical * float(joint.se[i])
                gains[float(str(n))] = float(table[n].mean()), half, int(table[n].notna().sum())
        for n in sorted(part["n_train"].unique()):
            gain, half, chains = gains.get(float(n), (None, None, 0))
            low, high = (None, None) if gain is None or half is None else (gain - half, gain + half)
            row = Saturation(
                model=str(model),
                n_train=round(n),
                state=_state(gain, low, high),
                gain=gain,
                ci_low=low,
                ci_high=high,
                chains=chains,
            )
            found.append(row)
    return found


def _state(gain: float | None, low: float | None, high: float | None) -> State:
    if gain is None:
        return "not checked"
    if high is not None and high < TOLERANCE:
        return "data-limited"
    return "budget-limited" if low is not None and low > TOLERANCE else "not established"


def safe_signs(pair: Pair, points: list[Saturation]) -> list[bool | None]:
    """Return by size of the pair whether twice the budget could change who leads; None where it was not checked.

    Safe where the log error ratio minus its half band exceeds the difference of the two gains.
    """
    gains = {(point["model"], point["n_train"]): point["gain"] for point in points}
    safe: list[bool | None] = []
    for row in pair["gap"]:
        one, other = (gains.get((model, row["n_train"])) for model in (pair["a"], pair["b"]))
        if one is None or other is None or row["ci_low"] is None or row["ci_high"] is None:
            safe.append(None)
            continue
        sure = max(row["ci_low"], -row["ci_high"])
        safe.append(sure > abs(one - other))
    return safe
