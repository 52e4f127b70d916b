"""Estimates for two models: paired by chain, unpaired, or smoothed where there are no replicates."""

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
from crossover.analysis.runs import AnalysisError, Method, listed
from crossover.analysis.testset import McNemar, TestImages, binomial, mcnemar, sampling

Unit = Literal["chain", "seed"]
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

    difference: Estimate
    """Of log err_b - log err_a; without replicates it has no degrees of freedom, and no interval exists."""
    accuracy_gap: Floats
    """Mean of err_b - err_a: positive, a is better."""
    anchors: list[tuple[float, Estimate | None]]
    """For every size of a: log err_b (at the sizes of b) minus log err_a at that size."""
    chains: int
    kind: Kind
    notes: list[str] = field(default_factory=list)
    mcnemar: list[McNemar] = field(default_factory=list)


def pair_models(runs: pd.DataFrame, a: str, b: str, method: Method) -> Pairing:
    """Return the pairing of two models in runs of one data set and setting."""
    one, other = (runs[runs["model"] == model] for model in (a, b))
    images, said = sampling(one, other, method)
    paired = _pair(one, other, method, images)
    return replace(paired, notes=[*paired.notes, *said])


def _pair(one: pd.DataFrame, other: pd.DataFrame, method: Method, images: TestImages) -> Pairing:
    unit = _unit(one, other)
    notes = [ONE_CHAIN] if unit == "seed" else []
    la, lb = (_table(part, unit, method.metric, log=True) for part in (one, other))
    counts = _pairs(la, lb)
    if max(counts.values(), default=0) > 1:
        return _paired(one, other, unit, method, images, notes)
    both, units = la.columns.intersection(lb.columns), la.index.intersection(lb.index)
    if len(both) and not len(units):
        apart = [estimate(both.to_numpy(float), table[both].to_numpy()) for table in (la, lb)]
        if min(part.df for part in apart) > 0:
            return _apart(la[both], lb[both], apart[0], apart[1], images, [*notes, UNPAIRED])
    if len(units) > 1 and min(la.shape[1], lb.shape[1]) > 1:
        moved = _interpolated(la.loc[units], lb.loc[units], images, notes)
        if moved is not None:
            return moved
    if min(one["n_train"].nunique(), other["n_train"].nunique()) >= MIN_TO_SMOOTH:
        return _smoothed(one, other, method.metric, notes)
    if counts:
        paired = _paired(one, other, unit, method, images, notes)
        return replace(paired, notes=[*paired.notes, NO_REPLICATES])
    return _undescribed(la, lb, notes)


def _unit(one: pd.DataFrame, other: pd.DataFrame) -> Unit:
    """Return the column of the random unit: chains, or seeds when there is only one chain."""
    one_chain = len(set(one["chain"]) | set(other["chain"])) == 1
    return "seed" if one_chain and len(set(one["seed"]) & set(other["seed"])) > 1 else "chain"


def _table(part: pd.DataFrame, unit: str, metric: str, log: bool) -> pd.DataFrame:
    """Return the mean (over seeds) of the metric, or of its log: one row per unit, one column per size."""
    values = np.log(part[metric]) if log else part[metric]
    return values.groupby([part[unit], part["n_train"]]).mean().unstack()


def _pairs(la: pd.DataFrame, lb: pd.DataFrame) -> dict[float, int]:
    """Return how many units both models have, at the sizes where there are any."""
    units, both = la.index.intersection(lb.index), la.columns.intersection(lb.columns)
    counts = (la.loc[units, both].notna() & lb.loc[units, both].notna()).sum()
    return {float(str(n)): int(count) for n, count in counts.items() if count}


def _unequal(tables: dict[str, pd.DataFrame], counts: dict[float, int]) -> list[str]:
    """Return notes on sizes and runs without a partner."""
    notes = []
    for model, table in tables.items():
        alone = [f"{n:,.0f}" for n in table.columns.to_numpy(float) if n not in counts]
        if alone:
            notes.append(f"Only {model} has runs at {listed(alone)} images: the difference is not measured there.")
    most = max(counts.values())
    fewer = [f"{count} at {n:,.0f}" for n, count in counts.items() if count < most]
    if fewer:
        notes.append(f"Fewer pairs of runs than the {most} elsewhere: {listed(fewer)} images.")
    return notes


def _paired(
    one: pd.DataFrame, other: pd.DataFrame, unit: Unit, method: Method, images: TestImages, notes: list[str]
) -> Pairing:
    """Return the pairing by chain or seed."""
    la, lb = (_table(part, unit, method.metric, log=True) for part in (one, other))
    counts, units = _pairs(la, lb), la.index.intersection(lb.index)
    notes = [*notes, *_unequal({part["model"].iloc[0]: table for part, table in ((one, la), (other, lb))}, counts)]
    la, lb, n = la.loc[units], lb.loc[units], list(counts)
    values = (lb[n] - la[n]).to_numpy()
    raw = [_table(part, unit, method.metric, log=False).loc[units, n].to_numpy() for part in (one, other)]
    gap = np.nanmean(np.where(np.isfinite(values), raw[1] - raw[0], np.nan), axis=0)
    found = estimate(np.array(n), values, images.of(n, n))
    tests = mcnemar(one, other, unit, method.predictions) if method.metric == "test_error" else []
    kind: Kind = "none" if not found.df else "chains" if unit == "chain" else "seeds"
    return Pairing(found, gap, _anchors(la, lb, images), len(units), kind, notes, tests)


