"""What do the runs say about two models, side by side? Pairs them by chain, or smooths curves without replicates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from crossover.analysis.estimate import Estimate, Floats, estimate, without_replicates
from crossover.analysis.runs import AnalysisError, listed
from crossover.analysis.smooth import GRID, MIN_SIZES, Smooth, smooth

Predictions = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]

NO_REPLICATES = (
    "No replicates: nothing says how noisy the curves are, so no interval and no verdict; run at least 3 chains."
)


@dataclass(frozen=True)
class Pairing:
    """Model a and model b at the sizes where they can be compared."""

    n: Floats
    mean: Floats
    """Mean of log err_b - log err_a."""
    accuracy_gap: Floats
    """Mean of err_b - err_a: positive, a is better."""
    difference: Estimate | None
    """None without replicates: no interval exists."""
    anchors: list[tuple[float, Estimate | None]]
    """For every size of a: log err_b (at the sizes of b) minus log err_a at that size."""
    chains: int
    notes: list[str] = field(default_factory=list)
    mcnemar: list[dict[str, Any]] = field(default_factory=list)


def pair_models(runs: pd.DataFrame, a: str, b: str, metric: str, predictions: Predictions | None) -> Pairing:
    """Return the pairing of two models in runs of one data set and setting."""
    one, other = (runs[runs["model"] == model] for model in (a, b))
    unit, notes = _unit(one, other)
    la, lb = (_table(part, unit, metric, log=True) for part in (one, other))
    notes += _unequal(a, b, la, lb)
    shared = _shared_sizes(la, lb)
    if any(len(_paired(la, lb, n)) > 1 for n in shared):
        return _paired_by_unit(one, other, unit, metric, predictions, notes)
    if len(la.index.intersection(lb.index)) > 1 and min(la.shape[1], lb.shape[1]) > 1:
        moved = _interpolated(la, lb, notes)
        if moved is not None:
            return moved
    if min(one["n_train"].nunique(), other["n_train"].nunique()) >= MIN_SIZES:
        return _smoothed(one, other, metric)
    if shared:
        return _paired_by_unit(one, other, unit, metric, predictions, [*notes, NO_REPLICATES])
    return _unpaired(la, lb, notes)


def _unit(one: pd.DataFrame, other: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the column of the random unit: chains, or seeds when there is but one chain."""
    chains = set(one["chain"]) & set(other["chain"])
    seeds = set(one["seed"]) & set(other["seed"])
    if len(set(one["chain"]) | set(other["chain"])) == 1 and len(seeds) > 1:
        return "seed", [
            "One chain: the intervals cover the variation between seeds, not between training subsets;"
            " add chains to cover both."
        ]
    if not chains:
        return "chain", ["The models share no chain, so no difference can be paired; run both on the same chains."]
    return "chain", []


def _table(part: pd.DataFrame, unit: str, metric: str, log: bool) -> pd.DataFrame:
    """Return the mean (over seeds) of the metric, or of its log: one row per unit, one column per size."""
    values = part.assign(value=np.log(part[metric]) if log else part[metric])
    return values.pivot_table(index=unit, columns="n_train", values="value", aggfunc="mean")


def _paired(la: pd.DataFrame, lb: pd.DataFrame, n: float) -> pd.Index:
    return la[n].dropna().index.intersection(lb[n].dropna().index)


def _sizes(table: pd.DataFrame) -> list[float]:
    return [float(n) for n in table.columns]


def _shared_sizes(la: pd.DataFrame, lb: pd.DataFrame) -> list[float]:
    both = set(_sizes(lb))
    return [n for n in _sizes(la) if n in both and len(_paired(la, lb, n))]


def _unequal(a: str, b: str, la: pd.DataFrame, lb: pd.DataFrame) -> list[str]:
    """Say which sizes and runs have no partner."""
    notes = []
    shared = _shared_sizes(la, lb)
    for model, table in ((a, la), (b, lb)):
        alone = [f"{n:,.0f}" for n in _sizes(table) if n not in shared]
        if alone:
            notes.append(f"Only {model} has runs at {listed(alone)} images: the difference is not measured there.")
    counts = {n: len(_paired(la, lb, n)) for n in shared}
    most = max(counts.values(), default=0)
    fewer = [f"{count} at {n:,.0f}" for n, count in counts.items() if count < most]
    if fewer:
        notes.append(f"Fewer pairs of runs than the {most} elsewhere: {listed(fewer)} images.")
    return notes


