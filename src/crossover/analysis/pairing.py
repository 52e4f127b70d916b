"""Estimates for two models: paired by chain, unpaired, or smoothed where there are no replicates."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy.linalg import block_diag

from crossover.analysis.estimate import (
    GRID,
    MIN_TO_SMOOTH,
    Estimate,
    Floats,
    difference,
    estimate,
    smooth,
    without_replicates,
)
from crossover.analysis.runs import Method, listed
from crossover.analysis.testset import McNemar, binomial, mcnemar, of_difference, sampling

Kind = Literal["chains", "seeds", "unpaired", "roughness", "none"]
"""The source of an interval: paired chains, paired seeds of one chain, unpaired replicates, the roughness of single
curves, or nothing."""
Anchors = list[tuple[float, Estimate | None]]
"""For every size of a: log err_b (at the sizes of b) minus log err_a at that size."""
NO_REPLICATES = (
    "No replicates: nothing says how noisy the curves are, so no interval and no verdict; run at least 3 chains."
)
ONE_CHAIN = "One chain: the intervals cover the variation between seeds, not between training subsets; add chains."
UNPAIRED = (
    "No two chains or seeds are shared: the means are compared without pairs; the same chains give a narrower band."
)
NOTHING_SHARED = "The models have no size in common: nothing can be compared; run both at the same sizes."
INTERPOLATED = "Too few runs share chain and size: each chain's curve is interpolated linearly in log-log."


@dataclass(frozen=True)
class Pairing:
    """Model a and model b at the sizes where they can be compared."""

    difference: Estimate
    """Of log err_b - log err_a; without replicates it has no degrees of freedom, and no interval exists."""
    accuracy_gap: Floats
    """Mean of err_b - err_a: positive, a is better."""
    anchors: Anchors
    chains: int
    kind: Kind
    notes: list[str]
    mcnemar: list[McNemar] = field(default_factory=list)


def pair_models(runs: pd.DataFrame, a: str, b: str, method: Method) -> Pairing:
    """Return the pairing of two models in runs of one data set and setting.

    The unit is the chain, or the seed where each model has one chain and several seeds.
    """
    one, other = (runs[runs["model"] == model] for model in (a, b))
    chains, seeds = ([part[name].nunique() for part in (one, other)] for name in ("chain", "seed"))
    by_seed = max(chains) == 1 < min(seeds)
    unit = "seed" if by_seed else "chain"
    images, said = sampling(one, other, method)
    paired = _pair(one, other, unit, method.metric, images)
    notes = [ONE_CHAIN, *paired.notes, *said] if by_seed else [*paired.notes, *said]
    tests = mcnemar(one, other, unit, method.predictions) if method.metric == "test_error" else []
    return replace(paired, notes=notes, mcnemar=tests)


def _pair(one: pd.DataFrame, other: pd.DataFrame, unit: str, metric: str, images: pd.DataFrame | None) -> Pairing:
    # log error, the mean over seeds: one row per unit, one column per size
    la, lb = (np.log(p[metric]).groupby([p[unit], p["n_train"]]).mean().unstack() for p in (one, other))
    models = str(one["model"].iloc[0]), str(other["model"].iloc[0])
    units, both = la.index.intersection(lb.index), la.columns.intersection(lb.columns)
    most = _pairs(la, lb).max()
    kind: Kind = "seeds" if unit == "seed" else "chains"
    if most > 1:
        return _matched(la, lb, models, images, kind)
    if len(both) and len(units) < 2:
        apart = [estimate(both.to_numpy(float), table[both].to_numpy()) for table in (la, lb)]
        if min(part.df for part in apart) > 0:
            found = _apart(la[both], lb[both], apart[0], apart[1], images)
            return replace(found, notes=[*found.notes, *_alone(models, (la.columns, lb.columns), both, "at {} images")])
    if len(units) > 1 and min(la.shape[1], lb.shape[1]) > 1:
        ya, yb, moved = _interpolated(la.loc[units], lb.loc[units], images)
        shared = _pairs(ya, yb)
        if len(shared):
            found = _matched(ya[shared.index], yb[shared.index], models, moved, kind)
            return replace(found, notes=[*found.notes, INTERPOLATED])
    overlap = max(la.columns[0], lb.columns[0]) < min(la.columns[-1], lb.columns[-1])
    if overlap and min(la.shape[1], lb.shape[1]) >= MIN_TO_SMOOTH:
        return _smoothed(one, other, metric)
    if most == 1:
        return _matched(la, lb, models, images, kind)
    notes = [] if len(both) else [NOTHING_SHARED]
    a, b = (table[both].mean().to_numpy() for table in (la, lb))
    return Pairing(without_replicates(both.to_numpy(float), b - a), np.exp(b) - np.exp(a), [], 0, "none", notes)


def _pairs(la: pd.DataFrame, lb: pd.DataFrame) -> "pd.Series[int]":
    """Return how many units have runs of both models, at the sizes where there are any."""
    units, both = la.index.intersection(lb.index), la.columns.intersection(lb.columns)
    counts = (la.loc[units, both].notna() & lb.loc[units, both].notna()).sum()
    return counts[counts > 0]


def _matched(
    la: pd.DataFrame, lb: pd.DataFrame, models: tuple[str, str], images: pd.DataFrame | None, kind: Kind
) -> Pairing:
    """Return the pairing by unit, at the sizes that have runs of both."""
    counts = _pairs(la, lb)
    n = counts.index
    units = la.index.intersection(lb.index)
    notes = _alone(models, (la.columns, lb.columns), n, "at {} images")
    notes += _alone(models, (la.index, lb.index), units, f"of {la.index.name} {{}}")
    fewer = [f"{count} at {size:,.0f}" for size, count in counts.items() if count < counts.max()]
    if fewer:
        notes.append(f"Fewer pairs of runs than the {counts.max()} elsewhere: {listed(fewer)} images.")
    if counts.max() == 1:
        notes.append(NO_REPLICATES)
    la, lb = la.loc[units], lb.loc[units]
    pairs = (lb[n] - la[n]).dropna(how="all")
    found = estimate(n.to_numpy(float), pairs.to_numpy(), of_difference(images, n, n))
    gap = (np.exp(lb[n]) - np.exp(la[n])).mean().to_numpy()
    return Pairing(found, gap, _anchors(la, lb, images), len(pairs), kind if found.df else "none", notes)


def _alone(models: tuple[str, str], names: Sequence[pd.Index], both: pd.Index, where: str) -> list[str]:
    """Return a note for each model on its sizes or units, in the words of `where`, that the other does not have."""
    alone = [[f"{name:,.0f}" if isinstance(name, float) else name for name in own.difference(both)] for own in names]
    return [
        f"Only {model} has runs {where.format(listed(own))}: the difference is not measured there."
        for model, own in zip(models, alone, strict=True)
        if own
    ]


def _anchors(la: pd.DataFrame, lb: pd.DataFrame, images: pd.DataFrame | None) -> Anchors:
    """Return the anchors of curves paired by unit."""
    found: Anchors = []
    for size in map(float, la.columns):
        values = lb.sub(la[size], axis=0).dropna(axis=1, how="all")
        n = values.columns.to_numpy(float)
        extra = of_difference(images, [size] * len(n), n)
        found.append((size, estimate(n, values.to_numpy(), extra) if len(n) else None))
    return found


def _apart(la: pd.DataFrame, lb: pd.DataFrame, one: Estimate, other: Estimate, images: pd.DataFrame | None) -> Pairing:
    """Return the pairing of two replicated curves with unrelated chains."""
    found = difference(one, other, of_difference(images, one.n, one.n))
    anchors: Anchors = []
    for i, size in enumerate(one.n):
        level = Estimate(one.n, np.full_like(one.mean, one.mean[i]), np.full_like(one.cov, one.cov[i, i]), one.df)
        extra = of_difference(images, [float(size)] * len(one.n), one.n)
        anchors.append((float(size), difference(level, other, extra)))
    gap = (np.exp(lb).mean() - np.exp(la).mean()).to_numpy()
    return Pairing(found, gap, anchors, min(len(la), len(lb)), "unpaired", [UNPAIRED])


def _interpolated(
    la: pd.DataFrame, lb: pd.DataFrame, images: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return curves at the sizes of either that lie in the range of both, and the covariance that has no chains."""
    na, nb = (table.columns.to_numpy(float) for table in (la, lb))
    low, high = max(na[0], nb[0]), min(na[-1], nb[-1])
    sizes = np.array(sorted({n for n in (*na, *nb) if low <= n <= high}))
    if len(sizes) > GRID:
        sizes = np.geomspace(low, high, GRID)
    (ya, off_a), (yb, off_b) = (_along(table, sizes) for table in (la, lb))
    covariance = np.diag(np.concatenate([off_a, off_b]) ** 2 / 4)  # half of what they may be off is a standard error
    if images is not None:
        units = (pd.DataFrame(np.eye(len(n)), columns=n) for n in (na, nb))
        weights = block_diag(*(_along(unit, sizes)[0].to_numpy().T for unit in units))
        covariance += weights @ images.to_numpy() @ weights.T
    return ya, yb, pd.DataFrame(covariance, pd.MultiIndex.from_product([(0, 1), sizes]))


