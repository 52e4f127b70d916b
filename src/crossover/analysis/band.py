"""The band of a difference curve, and from it the verdict, the crossing point N* and its confidence set.

D(n) = log err_b - log err_a at the measured sizes; N* is where it crosses zero. The band holds at all sizes at once
(max-|t|). What D does between two sizes is not measured: the band allows every curve whose slope is at most the
steepest of the interval and its neighbours, plus a margin. The confidence set of N* is this band inverted, as in
Fieller (1954). It assumes that D does not turn back between sizes. docs/estimators.md says more.
"""

import itertools
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

    values: Estimate
    critical: float
    x: Floats
    """The grid; the sizes are every STEPS-th point."""
    low: Floats
    high: Floats

    @property
    def signs(self) -> Floats:
        """+1 where the whole band is above zero (a is better), -1 where it is below, else 0."""
        return (self.low > 0).astype(float) - (self.high < 0)

    @property
    def knot_signs(self) -> Floats:
        return self.signs[::STEPS]


def _grid(values: Estimate, steps: int) -> tuple[Floats, Floats, Floats]:
    """Return a grid with `steps` intervals between sizes, the (G, J) weights of linear interpolation, and its se."""
    knots = np.arange(len(values.n))
    place = np.arange((len(knots) - 1) * steps + 1) / steps
    weights = np.maximum(0, 1 - np.abs(place[:, None] - knots))
    se = np.sqrt(np.sum((weights @ values.cov) * weights, axis=1))
    return np.interp(place, knots, values.x), weights, se


def infer(values: Estimate, confidence: float, rng: np.random.Generator) -> tuple[Band, list[Interval]]:
    """Return the band that holds over the whole range, and the confidence set of the crossings that it establishes.

    Between the two sizes that establish a crossing D depends on them and their neighbours alone.
    """
    _, weights, se = _grid(values, BETWEEN)
    ratios = np.abs(values.deviations(rng) @ weights.T / se)
    bounds = band(values, float(np.quantile(ratios.max(axis=1), confidence)))
    at_sizes = ratios[:, ::BETWEEN]
    found = changes(bounds.knot_signs)
    if len(found) == 1:
        at_sizes = at_sizes[:, max(found[0][0] - 1, 0) : found[0][1] + 2]
    critical = float(np.quantile(at_sizes.max(axis=1), confidence))
    return bounds, confidence_set(band(values, critical), bounds.knot_signs)


def band(values: Estimate, critical: float) -> Band:
    """Return the band of all curves that D may be between the sizes, with critical * standard error around them."""
    grid, _, se = _grid(values, STEPS)
    low = high = values.mean
    if len(values.n) > 1:
        centre = interpolate.PchipInterpolator(values.x, values.mean)(grid)
        least, greatest = _between(values)
        low, high = np.minimum(centre, least), np.maximum(centre, greatest)
    return Band(values, critical, grid, low - critical * se, high + critical * se)


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
    most, last = most[:, None], np.abs(rise)[:, None]
    late, early = np.maximum(0, last - most * (1 - t)), np.minimum(last, most * t)
    ends = [values.mean[:-1, None] + sign[:, None] * part for part in (late, early)]
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
    ratio = np.abs(bounds.values.mean) / np.maximum(bounds.values.se, TINY)
    needed = float(ratio[-1]) if len(leads) == 1 else min(float(ratio[lead].max()) for lead in leads)
    return float(min(1.0, (1 - confidence) * stats.t.sf(needed, df) / stats.t.sf(bounds.critical, df)))


def verdict(signs: Floats) -> Verdict:
    """Return what the signs of the band at the measured sizes establish.

    A leader must be ahead at the largest size and nowhere behind; a crossover needs each model ahead somewhere.
    """
    found = changes(signs)
    if found:
        return "crossover" if len(found) == 1 else "several_crossings"
    if signs[-1] == 0:
        return "undecided"
    return "a_better" if signs[-1] > 0 else "b_better"


def changes(signs: Floats) -> list[tuple[int, int]]:
    """Return the sizes (as positions) between which the clear leader changes."""
    at = [int(i) for i in np.flatnonzero(signs)]
    return [(i, j) for i, j in itertools.pairwise(at) if signs[i] != signs[j]]


def confidence_set(bounds: Band, signs: Floats | None = None) -> list[Interval]:
    """Return the sizes at which the sign can change, given the crossings that `signs` establish (those of the band).

    With no crossing established: where b could overtake a, at, beyond or (null) outside the measured range.
    """
    signs = bounds.knot_signs if signs is None else signs
    at = np.flatnonzero(signs)
    if not len(at):
        return [(None, None)]
    found = changes(signs)
    if found:
        return [(_edge(bounds, i, +1), _edge(bounds, j, -1)) for i, j in found]
    if signs[at[0]] > 0:
        return [(_edge(bounds, int(at[-1]), +1), None)]
    return [(None, _edge(bounds, int(at[0]), -1))]


def _edge(bounds: Band, knot: int, step: Literal[-1, 1]) -> float:
    """Return the n at which the band first contains zero, walking from a significant knot."""
    i = knot * STEPS
    sign = bounds.signs[i]
    distance = bounds.low if sign > 0 else -bounds.high
    while 0 <= i + step < len(bounds.x) and bounds.signs[i + step] == sign:
        i += step
    j = i + step
    if not 0 <= j < len(bounds.x):
        return float(bounds.values.n[knot])
    share = distance[i] / (distance[i] - distance[j])
    return float(np.exp(bounds.x[i] + share * (bounds.x[j] - bounds.x[i])))


def root(values: Estimate, falling: bool | None, bracket: tuple[int, int] | None = None) -> float | None:
    """Return the n at which the monotone interpolant of the mean is zero, None if it does not change sign.

    Isotonic regression (weights 1 / variance) between the two sizes of `bracket`, or the extremes on both sides of the
    best split; then PCHIP in log n through all sizes. The curve falls, rises, or (None) crosses zero as it can, and if
    it can do both, as fits the mean better: a gap may widen first, and close later.
    """
    if len(values.n) < 2:
        return None
    weights = 1 / np.maximum(values.se, TINY) ** 2
    if falling is None:
        roots = [root(values, way) for way in (True, False)]
        if None in roots:
            return next((found for found in roots if found is not None), None)
        fits = [optimize.isotonic_regression(values.mean, weights=weights, increasing=up).x for up in (False, True)]
        down, up = (float((weights * (values.mean - fit) ** 2).sum()) for fit in fits)
        return roots[0] if down <= up else roots[1]
    mean = values.mean if falling else -values.mean
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


def root_probabilities(values: Estimate, falling: bool, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the probabilities that b leads from the smallest size on, that one model overtakes, and that a leads on.

    The overtaking is that of b if `falling`, else that of a. The isotonic fit of a draw changes its sign where the
    cumulated weighted sum is largest (Barlow et al. 1972).
    """
    weights = (1 if falling else -1) / np.maximum(values.se, TINY) ** 2
    sums = np.cumsum((values.mean + values.deviations(rng)) * weights, axis=1)
    split = np.where(sums.max(axis=1) > 0, sums.argmax(axis=1) + 1, 0)
    none, every = float((split == 0).mean()), float((split == len(weights)).mean())
    before, beyond = (none, every) if falling else (every, none)
    return before, 1 - none - every, beyond
