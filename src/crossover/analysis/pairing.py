"""Estimates for two models: paired by chain, unpaired, or smoothed where there are no replicates."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from crossover.analysis.estimate import (
    GRID,
    MIN_TO_SMOOTH,
    Estimate,
    Floats,
    Smooth,
    difference,
    estimate,
    smooth,
    without_replicates,
)
from crossover.analysis.runs import AnalysisError, Method, listed
from crossover.analysis.testset import McNemar, TestImages, binomial, mcnemar, sampling

Kind = Literal["chains", "seeds", "unpaired", "roughness", "none"]
"""The source of an interval: paired chains, paired seeds of one chain, unpaired chains, the roughness of single curves,
or nothing."""
NO_REPLICATES = (
    "No replicates: nothing says how noisy the curves are, so no interval and no verdict; run at least 3 chains."
)
ONE_CHAIN = "One chain: the intervals cover the variation between seeds, not between training subsets; add chains."
UNPAIRED = "The models share no chain, so their means are compared without pairs; the same chains give a narrower band."


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
    kind: Kind
    notes: list[str] = field(default_factory=list)
    mcnemar: list[McNemar] = field(default_factory=list)


def pair_models(
    runs: pd.DataFrame,
    a: str,
    b: str,
    method: Method,
    smoothed: Callable[[str], Smooth] | None = None,
) -> Pairing:
    """Return the pairing of two models in runs of one data set and setting; `smoothed` keeps the curves of models."""
    one, other = (runs[runs["model"] == model] for model in (a, b))
    images, said = sampling(one, other, method)
    paired = _pair(runs, a, b, method, images, smoothed)
    return replace(paired, notes=[*paired.notes, *said])


def _pair(
    runs: pd.DataFrame,
    a: str,
    b: str,
    method: Method,
    images: TestImages,
    smoothed: Callable[[str], Smooth] | None,
) -> Pairing:
    metric = method.metric
    one, other = (runs[runs["model"] == model] for model in (a, b))
    unit = _unit(one, other)
    notes = [ONE_CHAIN] if unit == "seed" else []
    la, lb = (_table(part, unit, metric, log=True) for part in (one, other))
    shared = _pairs(la, lb)
    tests = mcnemar(one, other, unit, method.predictions) if metric == "test_error" else []
    if max(shared.values(), default=0) > 1:
        return _paired_by_unit(one, other, unit, metric, images, notes + _unequal(a, b, la, lb), tests)
    both = [n for n in _sizes(la) if n in _sizes(lb)]
    apart = [estimate(np.array(both), table[both].to_numpy()) for table in (la, lb)] if both else []
    if apart and not la.index.intersection(lb.index).size and apart[0] is not None and apart[1] is not None:
        return _apart(la[both], lb[both], apart[0], apart[1], images, [*notes, UNPAIRED])
    if len(la.index.intersection(lb.index)) > 1 and min(la.shape[1], lb.shape[1]) > 1:
        moved = _interpolated(la, lb, notes)
        if moved is not None:
            return moved
    if min(one["n_train"].nunique(), other["n_train"].nunique()) >= MIN_TO_SMOOTH:
        own = smoothed or (lambda model: smooth_model(runs, model, metric))
        return _smoothed(one, other, own(a), own(b), notes)
    if shared:
        return _paired_by_unit(
            one, other, unit, metric, images, [*notes, *_unequal(a, b, la, lb), NO_REPLICATES], tests
        )
    return _undescribed(la, lb, notes)


def smooth_model(runs: pd.DataFrame, model: str, metric: str) -> Smooth:
    """Return the smoothed curve of a model."""
    part = runs[runs["model"] == model]
    return smooth(part["n_train"].to_numpy(float), part[metric].to_numpy(float))


def _unit(one: pd.DataFrame, other: pd.DataFrame) -> Literal["chain", "seed"]:
    """Return the column of the random unit: chains, or seeds when there is only one chain."""
    one_chain = len(set(one["chain"]) | set(other["chain"])) == 1
    return "seed" if one_chain and len(set(one["seed"]) & set(other["seed"])) > 1 else "chain"


def _table(part: pd.DataFrame, unit: str, metric: str, log: bool) -> pd.DataFrame:
    """Return the mean (over seeds) of the metric, or of its log: one row per unit, one column per size."""
    values = part.assign(value=np.log(part[metric]) if log else part[metric])
    return values.pivot_table(index=unit, columns="n_train", values="value", aggfunc="mean")


def _sizes(table: pd.DataFrame) -> list[float]:
    return [float(n) for n in table.columns]


def _pairs(la: pd.DataFrame, lb: pd.DataFrame) -> dict[float, int]:
    """Return how many units both models have, at the sizes where there are any."""
    units, both = la.index.intersection(lb.index), la.columns.intersection(lb.columns)
    counts = (la.loc[units, both].notna() & lb.loc[units, both].notna()).sum()
    return {float(str(n)): int(count) for n, count in counts.items() if count}


def _unequal(a: str, b: str, la: pd.DataFrame, lb: pd.DataFrame) -> list[str]:
    """Add notes on sizes and runs without a partner."""
    notes = []
    counts = _pairs(la, lb)
    for model, table in ((a, la), (b, lb)):
        alone = [f"{n:,.0f}" for n in _sizes(table) if n not in counts]
        if alone:
            notes.append(f"Only {model} has runs at {listed(alone)} images: the difference is not measured there.")
    most = max(counts.values(), default=0)
    fewer = [f"{count} at {n:,.0f}" for n, count in counts.items() if count < most]
    if fewer:
        notes.append(f"Fewer pairs of runs than the {most} elsewhere: {listed(fewer)} images.")
    return notes


def _paired_by_unit(
    one: pd.DataFrame,
    other: pd.DataFrame,
    unit: Literal["chain", "seed"],
    metric: str,
    images: TestImages,
    notes: list[str],
    tests: list[McNemar],
) -> Pairing:
    la, lb = (_table(part, unit, metric, log=True) for part in (one, other))
    n = list(_pairs(la, lb))
    units = la.index.intersection(lb.index)
    la, lb = la.loc[units], lb.loc[units]
    values = (lb[n] - la[n]).to_numpy()
    raw = [_table(part, unit, metric, log=False).loc[units, n].to_numpy() for part in (one, other)]
    sizes = np.array(n)
    anchors = [_anchor(size, la, lb, images) for size in _sizes(la)]
    gap = np.nanmean(np.where(np.isfinite(values), raw[1] - raw[0], np.nan), axis=0)
    found = estimate(sizes, values, images.of(n, n))
    kind: Kind = "none" if found is None else "chains" if unit == "chain" else "seeds"
    return Pairing(sizes, np.nanmean(values, axis=0), gap, found, anchors, len(units), kind, notes, tests)


def _anchor(size: float, la: pd.DataFrame, lb: pd.DataFrame, images: TestImages) -> tuple[float, Estimate | None]:
    """Return log err_b at its sizes minus log err_a at one size, paired by unit."""
    values = lb.sub(la[size], axis=0).dropna(axis=1, how="all")
    if values.empty:
        return size, None
    n = _sizes(values)
    extra = images.of([size] * len(n), n)
    return size, estimate(np.array(n), values.to_numpy(), extra) or without_replicates(
        np.array(n), values.mean().to_numpy()
    )


def _apart(
    la: pd.DataFrame, lb: pd.DataFrame, one: Estimate, other: Estimate, images: TestImages, notes: list[str]
) -> Pairing:
    """Return the pairing of two replicated curves with unrelated chains."""
    n = _sizes(la)
    extra = images.of(n, n)
    found = difference(one, other)
    if extra is not None:
        found = replace(found, cov=found.cov + extra, extra=extra)
    anchors: list[tuple[float, Estimate | None]] = []
    for i, size in enumerate(n):
        level = Estimate(one.n, np.full(len(n), one.mean[i]), np.full(one.cov.shape, one.cov[i, i]), one.df)
        against = difference(level, other)
        more = images.of([size] * len(n), n)
        anchors.append((size, against if more is None else replace(against, cov=against.cov + more)))
    gap = np.exp(lb).mean().to_numpy() - np.exp(la).mean().to_numpy()
    return Pairing(np.array(n), found.mean, gap, found, anchors, min(len(la), len(lb)), "unpaired", notes)


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
    none = TestImages([], [], None)
    anchors = [_anchor(n, moved[0], lb, none) for n in sizes]
    found = estimate(sizes, values)
    kind: Kind = "none" if found is None else "chains"
    return Pairing(sizes, np.nanmean(values, axis=0), gap, found, anchors, len(units), kind, [*notes, note])


def _along(row: "pd.Series[float]", sizes: Floats) -> Floats:
    known = row.dropna()
    x = np.log(known.index.to_numpy(float))
    return np.interp(np.log(sizes), x, known.to_numpy(), left=np.nan, right=np.nan)


def _smoothed(one: pd.DataFrame, other: pd.DataFrame, a: Smooth, b: Smooth, notes: list[str]) -> Pairing:
    """Return the pairing of two noisy curves without replicates: smoothed, then compared on a common grid."""
    low, high = max(c.x[0] for c in (a, b)), min(c.x[-1] for c in (a, b))
    if low >= high:
        raise AnalysisError(
            f"{one['model'].iloc[0]} and {other['model'].iloc[0]} have no range of n_train in common; add sizes"
        )
    grid = np.linspace(low, high, GRID)
    (ya, cov_a), (yb, cov_b) = a.at(grid), b.at(grid)
    if "n_test" in one and not (one["n_test"].isna().any() or other["n_test"].isna().any()):
        images = [np.full(GRID, float(part["n_test"].min())) for part in (one, other)]
        cov_a = cov_a + binomial(np.minimum(np.exp(ya), 0.999), images[0])
        cov_b = cov_b + binomial(np.minimum(np.exp(yb), 0.999), images[1])
    df = min(a.df, b.df)
    sizes = np.exp(grid)
    note = (
        f"One replicate: log error was smoothed over log n (local quadratic, bandwidths {a.bandwidth:g} and"
        f" {b.bandwidth:g}) and the band comes from the noise along each curve; it leaves out the variation"
        " between training runs."
    )
    anchors = _smooth_anchors(b, grid, ya, np.diag(cov_a), df)
    found = Estimate(sizes, yb - ya, cov_a + cov_b, df)
    return Pairing(sizes, yb - ya, np.exp(yb) - np.exp(ya), found, anchors, 1, "roughness", [*notes, note])


def _smooth_anchors(
    b: Smooth, grid: Floats, ya: Floats, variance: Floats, df: float
) -> list[tuple[float, Estimate | None]]:
    own = np.linspace(b.x[0], b.x[-1], 2 * GRID)
    yb, cov = b.at(own)
    return [
        (float(np.exp(x)), Estimate(np.exp(own), yb - y, cov + v, df))
        for x, y, v in zip(grid, ya, variance, strict=True)
    ]


def _undescribed(la: pd.DataFrame, lb: pd.DataFrame, notes: list[str]) -> Pairing:
    """Return the descriptive part of a pairing when no run of a has a partner."""
    a, b = la.mean(), lb.mean()
    shared = a.index.intersection(b.index)
    d = (b - a)[shared].to_numpy()
    gap = np.exp(b[shared].to_numpy()) - np.exp(a[shared].to_numpy())
    if not len(d):
        notes = [*notes, "The models have no size in common: nothing can be compared; run both at the same sizes."]
    return Pairing(np.array(shared, float), d, gap, None, [], 0, "none", notes)