def _along(curves: pd.DataFrame, sizes: Floats) -> tuple[pd.DataFrame, Floats]:
    """Return log errors (units by sizes) at other sizes, linear in log n between those of a unit, and their bias.

    At most, for a curve that bends one way, and is flat beyond its ends: it lies between lines and their extensions.
    """
    rows, off, at = [], [], np.log(sizes)
    for known in (curve.dropna() for _, curve in curves.iterrows()):
        x, y = np.log(known.index.to_numpy(float)), known.to_numpy()
        turns = np.abs(np.diff(np.pad(np.diff(y) / np.diff(x), 1)))
        right = np.clip(np.searchsorted(x, at, side="right"), 1, len(x) - 1)
        rows.append(np.interp(at, x, y, left=np.nan, right=np.nan))
        off.append(np.minimum(turns[right - 1] * np.abs(at - x[right - 1]), turns[right] * np.abs(x[right] - at)))
    return pd.DataFrame(rows, curves.index, sizes), np.sqrt(np.square(off).mean(axis=0))


def _smoothed(one: pd.DataFrame, other: pd.DataFrame, metric: str) -> Pairing:
    """Return the pairing of two noisy curves without replicates: smoothed, then compared on a common grid."""
    a, b = (smooth(part["n_train"].to_numpy(float), part[metric].to_numpy(float)) for part in (one, other))
    low, high = max(a.x[0], b.x[0]), min(a.x[-1], b.x[-1])
    grid = np.linspace(low, high, GRID)
    (ya, cov_a), (yb, cov_b) = a.at(grid), b.at(grid)
    if "n_test" in one and not (one["n_test"].isna().any() or other["n_test"].isna().any()):
        images = [np.full(GRID, float(part["n_test"].min())) for part in (one, other)]
        cov_a = cov_a + binomial(np.minimum(np.exp(ya), 0.999), images[0])
        cov_b = cov_b + binomial(np.minimum(np.exp(yb), 0.999), images[1])
    note = (
        f"One replicate: log error was smoothed over log n (local quadratic, bandwidths {a.bandwidth:g} and"
        f" {b.bandwidth:g}) and the band comes from the noise along each curve; it leaves out the variation"
        " between training runs."
    )
    df = min(a.df, b.df)
    own = np.linspace(b.x[0], b.x[-1], 2 * GRID)
    y, cov = b.at(own)
    anchors: Anchors = [
        (float(np.exp(x)), Estimate(np.exp(own), y - level, cov + variance, df))
        for x, level, variance in zip(grid, ya, np.diag(cov_a), strict=True)
    ]
    found = Estimate(np.exp(grid), yb - ya, cov_a + cov_b, df)
    return Pairing(found, np.exp(yb) - np.exp(ya), anchors, 1, "roughness", [note])
