"""The laws of a model's curve, tested on its largest sizes, and the labelled range of crossings beyond the data.

A law is chosen by its error on the largest third of the sizes when fitted to the others. Extrapolated crossings depend
on the law and on the points: from five exact points of one pair they were 2.4e5 or 1.4e7. The range holds the crossings
of all useful laws, and of these with each chain (or fifth of the sizes) left out: it is not a confidence interval.
docs/estimators.md says when it is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from crossover.analysis.contract import Extrapolation, FittedLaw, ModelFits
from crossover.analysis.estimate import Floats, estimate
from crossover.analysis.laws import LAWS, Fit, fit_law

LAST_VALUE = "last value"
HELD_OUT = 3
"""One size in so many, the largest, is held out to test the laws."""
MIN_HELD_OUT = 2
"""Held-out sizes below which laws are not told apart: one point would choose by its noise."""
TIE = 0.01
"""Laws whose held-out errors differ by less than this share of the smallest are equal; the earlier law goes first."""
PRECISE = 1e-6
"""Held-out errors below this are equal too: no measurement is that precise."""
LIMIT = 4.0
DISAGREE = 4.0
MIN_SIZES = 5
BINS = 40
"""Longer curves are averaged in this many bins of log n before laws are fitted."""
FOLDS = 5


def held_out(
    law: str, n: Floats, error: Floats, cut: float, *, weights: Floats | None = None, chance: float | None = None
) -> float:
    """Return the RMSE of log error at sizes above `cut`, predicted from those up to it; `law` may be `last value`."""
    w = np.ones(len(n)) if weights is None else weights
    known, rest = n <= cut, n > cut
    if law == LAST_VALUE:
        guess = np.log(error[known][-1:])
    else:
        guess = np.log(fit_law(law, n[known], error[known], weights=w[known], chance=chance).predict(n[rest]))
    return float(np.sqrt(np.average((guess - np.log(error[rest])) ** 2, weights=w[rest])))


def held_out_sizes(sizes: int) -> int:
    """Return how many of so many sizes test the laws."""
    return sizes // HELD_OUT if sizes >= HELD_OUT * MIN_HELD_OUT else 0


def fit_all(n: Floats, error: Floats, *, weights: Floats | None = None, chance: float | None = None) -> list[Fit]:
    """Return a fit of every law that the sizes allow, best held-out RMSE first; in the order of LAWS if untested."""
    rest = held_out_sizes(len(n))
    possible = [law for law, form in LAWS.items() if len(form.names) < len(n) - rest]
    fits = {law: fit_law(law, n, error, weights=weights, chance=chance) for law in possible}
    if not rest:
        return list(fits.values())
    cut = float(n[-rest - 1])
    rmse = {law: held_out(law, n, error, cut, weights=weights, chance=chance) for law in [*possible, LAST_VALUE]}
    return [replace(fits[law], compared=rmse) for law in _ranked(possible, rmse)]


def _ranked(laws: Sequence[str], rmse: dict[str, float]) -> list[str]:
    """Return laws by held-out error; of those that tie, in the order of LAWS (the fewest parameters first)."""
    left, order = list(laws), []
    while left:
        least = min(rmse[law] for law in left)
        order.append(next(law for law in left if rmse[law] <= least * (1 + TIE) + PRECISE))
        left.remove(order[-1])
    return order


def averaged(fits: list[Fit], n: Floats) -> Floats:
    """Return the geometric mean of the laws' predictions, weighted by 1 / held-out mean squared error."""
    weights = [1 / max(fit.compared.get(fit.law, 1.0), PRECISE) ** 2 for fit in fits]
    return np.exp(np.average([np.log(fit.predict(n)) for fit in fits], axis=0, weights=weights))


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
        """Held-out RMSE by law; empty where too few sizes could test them."""
        return self.every[0].compared if self.every else {}

    @property
    def useful(self) -> list[Fit]:
        """Laws that beat the last value."""
        tested = self.holdout
        return [fit for fit in self.every if tested and tested[fit.law] < tested[LAST_VALUE]]

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

    def described(self, model: str) -> ModelFits:
        """Return the laws for crossover.json; `curve` averages the useful ones, or is the best, or all if untested."""
        tested = self.holdout
        made = ModelFits(model=model, fits=[], holdout_rmse=tested, held_out=0, spread=None, curve=None, note=None)
        if not self.every:
            made["note"] = f"No law is fitted: it needs at least {MIN_SIZES} sizes, got {self.table.shape[1]}."
            return made
        n = self.curve[0]
        made["held_out"] = held_out_sizes(len(n))
        made["fits"] = [
            FittedLaw(law=fit.law, params=fit.params, standard_errors=fit.standard_errors, sigma=fit.sigma)
            for fit in self.every
        ]
        drawn = self.useful or (self.every[:1] if tested else self.every)
        sizes = np.geomspace(float(n[0]), float(n[-1]), BINS)
        errors = np.array([fit.predict(sizes) for fit in drawn])
        made["spread"] = float((errors.max(axis=0) / errors.min(axis=0)).max() - 1)
        points = zip(sizes, averaged(drawn, sizes), strict=True)
        made["curve"] = [{"n_train": float(size), "error": float(error)} for size, error in points]
        if not tested:
            made["note"] = (
                f"{len(n)} sizes are too few to test laws on the largest ({HELD_OUT * MIN_HELD_OUT} would do): none is"
                f" chosen; the curve is the average of all {len(drawn)}, which differ by up to {made['spread']:.1%}."
            )
        elif not self.useful:
            made["note"] = f"No law predicts the {made['held_out']} largest sizes better than their {LAST_VALUE}."
        return made


