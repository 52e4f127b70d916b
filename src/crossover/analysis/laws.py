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
from collections.abc import Callable
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

Parameters = dict[str, Floats]
Formula = Callable[[Parameters, Floats, float], tuple[Floats, Parameters]]
"""(parameters (S, 1), scales as logarithms; log n (N,); e0) to log e (S, N) and its derivatives by each."""


@dataclass(frozen=True)
class Law:
    names: tuple[str, ...]
    formula: Formula
    grid: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Starting values of those parameters without which the law is a line: e_inf as a share of the least error, g of
    1 / n at the largest size, log_n0 from one below the smallest size (0) to the largest (1)."""

    def starts(self, x: Floats, e: Floats, e0: float) -> Floats:
        """Return starting values (S, P): those of the grid, and of the others where the line is closest."""
        starts = []
        for values in itertools.product(*self.grid.values()):
            p = {"e_inf": 0.0, "g": 0.0, "a": 0.0, **dict(zip(self.grid, values, strict=True))}
            p["e_inf"] *= e.min()
            p["g"] *= np.exp(-x[-1])
            inner = np.log(np.exp(-x) + p["g"])
            if "log_n0" in p:
                p["log_n0"] = x[0] - 1 + p["log_n0"] * (x[-1] - x[0])
                inner = -np.logaddexp(0, x - p["log_n0"])
            room = np.log(np.maximum(e0 - e, 1e-3 * e0))
            p["log_b"], p["c"] = polynomial.polyfit(inner, np.log(e - p["e_inf"]) - p["a"] * room, 1)
            starts.append([p[name] for name in self.names])
        return np.array(starts)

    def log_error(self, theta: Floats, x: Floats, e0: float) -> tuple[Floats, Floats]:
        """Return log e (S, N) and its derivatives (S, N, P) by the parameters (S, P)."""
        value, by = self.formula(dict(zip(self.names, theta.T[:, :, None], strict=True)), x, e0)
        return value, np.stack(np.broadcast_arrays(*(by[name] for name in self.names)), axis=-1)


def _power(p: Parameters, x: Floats, _e0: float) -> tuple[Floats, Parameters]:
    """Return M1, M2 and M3, which lack e_inf or g."""
    g, c = p.get("g", np.zeros(1)), p["c"]
    inner = np.exp(-x) + g
    above = np.exp(np.clip(p["log_b"] + c * np.log(inner), -LARGE, LARGE))
    e = p.get("e_inf", np.zeros(1)) + above
    share = above / e
    return np.log(e), {"e_inf": 1 / e, "log_b": share, "g": share * c / inner, "c": share * np.log(inner)}


def _m4(p: Parameters, x: Floats, e0: float) -> tuple[Floats, Parameters]:
    """Solve M4 for e = e_inf + (e0 - e_inf) sigmoid(u): its log is concave or convex in u, and Newton is safe."""
    a = np.maximum(p["a"], 1e-6)
    width = e0 - p["e_inf"]
    target = p["log_b"] - p["c"] * x + (a - 1) * np.log(width)
    u = np.where(target < 0, target, target / a)
    for _ in range(100):
        step = (special.log_expit(u) - a * special.log_expit(-u) - target) / (special.expit(-u) + a * special.expit(u))
        u = u - step
        if np.abs(step).max() < 1e-13 * (1 + np.abs(u).max()):
            break
    share = special.expit(u)
    e = np.maximum(p["e_inf"] + width * share, np.exp(-LARGE))
    by = width * share * (1 - share) / (1 - share + a * share) / e
    by_a = by * (np.log(width) + special.log_expit(-u))
    return np.log(e), {"e_inf": (1 - share) / e - by * (a - 1) / width, "log_b": by, "c": -x * by, "a": by_a}


def _chance(p: Parameters, x: Floats, e0: float) -> tuple[Floats, Parameters]:
    bent = np.logaddexp(0, x - p["log_n0"])
    left = np.exp(-p["c"] * bent)
    e = p["e_inf"] + (e0 - p["e_inf"]) * left + np.exp(-LARGE)
    scale = (e0 - p["e_inf"]) * left / e
    by_n0 = scale * p["c"] * special.expit(x - p["log_n0"])
    return np.log(e), {"e_inf": (1 - left) / e, "log_n0": by_n0, "c": -scale * bent}


LAWS: dict[str, Law] = {
    "M1": Law(("log_b", "c"), _power),
    "M2": Law(("e_inf", "log_b", "c"), _power, {"e_inf": (0.0, 0.3, 0.6, 0.8, 0.9, 0.97)}),
    "M3": Law(("log_b", "g", "c"), _power, {"g": (0.0025, 0.05, 0.2, 0.6, 1.6, 5.0)}),
    "M4": Law(("e_inf", "log_b", "c", "a"), _m4, {"e_inf": (0.0, 0.5, 0.9), "a": (0.2, 0.7, 1.5, 3.0)}),
    "chance": Law(("e_inf", "log_n0", "c"), _chance, {"e_inf": (0.0, 0.5, 0.9), "log_n0": (0.0, 0.3, 0.6)}),
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
        return np.exp(LAWS[self.law].log_error(self.theta[None], np.log(n), self.e0)[0][0])


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
        value, by = form.log_error(z * unit, x, e0)
        inner = by * (root_w[:, None] * unit)
        outer = np.broadcast_to(PRIOR * np.eye(len(unit)), (len(z), len(unit), len(unit)))
        residuals = np.concatenate([(value - y) * root_w, PRIOR * (z - bounded)], axis=1)
        return residuals, np.concatenate([inner, outer], axis=1)

    starts = np.clip(form.starts(x, error, e0) / unit, low, high)
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