def _paired_by_unit(
    one: pd.DataFrame, other: pd.DataFrame, unit: str, metric: str, predictions: Predictions | None, notes: list[str]
) -> Pairing:
    la, lb = (_table(part, unit, metric, log=True) for part in (one, other))
    n = _shared_sizes(la, lb)
    units = la.index.intersection(lb.index)
    la, lb = la.loc[units], lb.loc[units]
    values = (lb[n] - la[n]).to_numpy()
    raw = [_table(part, unit, metric, log=False).loc[units, n].to_numpy() for part in (one, other)]
    sizes = np.array(n)
    extra: Floats | None = None
    mcnemar: list[dict[str, Any]] = []
    if predictions and metric == "test_error":
        influence, mcnemar, said = _test_images(one, other, unit, n, predictions)
        notes = notes + said
        extra = None if influence is None else np.cov(influence.T, ddof=1).reshape(len(n), len(n)) / len(influence)
    anchors = [_anchor(size, la, lb) for size in _sizes(la)]
    gap = np.nanmean(np.where(np.isfinite(values), raw[1] - raw[0], np.nan), axis=0)
    mean = np.nanmean(values, axis=0)
    return Pairing(sizes, mean, gap, estimate(sizes, values, extra), anchors, len(units), notes, mcnemar)


def _anchor(size: float, la: pd.DataFrame, lb: pd.DataFrame) -> tuple[float, Estimate | None]:
    """Return log err_b at its sizes minus log err_a at one size, paired by unit."""
    values = lb.sub(la[size], axis=0).dropna(axis=1, how="all")
    if values.empty:
        return size, None
    sizes = values.columns.to_numpy(float)
    return size, estimate(sizes, values.to_numpy()) or without_replicates(sizes, values.mean().to_numpy())


def _test_images(
    one: pd.DataFrame, other: pd.DataFrame, unit: str, sizes: list[float], predictions: Predictions
) -> tuple[Floats | None, list[dict[str, Any]], list[str]]:
    """Return the influence of each test image on the mean difference (T, J), McNemar's tests, and notes.

    The linearised form of drawing test images again, once for all runs: the same as the bootstrap to first order in
    1 / T. It counts the interaction of images and chains twice, which widens the band slightly.
    """
    influence: list[Floats] = []
    tests: list[dict[str, Any]] = []
    paired = _run_pairs(one, other, unit)
    for n in sizes:
        pairs = paired[n]
        if any(run not in predictions for pair in pairs for run in pair):
            note = "Predictions are missing for some runs: the band leaves out the sampling of test images."
            return None, tests, [note]
        wrong = [np.array([_wrong(predictions[run]) for run in side], float) for side in zip(*pairs, strict=True)]
        rates = [np.maximum(side.mean(), 0.5 / side.size) for side in wrong]
        influence.append(wrong[1].mean(axis=0) / rates[1] - wrong[0].mean(axis=0) / rates[0])
        tests.append(_mcnemar(n, *wrong))
    if len({len(part) for part in influence}) > 1:
        raise AnalysisError("the predictions have different numbers of test images; analyse one test set at a time")
    return np.stack(influence, axis=1), tests, []


def _run_pairs(one: pd.DataFrame, other: pd.DataFrame, unit: str) -> dict[float, list[tuple[str, str]]]:
    """Return by size (run of a, run of b): all that share the unit and, where possible, the rank of the seed."""
    keys = ["n_train", unit]
    ranked = [part.sort_values([*keys, "seed"]) for part in (one, other)]
    ranked = [part.assign(rank=part.groupby(keys).cumcount()) for part in ranked]
    both = ranked[0].merge(ranked[1], on=[*keys, "rank"])
    pairs: dict[float, list[tuple[str, str]]] = {}
    for n, *pair in zip(both["n_train"], both["run_id_x"], both["run_id_y"], strict=True):
        pairs.setdefault(float(n), []).append((pair[0], pair[1]))
    return pairs


