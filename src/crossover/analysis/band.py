"""The band of a difference curve, and from it the verdict, the crossing point N* and its confidence set.

D(n) = log err_b - log err_a at the measured sizes; N* is where it crosses zero. The band holds at all sizes at once
(max-|t|); its standard error between sizes is that of linear interpolation. What D does between two sizes is not
measured: the band allows every curve whose slope is at most the steepest of the interval and its neighbours, plus a
margin that grows with how much these slopes differ. Straight curves keep a narrow band; where a change happens entirely
between two sizes, the band fills the box between them. The confidence set of N* is this band inverted, as in Fieller
(1954): one interval, several, or unbounded on a side where the band never leaves zero. It assumes that D does not turn
back between sizes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import interpolate, optimize, stats

from crossover.analysis.estimate import TINY, Estimate, Floats

Verdict = Literal["crossover", "a_better", "b_better", "several_crossings", "undecided"]
Interval = tuple[float | None, float | None]
STEPS = 24
"""Points of the band between two neighbouring sizes; edges are interpolated further."""
BETWEEN = 4
"""The same for the critical value of the whole range."""
STEEP = 1e6
"""In place of an infinite ratio of slopes."""
BEND = 0.25
"""How much steeper D may be between two sizes, per unit by which the slopes around them differ."""


@dataclass(frozen=True)
class Band:
    """A band around the interpolated difference, on a fine grid of log n that contains the sizes."""

    x: Floats
    low: Floats
    high: Floats
    n: Floats
    """The sizes, every STEPS-th point of the grid."""
    half_at_knots: Floats
    ratio: Floats
    """|mean| / standard error at the sizes."""
    critical: float

    @property
    def signs(self) -> Floats:
        """+1 where the whole band is above zero (a is better), -1 where it is below, else 0."""
        return (self.low > 0).astype(float) - (self.high < 0)

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
    """Return the band of all curves that D may be between the sizes, with critical * standard error around them."""
    grid, weights = _weights(values.x, STEPS)
    half = critical * np.sqrt(np.sum((weights @ values.cov) * weights, axis=1))
    low = high = values.mean
    if len(values.n) > 1:
        centre = interpolate.PchipInterpolator(values.x, values.mean)(grid)
        low, high = (end(centre, part) for end, part in zip((np.minimum, np.maximum), _between(values), strict=True))
    ratio = np.abs(values.mean) / np.maximum(values.se, TINY)
    return Band(grid, low - half, high + half, values.n, critical * values.se, ratio, critical)


def _between(values: Estimate) -> tuple[Floats, Floats]:
    """Return the least and the greatest value on the grid of a curve from size to size with a bounded slope."""
    rise, width = np.diff(values.mean), np.diff(values.x)
    sign = np.where(rise < 0, -1.0, 1.0)
    slopes = rise / width
    around = np.full((3, len(rise)), np.nan)
    around[1] = slopes
    around[0, 1:], around[2, :-1] = slopes[:-1], slopes[1:]
    around = np.clip(around * sign, 0, None)  # a neighbour that turns back says nothing about how flat D can be
    steepest, flattest = np.nanmax(around, axis=0), np.nanmin(around, axis=0)
    if len(rise) == 1:
        flattest = np.zeros(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        most = steepest * (1 + BEND * np.nan_to_num(steepest / flattest - 1, posinf=STEEP)) * width
    t = np.arange(STEPS) / STEPS
    first, last = (part[:, None] for part in (np.zeros(len(rise)), np.abs(rise)))
    upper = np.minimum(last, first + most[:, None] * t)
    lower = np.maximum(first, last - most[:, None] * (1 - t))
    ends = [values.mean[:-1, None] + sign[:, None] * part for part in (lower, upper)]
    low, high = (np.append(end(*ends).ravel(), values.mean[-1]) for end in (np.minimum, np.maximum))
    return low, high


def p_value(bounds: Band, confidence: float, df: float) -> float:
    """Return the significance at which the verdict would be lost; 1 without a clear lead.

    Of the weakest lead that the verdict needs, by the tails of the t distribution, scaled to the simultaneous band.
    """
    signs = bounds.knot_signs
    at = np.flatnonzero(signs)
    if verdict(signs) == "undecided":
        return 1.0
    leads = np.split(at, np.flatnonzero(np.diff(signs[at])) + 1)
    needed = float(bounds.ratio[-1]) if len(leads) == 1 else min(float(bounds.ratio[lead].max()) for lead in leads)
    return float(min(1.0, (1 - confidence) * stats.t.sf(needed, df) / stats.t.sf(bounds.critical, df)))


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
    i = knot * STEPS if len(bounds.n) > 1 else 0
    sign = bounds.signs[i]
    distance = bounds.low if sign > 0 else -bounds.high
    while 0 <= i + step < len(bounds.x) and bounds.signs[i + step] == sign:
        i += step
    j = i + step
    if not 0 <= j < len(bounds.x):
        return float(bounds.n[knot])
    share = distance[i] / (distance[i] - distance[j])
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
