"""The laws of a model's curve, tested on its largest sizes, and the labelled range of crossings beyond the data.

A law is chosen by its error on the largest third of the sizes when fitted to the others. Extrapolated crossings depend
on the law and on the points: from five exact points of one pair they were 2.4e5 or 1.4e7. The range holds the crossings
of all useful laws, and of these with each chain (or fifth of the sizes) left out: it is not a confidence interval.
docs/estimators.md says when it is refused.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from crossover.analysis.contract import Extrapolation, FittedLaw, ModelFits
from crossover.analysis.estimate import Floats, estimate
from crossover.analysis.laws import LAWS, Fit, fit_law

LAST_VALUE = "last value"
HELD_OUT = 3
"""One size in so many, the largest, is held out to test the laws."""
TESTABLE = 6
"""Sizes below which laws are not told apart: one held-out point would choose by its noise."""
TIE = 0.01
"""Laws whose held-out errors differ by less than this share of the smallest are equal; the earlier law goes first."""
PRECISE = 1e-6
"""Held-out errors below this are equal too: no measurement is that precise."""
LIMIT = 4.0
DISAGREE = 4.0
MIN_SIZES = 5
DRAWN = 40
"""Points of the curve that is drawn."""
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


def held_out_sizes(sizes: int) -> int:
    """Return how many of so many sizes test the laws."""
    return sizes // HELD_OUT if sizes >= TESTABLE else 0


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


class ModelLaws:
    """The laws of one model, from its errors (one row per chain, one column per size) and the error of guessing."""

    def __init__(self, table: pd.DataFrame, chance: float | None) -> None:
        self.table, self.chance = table, chance
        found = estimate(table.columns.to_numpy(float), np.log(table.to_numpy(float)))
        self.n, self.error = found.n, np.exp(found.mean)
        self.weights = 1 / found.se**2 if found.df else None
        self.every: list[Fit] = []
        """All laws, best held-out RMSE first; none for a short curve."""
        if len(self.n) >= MIN_SIZES:
            self.every = fit_all(self.n, self.error, weights=self.weights, chance=chance)
        self.holdout = self.every[0].compared if self.every else {}
        """Held-out RMSE by law; empty where too few sizes could test them."""
        tested = self.every if self.holdout else []
        self.useful = [fit for fit in tested if self.holdout[fit.law] < self.holdout[LAST_VALUE]]
        """Laws that beat the last value."""

    @cached_property
    def left_out(self) -> list[list[Fit]]:
        """The useful laws, fitted with each chain, or each fifth of the sizes of one chain, left out."""
        curves = []
        if len(self.table) > 2 and self.table.notna().all(axis=None):
            for chain in self.table.index:
                error = np.exp(np.log(self.table.drop(index=chain)).mean().to_numpy())
                curves.append((self.n, error, self.weights))
        else:
            for fold in range(min(FOLDS, len(self.n) - MIN_SIZES + 1)):
                keep = np.arange(len(self.n)) % FOLDS != fold
                curves.append((self.n[keep], self.error[keep], None if self.weights is None else self.weights[keep]))
        return [[fit_law(f.law, x, e, weights=w, chance=self.chance) for f in self.useful] for x, e, w in curves]

    def described(self, model: str) -> ModelFits:
        """Return the laws for crossover.json; `curve` averages the useful ones, or is the best, or all if untested."""
        made = ModelFits(
            model=model,
            fits=[
                FittedLaw(law=fit.law, params=fit.params, standard_errors=fit.standard_errors, sigma=fit.sigma)
                for fit in self.every
            ],
            holdout_rmse=self.holdout,
            held_out=held_out_sizes(len(self.n)) if self.every else 0,
            spread=None,
            curve=None,
            note=f"No law is fitted: it needs at least {MIN_SIZES} sizes, got {self.table.shape[1]}.",
        )
        if not self.every:
            return made
        drawn = self.useful or (self.every[:1] if self.holdout else self.every)
        sizes = np.geomspace(float(self.n[0]), float(self.n[-1]), DRAWN)
        errors = np.array([fit.predict(sizes) for fit in drawn])
        made["spread"] = float((errors.max(axis=0) / errors.min(axis=0)).max() - 1)
        points = zip(sizes.tolist(), averaged(drawn, sizes).tolist(), strict=True)
        made["curve"] = [{"n_train": size, "error": error} for size, error in points]
        made["note"] = None
        if not self.holdout:
            made["note"] = (
                f"{len(self.n)} sizes are too few to test laws on the largest ({TESTABLE} would do): none is"
                f" chosen; the curve is the average of all {len(drawn)}, which differ by up to {made['spread']:.1%}."
            )
        elif not self.useful:
            made["note"] = f"No law predicts the {made['held_out']} largest sizes better than their {LAST_VALUE}."
        return made


def extrapolate(a: ModelLaws, b: ModelLaws, n_max: float) -> Extrapolation:
    """Return the labelled range of sizes beyond n_max at which b could overtake a, or why it is refused."""
    limit = LIMIT * n_max
    low, high, refused = None, None, None
    best = crossings(a.useful[:2], b.useful[:2], n_max, limit)
    if not a.holdout or not b.holdout:
        refused = f"laws need at least {TESTABLE} sizes of each model to be fitted and tested"
    elif min(len(a.useful), len(b.useful)) < 2:
        refused = "fewer than two laws predict the largest sizes better than their last value"
    elif np.isinf(best).all():
        refused = f"the best laws do not cross up to {limit:,.0f} images, the farthest looked at"
    elif (best <= n_max).any():
        refused = "the best laws cross within the measured sizes, where no crossing is established"
    elif np.isinf(best).any() or max(best) / min(best) > DISAGREE:
        refused = "the best laws disagree on whether or where the curves cross"
    else:
        every = [(a.useful, b.useful)]
        every += [(fits, b.useful) for fits in a.left_out] + [(a.useful, fits) for fits in b.left_out]
        roots = np.concatenate([crossings(one, other, n_max, limit) for one, other in every])
        low = float(roots.min())
        high = None if np.isinf(roots).any() else float(roots.max())
    return Extrapolation(
        label="extrapolated",
        low=low,
        high=high,
        limit=round(limit),
        holdout_rmse={"a": a.holdout, "b": b.holdout},
        laws={"a": [fit.law for fit in a.useful], "b": [fit.law for fit in b.useful]},
        refused=refused,
    )


def crossings(a: list[Fit], b: list[Fit], n_max: float, limit: float) -> Floats:
    """Return where each pair of laws first has b below a, from n_max on; infinite when not up to the limit."""
    grid = np.geomspace(n_max, limit, 400)
    errors_a, errors_b = (np.array([fit.predict(grid) for fit in fits]).reshape(-1, 400) for fits in (a, b))
    ahead = errors_a[:, None] > errors_b
    return np.where(ahead.any(axis=-1), grid[ahead.argmax(axis=-1)], np.inf).ravel()
