"""Mean curves over sizes with their joint uncertainty: from few replicate chains, or from one noisy history.

Chains are the random unit. The variance of a size is moderated (Smyth 2004, "Linear models and empirical Bayes
methods", Stat. Appl. Genet. Mol. Biol. 3:3, section 6.2), but never below what the size itself shows, since one noisy
size among quiet ones cannot be told from chance. A history of many sizes is smoothed by local quadratic fits of log
error on log n with tricube weights (Cleveland 1979); its interval comes from the noise along the curve, and is too
narrow where the curve bends within a bandwidth. docs/estimators.md says more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Floats = NDArray[np.floating[Any]]
DRAWS = 10_000
"""Monte Carlo draws: the 95% critical value is then known to better than 1%."""
BOOTSTRAP_CHAINS = 8
"""With at least this many complete chains, entire chains are resampled; with fewer, deviations are Gaussian."""
TINY = 1e-9
"""Smallest standard deviation of a log error: exact curves have a band of this order, not of zero."""
MIN_TO_SMOOTH = 8
"""Distinct sizes that a curve needs for its residual noise to be informative."""
MIN_POINTS = 7
GRID = 15
"""Sizes at which two smoothed curves are compared."""
BANDWIDTHS = (0.35, 0.5, 0.7, 1.0, 1.5, 2.2, 3.3)


@dataclass(frozen=True)
class Estimate:
    """Values of a curve at increasing sizes, with their joint uncertainty."""

    n: Floats
    mean: Floats
    cov: Floats
    """Covariance of `mean`, (J, J)."""
    df: float
    """Degrees of freedom of that covariance; 0 without replicates, when `cov` is meaningless."""
    noise: Floats | None = None
    """Covariance over sizes of one chain, (J, J); None without chains."""
    residuals: Floats | None = None
    """(K, J) of complete chains, scaled to the moderated variance; resampled as a unit when there are enough."""
    extra: Floats | None = None
    """The part of `cov` that is not between chains: test images, interpolation."""
    values: Floats | None = None
    """(K, J) of complete chains as measured; None without chains."""

    @property
    def x(self) -> Floats:
        return np.log(self.n)

    @property
    def se(self) -> Floats:
        return np.sqrt(np.diag(self.cov))

    def deviations(self, rng: np.random.Generator, draws: int = DRAWS) -> Floats:
        """Return (draws, J) deviations of the mean from the truth, the uncertainty of the variance included."""
        if self.residuals is not None and len(self.residuals) >= BOOTSTRAP_CHAINS:
            chains = len(self.residuals)
            counts = rng.multinomial(chains, np.full(chains, 1 / chains), size=draws)
            normal = counts @ self.residuals / np.sqrt(chains * (chains - 1))
            if self.extra is not None:
                normal = normal + _gaussian(self.extra, rng, draws)
        else:
            normal = _gaussian(self.cov, rng, draws)
        if np.isinf(self.df):
            return normal
        return normal * np.sqrt(self.df / rng.chisquare(self.df, size=(draws, 1)))


def _gaussian(cov: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Return draws through the symmetric root of `cov`, as eigenvectors may differ between machines."""
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return rng.standard_normal((draws, len(cov))) @ root


def t_value(confidence: float, df: float) -> float:
    """Return the critical value of a t interval for one size; NaN without degrees of freedom."""
    return float(stats.t.ppf((1 + confidence) / 2, df or np.nan))


def without_replicates(n: Floats, mean: Floats) -> Estimate:
    """Return a mean curve whose uncertainty is unknown."""
    return Estimate(n, mean, np.eye(len(n)), 0.0)


def estimate(n: Floats, values: Floats, extra: Floats | None = None) -> Estimate:
    """Return the mean over chains of `values` (K, J; NaN where a run is missing); `df` is 0 without any replicates.

    `extra` (J, J) is a covariance of the mean that does not come from the chains, such as that of test images.
    Every size needs at least one value.
    """
    present = np.isfinite(values)
    counts = present.sum(axis=0)
    mean = np.nansum(values, axis=0) / counts
    residuals = np.where(present, values - mean, 0.0)
    dfs = counts - 1.0
    if dfs.sum() < 1:
        return without_replicates(n, mean)
    raw = (residuals**2).sum(axis=0) / np.maximum(dfs, 1)
    correlation = _correlation(np.log(n), residuals, raw)
    variance, df = _moderate(np.log(n), raw, dfs, correlation)
    variance = np.maximum(variance, raw)
    shared = present.T.astype(float) @ present / np.outer(counts, counts)
    noise = np.sqrt(np.outer(variance, variance)) * correlation
    cov = noise * shared
    scaled = residuals * np.sqrt(variance / np.maximum(raw, TINY**2)) if present.all() else None
    whole = values[present.all(axis=1)]
    return Estimate(n, mean, cov if extra is None else cov + extra, df, noise, scaled, extra, whole)


