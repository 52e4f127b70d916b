"""Where does a difference curve change sign? The band, the verdict, the root and its confidence set.

D(n) = log err_b - log err_a at the measured sizes. Between them it is taken to be smooth: the centre of the band is
the PCHIP interpolant in log n (Fritsch and Carlson 1980), its standard error that of linear interpolation. The band
holds at all n of the range at once (max-|t|). The confidence set of a root is the band inverted, as in Fieller (1954):
an interval, several, or unbounded on a side where the band never leaves zero. Unreliable where sizes are so far apart
that D bends between them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import interpolate, optimize

from crossover.analysis.estimate import TINY, Estimate, Floats

Verdict = Literal["crossover", "a_better", "b_better", "several_crossings", "undecided"]
Interval = tuple[float | None, float | None]
STEPS = 24
"""Points of the band between two neighbouring sizes; edges are interpolated further."""
BETWEEN = 4
"""The same for the critical value of the whole range."""


@dataclass(frozen=True)
class Band:
    """A band around the interpolated difference, on a fine grid of log n that contains the sizes."""

    x: Floats
    centre: Floats
    half: Floats
    n: Floats
    """The sizes, every STEPS-th point of the grid."""
    half_at_knots: Floats

    @property
    def signs(self) -> Floats:
        """+1 where the whole band is above zero (a is better), -1 where it is below, else 0."""
        return np.sign(self.centre) * (np.abs(self.centre) > self.half)

    @property
    def knot_signs(self) -> Floats:
        return self.signs[:: STEPS if len(self.n) > 1 else 1]


def _weights(knots: Floats, steps: int) -> tuple[Floats, Floats]:
    """Return a grid with `steps` intervals between knots, and the (G, J) weights of linear interpolation."""
    if len(knots) == 1:
        return knots, np.ones((1, 1))
    place = np.arange((len(knots) - 1) * steps + 1) / steps
    grid = np.interp(place, np.arange(len(knots)), knots)
    return grid, np.maximum(0, 1 - np.abs(place[:, None] - np.arange(len(knots))))


def infer(values: Estimate, confidence: float, rng: np.random.Generator) -> tuple[Band, list[Interval]]:
    """Return the band that holds over the whole range, and the confidence set of the crossings that it establishes.

    The critical value is the quantile of max |error of the mean| / its standard error. The set inverts a band of
    fewer sizes where it can: between the two that establish a crossing, D depends on them and their neighbours alone.
    """
    _, weights = _weights(values.x, BETWEEN)
    se = np.sqrt(np.sum((weights @ values.cov) * weights, axis=1))
    ratios = np.abs(values.deviations(rng) @ weights.T / se)
    bounds = band(values, float(np.quantile(ratios.max(axis=1), confidence)))
    at_sizes = ratios[:, ::BETWEEN]
    found = established(bounds.knot_signs)
    if found is not None:
        at_sizes = at_sizes[:, max(found[0] - 1, 0) : found[1] + 2]
    critical = float(np.quantile(at_sizes.max(axis=1), confidence))
    return bounds, confidence_set(band(values, critical), bounds.knot_signs)


def band(values: Estimate, critical: float) -> Band:
    """Return mean +- critical * standard error, interpolated."""
    grid, weights = _weights(values.x, STEPS)
    half = critical * np.sqrt(np.sum((weights @ values.cov) * weights, axis=1))
    one = len(values.n) == 1
    centre = values.mean if one else interpolate.PchipInterpolator(values.x, values.mean)(grid)
    return Band(grid, centre, half, values.n, critical * values.se)


def verdict(signs: Floats) -> Verdict:
    """Return what the signs of the band at the measured sizes establish.

    A leader must be ahead at the largest size and nowhere behind; a crossover needs each model ahead somewhere.
    """
    runs = _alternations(signs)
    if len(runs) > 2:
        return "several_crossings"
    if len(runs) == 2:
        return "crossover"
    if not runs or signs[-1] == 0:
        return "undecided"
    return "a_better" if runs[0] > 0 else "b_better"


def _alternations(signs: Floats) -> list[int]:
    """Return the significant signs in order, each repeated sign once."""
    found: list[int] = []
    for sign in signs[signs != 0]:
        if not found or found[-1] != sign:
            found.append(int(sign))
    return found


def confidence_set(bounds: Band, signs: Floats | None = None) -> list[Interval]:
    """Return the sizes at which the sign can change, given the crossings that `signs` establish (those of the band).

    With no crossing established: where b could overtake a, at, beyond or (null) outside the measured range.
    """
    signs = bounds.knot_signs if signs is None else signs
    runs = _alternations(signs)
    if not runs:
        return [(None, None)]
    if len(runs) == 1:
        at = np.flatnonzero(signs)
        if runs[0] > 0:
            return [(_edge(bounds, int(at[-1]), +1), None)]
        return [(None, _edge(bounds, int(at[0]), -1))]
    found: list[Interval] = []
    last = 0
    for i in np.flatnonzero(signs):
        if signs[last] != 0 and signs[i] != signs[last]:
            found.append((_edge(bounds, last, +1), _edge(bounds, int(i), -1)))
        last = int(i)
    return found


def _edge(bounds: Band, knot: int, step: Literal[-1, 1]) -> float:
    """Return the n at which the band first contains zero, walking from a significant knot."""
    distance = np.abs(bounds.centre) - bounds.half
    i = knot * STEPS if len(bounds.n) > 1 else 0
    sign = bounds.signs[i]
    while 0 <= i + step < len(bounds.x) and bounds.signs[i + step] == sign:
        i += step
    j = i + step
    if not 0 <= j < len(bounds.x):
        return float(bounds.n[knot])
    inner = sign * bounds.centre[j] - bounds.half[j]
    share = distance[i] / (distance[i] - inner)
    return float(np.exp(bounds.x[i] + share * (bounds.x[j] - bounds.x[i])))


def root(values: Estimate, falling: bool, bracket: tuple[int, int] | None = None) -> float | None:
    """Return the n at which the monotone interpolant of the mean is zero, None if it does not change sign.

    Isotonic regression (weights 1 / variance) between the two sizes of `bracket`, or the extremes on both sides of the
    best split; then PCHIP in log n through all sizes.
    """
    mean = values.mean if falling else -values.mean
    weights = 1 / np.maximum(values.se, TINY) ** 2
    if bracket is None:
        split = int(np.argmax(np.concatenate([[0.0], np.cumsum(weights * mean)])))
        if split in (0, len(mean)):
            return None
        bracket = int(np.argmax(mean[:split])), split + int(np.argmin(mean[split:]))
    first, last = bracket
    fit = mean.copy()
    part = slice(first, last + 1)
    fit[part] = optimize.isotonic_regression(mean[part], weights=weights[part], increasing=False).x
    if not fit[first] > 0 > fit[last]:
        return None
    curve = interpolate.PchipInterpolator(values.x, fit)
    return float(np.exp(optimize.brentq(lambda x: float(curve(x)), values.x[first], values.x[last])))


def established(signs: Floats) -> tuple[int, int] | None:
    """Return the sizes (as positions) between which a single established crossing lies, None without one."""
    if len(_alternations(signs)) != 2:
        return None
    at = np.flatnonzero(signs)
    change = int(np.flatnonzero(np.diff(signs[at]))[0])
    return int(at[change]), int(at[change + 1])


def is_falling(values: Estimate) -> bool:
    """Return whether a decreasing curve fits the mean at least as well as an increasing one."""
    weights = 1 / np.maximum(values.se, TINY) ** 2
    fits = [optimize.isotonic_regression(values.mean, weights=weights, increasing=up).x for up in (False, True)]
    down, up = (float((weights * (values.mean - fit) ** 2).sum()) for fit in fits)
    return down <= up


def root_probabilities(values: Estimate, falling: bool, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return P(b leads already at the smallest size), P(one crossing in range), P(a leads still at the largest size).

    Each draw of the mean curve is fitted by isotonic regression; its sign changes where the cumulated weighted sum
    is largest (Barlow et al. 1972: the minimiser of a monotone sign fit), so the fit itself is not needed.
    """
    draws = values.mean + values.deviations(rng)
    weights = 1 / np.maximum(values.se, TINY) ** 2
    sums = np.cumsum(draws * weights * (1 if falling else -1), axis=1)
    sums = np.hstack([np.zeros((len(sums), 1)), sums])
    split = sums.argmax(axis=1)
    none, every = float((split == 0).mean()), float((split == len(weights)).mean())
    before, beyond = (none, every) if falling else (every, none)
    return before, 1 - none - every, beyond


def slope(values: Estimate, critical: float) -> tuple[float, float, float]:
    """Return the weighted least-squares slope of the mean per factor e of n, with its interval."""
    x = values.x
    weights = 1 / np.maximum(values.se, TINY) ** 2
    centred = x - np.average(x, weights=weights)
    contrast = weights * centred / (weights * centred**2).sum()
    value = float(contrast @ values.mean)
    half = critical * float(np.sqrt(contrast @ values.cov @ contrast))
    return value, value - half, value + half
