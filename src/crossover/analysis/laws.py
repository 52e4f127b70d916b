"""Scaling laws of learning curves, and their least-squares fits to log error.

Laws (n images, error e), numbered as in Alabdulmohsin, Neyshabur and Zhai 2022, "Revisiting neural scaling laws in
language and vision" (section 3):

    M1      e = b n^-c
    M2      e = e_inf + b n^-c
    M3      e = b (1/n + g)^c
    M4      (e - e_inf) / (e0 - e)^a = b n^-c          e0 = error of guessing
    chance  e = e_inf + (e0 - e_inf) (1 + n / n0)^-c   a power law that starts at e0

Few sizes leave some parameters undetermined, so that rounding would choose the fit. A prior too weak to matter
elsewhere settles them; every start is followed to its minimum, all at once, as scipy cannot; a tie goes to the first.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.polynomial import polynomial
from scipy import special

from crossover.analysis.estimate import Floats

PRIOR = 3e-5
"""Weight of the prior: bounded parameters are near 5% of their bound, logarithms near zero. A step of another 5%, or of
one in a logarithm, costs as much as one log error that is off by this."""
ITERATIONS = 200
LARGE = 300.0
"""A logarithm beyond which a power is cut off."""
BOUNDS = {"c": 10.0, "a": 20.0}
"""Upper ends of the bounded parameters; the lower ends are 0."""

Starts = Sequence[tuple[float, ...]]
Formula = Callable[[Floats, Floats, float], tuple[Floats, tuple[Floats, ...]]]
"""(parameters (P, S, 1), scales as logarithms; log n (N,); e0) to log e (S, N) and its derivatives by each."""


@dataclass(frozen=True)
class Law:
    names: tuple[str, ...]
    formula: Formula
    starts: Callable[[Floats, Floats, float], Starts]
    """(log n, error, e0) to starting values."""


def _m1(p: Floats, x: Floats, _e0: float) -> tuple[Floats, tuple[Floats, ...]]:
    log_b, c = p
    return log_b - c * x, (np.ones_like(c * x), -x + 0 * c)


def _m2(p: Floats, x: Floats, _e0: float) -> tuple[Floats, tuple[Floats, ...]]:
    e_inf, log_b, c = p
    above = np.exp(np.clip(log_b - c * x, -LARGE, LARGE))
    e = e_inf + above
    return np.log(e), (1 / e, above / e, -x * above / e)


def _m3(p: Floats, x: Floats, _e0: float) -> tuple[Floats, tuple[Floats, ...]]:
    log_b, g, c = p
    inner = np.exp(-x) + g
    return log_b + c * np.log(inner), (np.ones_like(inner), c / inner, np.log(inner))


def _m4(p: Floats, x: Floats, e0: float) -> tuple[Floats, tuple[Floats, ...]]:
    """Solve M4 for e = e_inf + (e0 - e_inf) sigmoid(u): its log is concave or convex in u, and Newton is safe."""
    e_inf, log_b, c, a = p
    a = np.maximum(a, 1e-6)
    width = e0 - e_inf
    target = log_b - c * x + (a - 1) * np.log(width)
    u = np.where(target < 0, target, target / a)
    for _ in range(100):
        step = (special.log_expit(u) - a * special.log_expit(-u) - target) / (special.expit(-u) + a * special.expit(u))
        u = u - step
        if np.abs(step).max() < 1e-13 * (1 + np.abs(u).max()):
            break
    share = special.expit(u)
    e = np.maximum(e_inf + width * share, np.exp(-LARGE))
    by_target = width * share * (1 - share) / (1 - share + a * share) / e
    by_floor = (1 - share) / e - by_target * (a - 1) / width
    return np.log(e), (by_floor, by_target, -x * by_target, by_target * (np.log(width) + special.log_expit(-u)))


def _chance(p: Floats, x: Floats, e0: float) -> tuple[Floats, tuple[Floats, ...]]:
    e_inf, log_n0, c = p
    bent = np.logaddexp(0, x - log_n0)
    left = np.exp(-c * bent)
    e = e_inf + (e0 - e_inf) * left + np.exp(-LARGE)
    scale = (e0 - e_inf) * left / e
    return np.log(e), ((1 - left) / e, scale * c * special.expit(x - log_n0), -scale * bent)


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Return the level at zero and the fall of the line through the points."""
    level, slope = polynomial.polyfit(x, y, 1)
    return float(level), -float(slope)