def difference(one: Estimate, other: Estimate, extra: Floats | None = None) -> Estimate:
    """Return other - one at the same sizes, of curves whose chains are not paired (Welch and Satterthwaite)."""
    first, second = (float(np.diag(part.cov).mean()) for part in (one, other))
    df = (first + second) ** 2 / (first**2 / one.df + second**2 / other.df)
    cov = one.cov + other.cov
    return Estimate(one.n, other.mean - one.mean, cov if extra is None else cov + extra, df)


def for_new_images(values: Estimate, share: Floats) -> Estimate | None:
    """Return the estimate for chains of new images, at the sizes below `share` 1 of the pool; None if they are too few.

    Subsets share f of their images, so that their spread shows only 1 - f of the variance, and the shared part does not
    shrink with the number of chains K: the variance of the mean grows by 1 + K f / (1 - f). All of the spread is
    attributed to the subsets, so the interval is conservative.
    """
    kept = np.flatnonzero(share < 1)
    if values.noise is None or len(kept) < min(2, len(share)):
        return None
    grown = np.sqrt(share[kept] / (1 - share[kept]))
    block = np.ix_(kept, kept)
    shared = values.noise[block] * np.outer(grown, grown)
    return Estimate(values.n[kept], values.mean[kept], values.cov[block] + shared, values.df)


def trend(values: Estimate, confidence: float) -> tuple[float, float, float]:
    """Return the mean slope per factor e of n, with all sizes weighted equally, and its t interval.

    From one slope per complete chain, whatever the correlation of sizes; from the covariance without chains.
    """
    centred = values.x - values.x.mean()
    contrast = centred / (centred**2).sum()
    middle, df = float(contrast @ values.mean), values.df
    variance = float(contrast @ values.cov @ contrast)
    if values.values is not None and len(values.values) > 1:
        chains = len(values.values)
        slopes = values.values @ contrast
        between = float(slopes.var(ddof=1)) / chains
        images = 0.0 if values.extra is None else float(contrast @ values.extra @ contrast)
        variance, middle = max(between + images, TINY**2), float(slopes.mean())
        df = (chains - 1) * (variance / max(between, TINY**2)) ** 2
    half = t_value(confidence, df) * np.sqrt(variance)
    return middle, middle - half, middle + half


def _correlation(x: Floats, residuals: Floats, variance: Floats) -> Floats:
    """Return rho ** (distance in units of the mean spacing), rho in [0, 0.95] pooled over neighbouring sizes."""
    if len(x) == 1:
        return np.ones((1, 1))
    scale = np.sqrt(np.maximum(variance, TINY**2))
    z = residuals / scale
    both = (residuals[:, 1:] != 0) & (residuals[:, :-1] != 0)
    products = (z[:, 1:] * z[:, :-1])[both]
    energy = 0.5 * (z[:, 1:] ** 2 + z[:, :-1] ** 2)[both]
    rho = float(np.clip(products.sum() / energy.sum(), 0, 0.95)) if both.any() else 0.0
    return rho ** (np.abs(np.subtract.outer(x, x)) / np.diff(x).mean())


