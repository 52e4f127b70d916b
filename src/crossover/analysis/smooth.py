"""The mean curve of one noisy training history, by local quadratic fits of log error on log n.

For external curves with many unaligned sizes and one replicate. Weights are tricube within a bandwidth of log n
(Cleveland 1979), widened until it holds MIN_POINTS sizes; the bandwidth minimises the leave-one-out error. The interval
comes from the residual noise along the curve, assumed independent: it contains neither the variation between training
runs nor the bias of smoothing, so it is too narrow where the curve bends within a bandwidth.
"""

from dataclasses import dataclass

import numpy as np

from crossover.analysis.estimate import TINY, Floats

MIN_SIZES = 8
"""Distinct sizes that a curve needs for its residual noise to be informative."""
MIN_POINTS = 7
GRID = 15
"""Sizes at which two smoothed curves are compared."""
BANDWIDTHS = (0.35, 0.5, 0.7, 1.0, 1.5, 2.2, 3.3)


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
    """Return the smoothed log error over log n; `n` has at least MIN_SIZES different values."""
    order = np.argsort(n, kind="stable")
    x, y = np.log(n[order]), np.log(error[order])
    operators = {bandwidth: _operator(x, x, bandwidth) for bandwidth in BANDWIDTHS}
    bandwidth = min(BANDWIDTHS, key=lambda h: _left_out_error(operators[h], y))
    operator = operators[bandwidth]
    residuals = y - operator @ y
    freedom = 1 - 2 * np.diag(operator) + (operator**2).sum(axis=1)
    return Smooth(x, y, _local_variance(x, residuals, freedom), bandwidth, max(float(freedom.sum()), 1.0))


def _left_out_error(operator: Floats, y: Floats) -> float:
    leverage = np.minimum(np.diag(operator), 0.999)
    return float((((y - operator @ y) / (1 - leverage)) ** 2).mean())


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