def mean_curve(table: pd.DataFrame) -> tuple[Floats, Floats, Floats | None]:
    """Return sizes, geometric mean error and weights (1 / variance of log error) of a table of units by sizes."""
    n, logs = table.columns.to_numpy(float), np.log(table.to_numpy(float))
    found = estimate(n, logs)
    if found.df:
        return n, np.exp(found.mean), 1 / found.se**2
    if len(n) <= BINS:
        return n, np.exp(found.mean), None
    x = np.log(n)
    place = np.minimum(((x - x[0]) / (x[-1] - x[0]) * BINS).astype(int), BINS - 1)
    bins = pd.DataFrame({"x": x, "mean": found.mean}).groupby(place)
    centre, level = (bins[name].mean().to_numpy() for name in ("x", "mean"))
    return np.exp(centre), np.exp(level), bins.size().to_numpy().astype(float)


def extrapolate(a: ModelLaws, b: ModelLaws, n_max: float) -> Extrapolation:
    """Return the labelled range of sizes beyond n_max at which b could overtake a, or why it is refused."""
    limit = LIMIT * n_max
    found = Extrapolation(
        label="extrapolated",
        low=None,
        high=None,
        limit=round(limit),
        holdout_rmse={"a": a.holdout, "b": b.holdout},
        laws={"a": [fit.law for fit in a.useful], "b": [fit.law for fit in b.useful]},
        refused=None,
    )
    if not a.holdout or not b.holdout:
        found["refused"] = f"laws need at least {HELD_OUT * MIN_HELD_OUT} sizes of each model to be fitted and tested"
        return found
    if min(len(a.useful), len(b.useful)) < 2:
        found["refused"] = "fewer than two laws predict the largest sizes better than their last value"
        return found
    best = crossings(a.useful[:2], b.useful[:2], n_max, limit)
    if np.isinf(best).all():
        found["refused"] = f"the best laws do not cross up to {limit:,.0f} images, the farthest looked at"
    elif (best <= n_max).any():
        found["refused"] = "the best laws cross within the measured sizes, where no crossing is established"
    elif np.isinf(best).any() or max(best) / min(best) > DISAGREE:
        found["refused"] = "the best laws disagree on whether or where the curves cross"
    else:
        every = [crossings(a.useful, b.useful, n_max, limit)]
        every += [crossings(fits, b.useful, n_max, limit) for fits in a.left_out]
        every += [crossings(a.useful, fits, n_max, limit) for fits in b.left_out]
        roots = np.concatenate(every)
        found["low"] = float(roots.min())
        found["high"] = None if np.isinf(roots).any() else float(roots.max())
    return found


def crossings(a: list[Fit], b: list[Fit], n_max: float, limit: float) -> Floats:
    """Return where each pair of laws first has b below a, from n_max on; infinite when not up to the limit."""
    grid = np.geomspace(n_max, limit, 400)
    ahead = np.array([fit.predict(grid) for fit in a])[:, None] > np.array([fit.predict(grid) for fit in b])[None]
    return np.where(ahead.any(axis=-1), grid[ahead.argmax(axis=-1)], np.inf).ravel()