def _moderate(x: Floats, raw: Floats, dfs: Floats, correlation: Floats) -> tuple[Floats, float]:
    """Return the moderated variance of every size, and the degrees of freedom of a typical one.

    The common variance may change with n: its log is linear in log n, the slope shrunk towards zero (James-Stein).
    """
    known = dfs > 0
    raw = np.maximum(raw, TINY**2)
    own = float(dfs[known].mean())
    pooled = float((dfs * raw).sum() / dfs.sum())
    sizes = int(known.sum())
    block = correlation[np.ix_(known, known)]
    most = own * sizes**2 / float((block**2).sum())
    if sizes < 2 or pooled <= TINY**2:
        return np.full(len(raw), pooled), most
    d = dfs[known]
    logs = np.log(np.maximum(raw[known], 1e-4 * pooled)) - special.digamma(d / 2) + np.log(d / 2)
    sampling = special.polygamma(1, d / 2).mean()
    centred = x - x[known].mean()
    spread = (centred[known] ** 2).sum()
    slope = float(centred[known] @ logs / spread)
    trust = max(0.0, 1 - 2 * sampling / spread / max(slope**2, TINY)) if sizes > 3 else 0.0
    slope, most = slope * trust, max(most - own * trust, own)
    shape = np.exp(slope * centred)
    common = shape * float((dfs * raw / shape).sum() / dfs.sum())
    overlap = ((block**2).sum() - sizes) / (sizes * (sizes - 1))
    excess = (logs - slope * centred[known]).var(ddof=1) - (1 - overlap) * sampling
    prior = most - own
    if excess > 0:  # solve trigamma(y) = excess; 1 / y < trigamma(y) < 1 / y + 1 / y^2 bounds the root
        ends = 0.5 / excess, 2 / excess + 1 / np.sqrt(excess)
        inverse = float(optimize.brentq(lambda y: special.polygamma(1, y) - excess, *ends, rtol=1e-12))
        prior = min(2 * inverse, prior)
    moderated = (prior * common + dfs * raw) / np.where(known, prior + dfs, 1)
    return np.where(known, moderated, common), min(own + prior, most)


@dataclass(frozen=True)
class Smooth:
    """A smoothed curve; `at` evaluates it."""

    x: Floats
    y: Floats
    variance: Floats
    """Of the noise of every point."""
    bandwidth: float
    df: float
    """Degrees of freedom of the residuals."""

    def at(self, grid: Floats) -> tuple[Floats, Floats]:
        """Return the values at a grid of log n, and their covariance."""
        operator = _operator(self.x, grid, self.bandwidth)
        return operator @ self.y, (operator * self.variance) @ operator.T


def smooth(n: Floats, error: Floats) -> Smooth:
    """Return the smoothed log error over log n; `n` has at least MIN_TO_SMOOTH different values."""
    order = np.argsort(n, kind="stable")
    x, y = np.log(n[order]), np.log(error[order])
    operators = {bandwidth: _operator(x, x, bandwidth) for bandwidth in BANDWIDTHS}
    errors = {}
    for bandwidth, operator in operators.items():
        left_out = (y - operator @ y) / (1 - np.minimum(np.diag(operator), 0.999))
        errors[bandwidth] = float((left_out**2).mean())
    bandwidth = min(BANDWIDTHS, key=errors.__getitem__)
    operator = operators[bandwidth]
    residuals = y - operator @ y
    freedom = 1 - 2 * np.diag(operator) + (operator**2).sum(axis=1)
    return Smooth(x, y, _local_variance(x, residuals, freedom), bandwidth, max(float(freedom.sum()), 1.0))


def _operator(x: Floats, grid: Floats, bandwidth: float) -> Floats:
    """Return the (G, N) matrix that maps values at x to local quadratic fits at the grid."""
    distance = np.abs(grid[:, None] - x)
    nearest = np.sort(distance, axis=1)[:, min(MIN_POINTS, len(x)) - 1]
    width = np.maximum(bandwidth, 1.01 * nearest)[:, None]
    weight = np.clip(1 - (distance / width) ** 3, 0, None) ** 3
    offset = (x - grid[:, None]) / width
    basis = np.stack([np.ones_like(offset), offset, offset**2], axis=-1)
    gram = np.einsum("gn,gni,gnj->gij", weight, basis, basis) + 1e-10 * np.eye(3)
    first = np.linalg.solve(gram, np.broadcast_to([[1.0], [0.0], [0.0]], (len(grid), 3, 1)))[..., 0]
    return np.einsum("gi,gni->gn", first, basis) * weight


def _local_variance(x: Floats, residuals: Floats, freedom: Floats) -> Floats:
    """Return the residual variance of the neighbourhood: at least a third of the range and the weight of 20 points."""
    width = max((x[-1] - x[0]) / 3, TINY)
    weight = np.exp(-0.5 * (np.subtract.outer(x, x) / width) ** 2)
    local = weight @ residuals**2 / np.maximum(weight @ np.clip(freedom, 0, None), TINY)
    overall = (residuals**2).sum() / max(freedom.sum(), 1.0)
    share = weight.sum(axis=1) / (weight.sum(axis=1) + 20)
    return np.maximum(share * local + (1 - share) * overall, TINY**2)