def _starts_m1(x: Floats, e: Floats, _e0: float) -> Starts:
    return [_line(x, np.log(e))]


def _starts_m2(x: Floats, e: Floats, _e0: float) -> Starts:
    floors = np.array([0.0, 0.3, 0.6, 0.8, 0.9, 0.97]) * e.min()
    return [(floor, *_line(x, np.log(e - floor))) for floor in floors]


def _starts_m3(x: Floats, e: Floats, _e0: float) -> Starts:
    bends = np.array([0.0025, 0.05, 0.2, 0.6, 1.6, 5.0]) * np.exp(-x[-1])
    lines = [_line(np.log(np.exp(-x) + g), np.log(e)) for g in bends]
    return [(log_b, g, -fall) for g, (log_b, fall) in zip(bends, lines, strict=True)]


def _starts_m4(x: Floats, e: Floats, e0: float) -> Starts:
    room = np.log(np.maximum(e0 - e, 1e-3 * e0))
    pairs = itertools.product(np.array([0.0, 0.5, 0.9]) * e.min(), (0.2, 0.7, 1.5, 3.0))
    return [(floor, *_line(x, np.log(e - floor) - a * room), a) for floor, a in pairs]


def _starts_chance(x: Floats, e: Floats, e0: float) -> Starts:
    starts = []
    for floor, place in itertools.product(np.array([0.0, 0.5, 0.9]) * e.min(), (0.0, 0.3, 0.6)):
        log_n0 = x[0] - 1 + place * (x[-1] - x[0])
        inner = np.log(np.clip((e - floor) / (e0 - floor), 1e-9, 1))
        steps = np.logaddexp(0, x - log_n0)
        starts.append((floor, log_n0, -float(steps @ inner / (steps @ steps))))
    return starts


LAWS: dict[str, Law] = {
    "M1": Law(("log_b", "c"), _m1, _starts_m1),
    "M2": Law(("e_inf", "log_b", "c"), _m2, _starts_m2),
    "M3": Law(("log_b", "g", "c"), _m3, _starts_m3),
    "M4": Law(("e_inf", "log_b", "c", "a"), _m4, _starts_m4),
    "chance": Law(("e_inf", "log_n0", "c"), _chance, _starts_chance),
}


@dataclass(frozen=True)
class Fit:
    """A fitted law."""

    law: str
    theta: Floats
    """Parameters in the order of LAWS[law].names, scales as logarithms."""
    spread: Floats
    """Standard errors of `theta` (first order); NaN at a bound."""
    sigma: float
    """Residual standard deviation of log error."""
    e0: float
    compared: dict[str, float] = field(default_factory=dict)
    """RMSE of log error on the largest sizes, by fits to the others alone, of every law and of `last value`."""

    @property
    def params(self) -> dict[str, float]:
        """Parameters as in the formulas."""
        pairs = zip(LAWS[self.law].names, self.theta, strict=True)
        return {k.removeprefix("log_"): float(np.exp(v) if k.startswith("log_") else v) for k, v in pairs}

    @property
    def standard_errors(self) -> dict[str, float | None]:
        """Standard errors of `params`; None at a bound."""
        values = zip(self.params.items(), LAWS[self.law].names, self.spread, strict=True)
        scaled = {k: s * (v if name.startswith("log_") else 1) for (k, v), name, s in values}
        return {k: float(s) if np.isfinite(s) else None for k, s in scaled.items()}

    def predict(self, n: Floats) -> Floats:
        """Return the error at n images."""
        return np.exp(LAWS[self.law].formula(self.theta[:, None], np.log(np.asarray(n, float)), self.e0)[0])