def _anchors(la: pd.DataFrame, lb: pd.DataFrame, images: TestImages) -> list[tuple[float, Estimate | None]]:
    """Return, for each size of a, log err_b at its sizes minus log err_a at that size, paired by unit."""
    found: list[tuple[float, Estimate | None]] = []
    for size in map(float, la.columns):
        values = lb.sub(la[size], axis=0).dropna(axis=1, how="all")
        n = values.columns.to_numpy(float)
        extra = images.of([size] * len(n), n)
        found.append((size, estimate(n, values.to_numpy(), extra) if len(n) else None))
    return found


def _apart(
    la: pd.DataFrame, lb: pd.DataFrame, one: Estimate, other: Estimate, images: TestImages, notes: list[str]
) -> Pairing:
    """Return the pairing of two replicated curves with unrelated chains."""
    found = difference(one, other, images.of(one.n, one.n))
    anchors: list[tuple[float, Estimate | None]] = []
    for i, size in enumerate(one.n):
        level = Estimate(one.n, np.full_like(one.mean, one.mean[i]), np.full_like(one.cov, one.cov[i, i]), one.df)
        anchors.append((float(size), difference(level, other, images.of([size] * len(one.n), one.n))))
    gap = np.exp(lb).mean().to_numpy() - np.exp(la).mean().to_numpy()
    return Pairing(found, gap, anchors, min(len(la), len(lb)), "unpaired", notes)


def _interpolated(la: pd.DataFrame, lb: pd.DataFrame, images: TestImages, notes: list[str]) -> Pairing | None:
    """Return the pairing of replicated curves without sizes in common, each chain interpolated in log-log."""
    na, nb = (table.columns.to_numpy(float) for table in (la, lb))
    low, high = max(na[0], nb[0]), min(na[-1], nb[-1])
    sizes = np.array(sorted({n for n in (*na, *nb) if low <= n <= high}))
    if len(sizes) > GRID:
        sizes = np.geomspace(low, high, GRID)
    moved = [pd.DataFrame([_along(row, sizes) for _, row in t.iterrows()], t.index, sizes) for t in (la, lb)]
    ya, yb = (table.to_numpy() for table in moved)
    values = yb - ya
    present = np.isfinite(values).any(axis=0)
    if not present.any():
        return None
    sizes = sizes[present]
    gap = np.nanmean((np.exp(yb) - np.exp(ya))[:, present], axis=0)
    note = "Too few runs share chain and size: each chain's curve is interpolated linearly in log-log."
    of_both = images.at(block_diag(_weights(na, sizes), _weights(nb, sizes)), sizes, sizes)
    of_a = images.at(block_diag(_weights(na, sizes), np.eye(len(nb))), sizes, nb)
    found = estimate(sizes, values[:, present], of_both.of(sizes, sizes))
    kind: Kind = "chains" if found.df else "none"
    anchors = _anchors(moved[0].loc[:, present], lb, of_a)
    return Pairing(found, gap, anchors, len(la), kind, [*notes, note])


def _weights(known: Floats, sizes: Floats) -> Floats:
    """Return the weight of each known size in the value interpolated at each of the sizes."""
    columns = [np.interp(np.log(sizes), np.log(known), unit) for unit in np.eye(len(known))]
    return np.column_stack(columns)


def _along(row: "pd.Series[float]", sizes: Floats) -> Floats:
    known = row.dropna()
    x = np.log(known.index.to_numpy(float))
    return np.interp(np.log(sizes), x, known.to_numpy(), left=np.nan, right=np.nan)


def _smoothed(one: pd.DataFrame, other: pd.DataFrame, metric: str, notes: list[str]) -> Pairing:
    """Return the pairing of two noisy curves without replicates: smoothed, then compared on a common grid."""
    a, b = (smooth(part["n_train"].to_numpy(float), part[metric].to_numpy(float)) for part in (one, other))
    low, high = max(a.x[0], b.x[0]), min(a.x[-1], b.x[-1])
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
    note = (
        f"One replicate: log error was smoothed over log n (local quadratic, bandwidths {a.bandwidth:g} and"
        f" {b.bandwidth:g}) and the band comes from the noise along each curve; it leaves out the variation"
        " between training runs."
    )
    df = min(a.df, b.df)
    own = np.linspace(b.x[0], b.x[-1], 2 * GRID)
    y, cov = b.at(own)
    anchors: list[tuple[float, Estimate | None]] = [
        (float(np.exp(x)), Estimate(np.exp(own), y - level, cov + variance, df))
        for x, level, variance in zip(grid, ya, np.diag(cov_a), strict=True)
    ]
    found = Estimate(np.exp(grid), yb - ya, cov_a + cov_b, df)
    return Pairing(found, np.exp(yb) - np.exp(ya), anchors, 1, "roughness", [*notes, note])


def _undescribed(la: pd.DataFrame, lb: pd.DataFrame, notes: list[str]) -> Pairing:
    """Return the descriptive part of a pairing when no run of a has a partner."""
    both = la.columns.intersection(lb.columns)
    a, b = (table[both].mean().to_numpy() for table in (la, lb))
    if not len(both):
        notes = [*notes, "The models have no size in common: nothing can be compared; run both at the same sizes."]
    found = without_replicates(both.to_numpy(float), b - a)
    return Pairing(found, np.exp(b) - np.exp(a), [], 0, "none", notes)
