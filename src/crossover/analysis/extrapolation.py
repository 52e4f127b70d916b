"""Could b overtake a beyond the measured sizes? A range over laws, labelled, or a refusal; never a single number.

Extrapolated crossings depend on the law and on the points: from five exact points of one pair they were 2.4e5 or
1.4e7. Refused when nothing crosses up to LIMIT times the largest size, when the two best laws of a model disagree by
more than DISAGREE, and when fewer than two laws predict the largest sizes better than their last value. The range
holds the crossings of all laws that do, and of these with each chain (or fifth of the sizes) left out: it is not a
confidence interval.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from crossover.analysis.curves import LAST_VALUE, Fit, averaged, fit_all, fit_law
from crossover.analysis.estimate import Floats, estimate

LIMIT = 4.0
DISAGREE = 4.0
MIN_SIZES = 5
BINS = 40
"""Longer curves are averaged in this many bins of log n before laws are fitted."""
FOLDS = 5


@dataclass(frozen=True)
class ModelLaws:
    """The laws of one model."""

    table: pd.DataFrame
    """Errors: one row per chain, one column per size."""
    chance: float | None

    @cached_property
    def curve(self) -> tuple[Floats, Floats, Floats | None]:
        return mean_curve(self.table)

    @cached_property
    def every(self) -> list[Fit]:
        """All laws, best held-out RMSE first; none for a short curve."""
        n, error, weights = self.curve
        return fit_all(n, error, weights=weights, chance=self.chance) if len(n) >= MIN_SIZES else []

    @property
    def holdout(self) -> dict[str, float]:
        return self.every[0].compared if self.every else {}

    @property
    def useful(self) -> list[Fit]:
        """Laws that beat the last value."""
        return [fit for fit in self.every if self.holdout[fit.law] < self.holdout[LAST_VALUE]]

    @cached_property
    def left_out(self) -> list[list[Fit]]:
        """The useful laws, fitted with each chain, or each fifth of the sizes of one chain, left out."""
        n, error, weights = self.curve
        curves = []
        if len(self.table) > 2 and self.table.notna().all(axis=None):
            for chain in self.table.index:
                curves.append((n, np.exp(np.log(self.table.drop(index=chain)).mean().to_numpy()), weights))
        else:
            for fold in range(min(FOLDS, len(n) - MIN_SIZES + 1)):
                keep = np.arange(len(n)) % FOLDS != fold
                curves.append((n[keep], error[keep], None if weights is None else weights[keep]))
        return [[fit_law(f.law, x, e, weights=w, chance=self.chance) for f in self.useful] for x, e, w in curves]

    def described(self) -> dict[str, Any]:
        """Return the laws for crossover.json: fits, their test on held-out sizes, and the curve over measured sizes.

        `curve` is the average of the useful laws, or the best where none is useful; None where a curve is too short.
        """
        if not self.every:
            note = f"No law is fitted: it needs at least {MIN_SIZES} sizes, got {self.table.shape[1]}."
            return {"fits": [], "holdout_rmse": {}, "curve": None, "note": note}
        fits = [
            {"law": fit.law, "params": fit.params, "standard_errors": fit.standard_errors, "sigma": fit.sigma}
            for fit in self.every
        ]
        n = self.curve[0]
        sizes = np.geomspace(float(n[0]), float(n[-1]), BINS)
        errors = averaged(self.useful or self.every[:1], sizes)
        curve = [{"n_train": float(n), "error": float(e)} for n, e in zip(sizes, errors, strict=True)]
        poor = None if self.useful else f"No law predicts the largest sizes better than their {LAST_VALUE}."
        return {"fits": fits, "holdout_rmse": self.holdout, "curve": curve, "note": poor}


def mean_curve(table: pd.DataFrame) -> tuple[Floats, Floats, Floats | None]:
    """Return sizes, geometric mean error and weights (1 / variance of log error) of a table of units by sizes."""
    n, logs = table.columns.to_numpy(float), np.log(table.to_numpy(float))
    replicates = estimate(n, logs)
    mean = np.nanmean(logs, axis=0)
    if replicates is not None:
        return n, np.exp(mean), 1 / replicates.se**2
    if len(n) <= BINS:
        return n, np.exp(mean), None
    x = np.log(n)
    place = np.minimum(((x - x[0]) / (x[-1] - x[0]) * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS).astype(float)
    full = count > 0
    centre, level = (np.bincount(place, values, BINS)[full] / count[full] for values in (x, mean))
    return np.exp(centre), np.exp(level), count[full]


def extrapolate(a: ModelLaws, b: ModelLaws, n_max: float) -> dict[str, Any]:
    """Return the labelled range of sizes beyond n_max at which b could overtake a, or why it is refused.

    `high` is null where some law has no crossing up to `limit`.
    """
    limit = LIMIT * n_max
    found: dict[str, Any] = {"label": "extrapolated", "low": None, "high": None, "limit": round(limit)}
    found["holdout_rmse"] = {"a": a.holdout, "b": b.holdout}
    found["laws"] = {"a": [fit.law for fit in a.useful], "b": [fit.law for fit in b.useful]}
    if not a.holdout or not b.holdout:
        return found | {"refused": f"laws need at least {MIN_SIZES} sizes of each model to be fitted and tested"}
    if min(len(a.useful), len(b.useful)) < 2:
        return found | {"refused": "fewer than two laws predict the largest sizes better than their last value"}
    best = crossings(a.useful[:2], b.useful[:2], n_max, limit)
    if np.isinf(best).all():
        return found | {"refused": f"the best laws do not cross up to {limit:,.0f} images, the farthest looked at"}
    if (best <= n_max).any():
        return found | {"refused": "the best laws cross within the measured sizes, where no crossing is established"}
    if np.isinf(best).any() or max(best) / min(best) > DISAGREE:
        return found | {"refused": "the best laws disagree on whether or where the curves cross"}
    every = [crossings(a.useful, b.useful, n_max, limit)]
    every += [crossings(fits, b.useful, n_max, limit) for fits in a.left_out]
    every += [crossings(a.useful, fits, n_max, limit) for fits in b.left_out]
    roots = np.concatenate(every)
    high = None if np.isinf(roots).any() else float(roots.max())
    return found | {"low": float(roots.min()), "high": high, "refused": None}


def crossings(a: list[Fit], b: list[Fit], n_max: float, limit: float) -> Floats:
    """Return where each pair of laws first has b below a, from n_max on; infinite when not up to the limit."""
    grid = np.geomspace(n_max, limit, 400)
    ahead = np.array([fit.predict(grid) for fit in a])[:, None] > np.array([fit.predict(grid) for fit in b])[None]
    return np.where(ahead.any(axis=-1), grid[ahead.argmax(axis=-1)], np.inf).ravel()