def fit_law(law: str, n: Floats, error: Floats, *, weights: Floats | None = None, chance: float | None = None) -> Fit:
    """Return the least-squares fit of one law to errors at increasing sizes, at least as many as it has parameters.

    `weights` are 1 / variance of log error, `chance` is e0 (default 1).
    """
    form, x, y = LAWS[law], np.log(n), np.log(error)
    root_w = np.ones(len(n)) if weights is None else np.sqrt(weights / weights.mean())
    e0 = max(1.0 if chance is None else chance, 1.0001 * float(error.max()))
    tops = BOUNDS | {"e_inf": min(1.5 * float(error.min()), 0.999 * e0), "g": float(np.exp(-x[0]))}
    high = np.array([tops.get(name, np.inf) for name in form.names])
    bounded = np.isfinite(high)
    unit = np.where(bounded, 0.05 * high, 1.0)
    low, high = np.where(bounded, 0.0, -np.inf), high / unit

    def cost(z: Floats) -> tuple[Floats, Floats]:
        """Return (S, N + P) weighted residuals, of the prior last, and their (S, N + P, P) derivatives by z (S, P)."""
        value, by = form.formula((z * unit).T[:, :, None], x, e0)
        inner = np.stack(by, axis=-1) * (root_w[:, None] * unit)
        outer = np.broadcast_to(PRIOR * np.eye(len(unit)), (len(z), len(unit), len(unit)))
        residuals = np.concatenate([(value - y) * root_w, PRIOR * (z - bounded)], axis=1)
        return residuals, np.concatenate([inner, outer], axis=1)

    starts = np.clip(np.array(form.starts(x, error, e0)) / unit, low, high)
    found, losses = _descend(cost, starts, low, high)
    best = found[[int(np.argmax(losses <= losses.min() * (1 + 1e-6) + 1e-20))]]
    residuals, by = (part[0] for part in cost(best))
    sigma = float(np.sqrt((residuals[: len(x)] ** 2).sum() / max(len(x) - len(high), 1)))
    inside = (best[0] > low) & (best[0] < high)
    spread = np.full(len(high), np.nan)
    spread[inside] = sigma * np.sqrt(np.diag(np.linalg.inv(by[:, inside].T @ by[:, inside]))) * unit[inside]
    return Fit(law, best[0] * unit, spread, sigma, e0)


def _descend(
    cost: Callable[[Floats], tuple[Floats, Floats]], z: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats]:
    """Minimise least squares within the bounds from every start (S, P) (Levenberg-Marquardt); return the costs.

    A parameter at a bound stays there if the gradient points outwards.
    """
    residuals, by = cost(z)
    loss, damping = (residuals**2).sum(axis=1), np.full(len(z), 1e-3)
    for _ in range(ITERATIONS):
        gradient = (by.transpose(0, 2, 1) @ residuals[:, :, None])[..., 0]
        held = ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
        free = by * ~held[:, None, :]
        gram = free.transpose(0, 2, 1) @ free
        diagonal = np.einsum("sii->si", gram) * damping[:, None] + held
        step = np.linalg.solve(gram + diagonal[:, :, None] * np.eye(z.shape[1]), (gradient * ~held)[:, :, None])[..., 0]
        tried = np.clip(z - step, low, high)
        tried_residuals, tried_by = cost(tried)
        tried_loss = (tried_residuals**2).sum(axis=1)
        moved = np.abs(tried - z)
        better = tried_loss <= loss
        z, loss = np.where(better[:, None], tried, z), np.where(better, tried_loss, loss)
        residuals = np.where(better[:, None], tried_residuals, residuals)
        by = np.where(better[:, None, None], tried_by, by)
        damping = np.where(better, np.maximum(damping / 5, 1e-12), damping * 4)
        if (moved <= 1e-9 * (1 + np.abs(z))).all():
            break
    return z, loss