def _wrong(prediction: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    labels, predicted = (np.asarray(part) for part in prediction)
    if labels.shape != predicted.shape:
        raise AnalysisError(f"a run has {labels.size} test labels but {predicted.size} predictions; repeat the run")
    return labels != predicted


def _mcnemar(n: float, wrong_a: Floats, wrong_b: Floats) -> dict[str, Any]:
    """Return McNemar's exact test for one pair of runs; for more, its form for images seen repeatedly.

    Several pairs share the test images: the sum over pairs is taken per image, then tested over images (Durkalski et
    al. 2003, "Analysis of clustered matched-pair data", Stat. Med. 22).
    """
    only_a, only_b = int((wrong_a > wrong_b).sum()), int((wrong_b > wrong_a).sum())
    if len(wrong_a) == 1:
        p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    else:
        per_image = (wrong_b - wrong_a).sum(axis=0)
        scale = np.sqrt((per_image**2).sum())
        p = 2 * stats.norm.sf(abs(per_image.sum()) / scale) if scale else 1.0
    return {
        "n_train": int(n),
        "pairs": len(wrong_a),
        "only_a_wrong": only_a,
        "only_b_wrong": only_b,
        "p_value": float(p),
    }


def _interpolated(la: pd.DataFrame, lb: pd.DataFrame, notes: list[str]) -> Pairing | None:
    """Return the pairing of replicated curves without sizes in common, each chain interpolated in log-log."""
    units = la.index.intersection(lb.index)
    la, lb = la.loc[units], lb.loc[units]
    na, nb = _sizes(la), _sizes(lb)
    low, high = max(na[0], nb[0]), min(na[-1], nb[-1])
    sizes = np.array(sorted({n for n in (*na, *nb) if low <= n <= high}))
    if len(sizes) > GRID:
        sizes = np.geomspace(low, high, GRID)
    if not len(sizes):
        return None
    moved = [pd.DataFrame([_along(row, sizes) for _, row in t.iterrows()], units, sizes) for t in (la, lb)]
    values = (moved[1] - moved[0]).to_numpy()
    present = np.isfinite(values).any(axis=0)
    if not present.any():
        return None
    values, sizes = values[:, present], sizes[present]
    errors = [np.exp(table.to_numpy()) for table in moved]
    gap = np.nanmean((errors[1] - errors[0])[:, present], axis=0)
    note = "Too few runs share chain and size: each chain's curve is interpolated linearly in log-log."
    anchors = [_anchor(n, moved[0], lb) for n in sizes]
    return Pairing(sizes, np.nanmean(values, axis=0), gap, estimate(sizes, values), anchors, len(units), [*notes, note])


def _along(row: "pd.Series[float]", sizes: Floats) -> Floats:
    known = row.dropna()
    x = np.log(known.index.to_numpy(float))
    return np.interp(np.log(sizes), x, known.to_numpy(), left=np.nan, right=np.nan)


def _smoothed(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> Pairing:
    """Return the pairing of two noisy curves without replicates: smoothed, then compared on a common grid."""
    curves = [smooth(part["n_train"].to_numpy(float), part[metric].to_numpy(float)) for part in (one, other)]
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    if low >= high:
        raise AnalysisError(
            f"{one['model'].iloc[0]} and {other['model'].iloc[0]} have no range of n_train in common; add sizes"
        )
    grid = np.linspace(low, high, GRID)
    (ya, cov_a), (yb, cov_b) = (curve.at(grid) for curve in curves)
    df = min(curve.df for curve in curves)
    sizes = np.exp(grid)
    note = (
        f"One replicate: log error was smoothed over log n (local quadratic, bandwidths {curves[0].bandwidth:g} and"
        f" {curves[1].bandwidth:g}) and the band comes from the noise along each curve; it leaves out the variation"
        " between training runs."
    )
    anchors = _smooth_anchors(curves[1], grid, ya, np.diag(cov_a), df)
    return Pairing(
        sizes, yb - ya, np.exp(yb) - np.exp(ya), Estimate(sizes, yb - ya, cov_a + cov_b, df), anchors, 1, [note]
    )


def _smooth_anchors(
    b: Smooth, grid: Floats, ya: Floats, variance: Floats, df: float
) -> list[tuple[float, Estimate | None]]:
    own = np.linspace(b.x[0], b.x[-1], 2 * GRID)
    yb, cov = b.at(own)
    return [
        (float(np.exp(x)), Estimate(np.exp(own), yb - y, cov + v, df))
        for x, y, v in zip(grid, ya, variance, strict=True)
    ]


def _unpaired(la: pd.DataFrame, lb: pd.DataFrame, notes: list[str]) -> Pairing:
    """Return what can be described when no run of a has a partner."""
    a, b = la.mean(), lb.mean()
    shared = a.index.intersection(b.index)
    d = (b - a)[shared].to_numpy()
    gap = np.exp(b[shared].to_numpy()) - np.exp(a[shared].to_numpy())
    if not len(d):
        notes = [*notes, "The models have no size in common: nothing can be compared; run both at the same sizes."]
    return Pairing(np.array(shared, float), d, gap, None, [], 0, notes)
