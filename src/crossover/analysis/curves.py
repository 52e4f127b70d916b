"""Which law does a learning curve follow? Bounded multi-start fits on squared log error, chosen on held-out sizes.

Laws (n images, error e), numbered as in Alabdulmohsin, Neyshabur and Zhai 2022, "Revisiting neural scaling laws in
language and vision" (section 3):

    M1      e = b n^-c
    M2      e = e_inf + b n^-c
    M3      e = b (1/n + g)^c
    M4      (e - e_inf) / (e0 - e)^a = b n^-c          e0 = error of guessing
    chance  e = e_inf + (e0 - e_inf) (1 + n / n0)^-c   a power law that starts at e0

A parameter is unreliable when the curve does not bend within the measured sizes: its standard error then says so.
Every law is a description within the data; beyond it, see extrapolation.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from crossover.analysis.estimate import Floats
from crossover.analysis.tables import AnalysisError

LAST_VALUE = "last value"
HELD_OUT = 1 / 3
"""Share of the sizes (the largest) that choose the law."""
POLISHED = 4
"""Starts that are refined; the starts come from a grid over the parameters that enter non-linearly."""

EVALUATIONS = 100
TOLERANCE = 1e-15


@dataclass(frozen=True)
class Law:
    """A law in the parameters that are fitted: scales as logarithms, so that bounds and steps suit them."""

    names: tuple[str, ...]
    predict: Callable[[Floats, Floats, float], Floats]
    """(parameters, log n, e0) to log e."""
    starts: Callable[[Floats, Floats, float], list[list[float]]]
    """(log n, error, e0) to starting values."""
    low: tuple[float, ...]
    high: tuple[float, ...]


def _line(x: Floats, y: Floats) -> tuple[float, float]:
    """Return intercept and slope of least squares."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return float(y.mean() - slope * x.mean()), slope


def _starts_m1(x: Floats, e: Floats, _e0: float) -> list[list[float]]:
    log_b, slope = _line(x, np.log(e))
    return [[log_b, -slope]]


def _starts_m2(x: Floats, e: Floats, _e0: float) -> list[list[float]]:
    found = []
    for share in (0.0, 0.3, 0.6, 0.8, 0.9, 0.97):
        log_b, slope = _line(x, np.log(e - share * e.min()))
        found.append([share * e.min(), log_b, -slope])
    return found


def _starts_m3(x: Floats, e: Floats, _e0: float) -> list[list[float]]:
    found = []
    for log_g in -x[-1] + np.array([-6.0, -3.0, -1.5, -0.5, 0.5, 1.5]):
        log_b, c = _line(np.logaddexp(-x, log_g), np.log(e))
        found.append([log_b, log_g, c])
    return found


def _starts_m4(x: Floats, e: Floats, e0: float) -> list[list[float]]:
    found = []
    for share in (0.0, 0.5, 0.8, 0.95):
        for a in (0.2, 0.7, 1.5, 3.0):
            log_b, slope = _line(x, np.log(e - share * e.min()) - a * np.log(np.maximum(e0 - e, 1e-3 * e0)))
            found.append([share * e.min(), log_b, -slope, a])
    return found


def _starts_chance(x: Floats, e: Floats, e0: float) -> list[list[float]]:
    found = []
    for share in (0.0, 0.5, 0.9):
        for place in (0.0, 0.2, 0.4, 0.6, 0.8):
            log_n0 = x[0] - 1 + place * (x[-1] - x[0])
            inner = np.log(np.clip((e - share * e.min()) / (e0 - share * e.min()), 1e-9, 1))
            steps = np.logaddexp(0, x - log_n0)
            found.append([share * e.min(), log_n0, -float(steps @ inner / (steps @ steps))])
    return found


def _m1(p: Floats, x: Floats, _e0: float) -> Floats:
    return p[0] - p[1] * x


def _m2(p: Floats, x: Floats, _e0: float) -> Floats:
    return np.log(np.maximum(p[0] + np.exp(p[1] - p[2] * x), 1e-300))


def _m3(p: Floats, x: Floats, _e0: float) -> Floats:
    return p[0] + p[2] * np.logaddexp(-x, p[1])


def _m4(p: Floats, x: Floats, e0: float) -> Floats:
    """Solve M4 for e = e_inf + (e0 - e_inf) sigmoid(u): its log is concave or convex in u, and Newton is safe."""
    e_inf, log_b, c, a = p
    target = log_b - c * x + (a - 1) * np.log(e0 - e_inf)
    a = max(a, 1e-6)
    u = np.where(target < 0, target, target / a)
    for _ in range(100):
        value = special.log_expit(u) - a * special.log_expit(-u) - target
        step = value / (special.expit(-u) + a * special.expit(u))
        u = u - step
        if np.abs(step).max() < 1e-13 * (1 + np.abs(u).max()):
            break
    return np.log(np.maximum(e_inf + (e0 - e_inf) * special.expit(u), 1e-300))


def _chance(p: Floats, x: Floats, e0: float) -> Floats:
    return np.log(p[0] + (e0 - p[0]) * np.exp(-p[2] * np.logaddexp(0, x - p[1])) + 1e-300)


WIDE = 200.0
LAWS: dict[str, Law] = {
    "M1": Law(("log_b", "c"), _m1, _starts_m1, (-WIDE, 0), (WIDE, 10)),
    "M2": Law(("e_inf", "log_b", "c"), _m2, _starts_m2, (0, -WIDE, 0), (1, WIDE, 10)),
    "M3": Law(
        ("log_b", "log_g", "c"),
        _m3,
        _starts_m3,
        (-WIDE, -WIDE, 0),
        (WIDE, 0, 10),
    ),
    "M4": Law(("e_inf", "log_b", "c", "a"), _m4, _starts_m4, (0, -WIDE, 0, 0), (1, WIDE, 10, 20)),
    "chance": Law(("e_inf", "log_n0", "c"), _chance, _starts_chance, (0, -WIDE, 0), (1, WIDE, 10)),
}


@dataclass(frozen=True)
class Fit:
    """A fitted law. `holdout_rmse` is that of log error on the largest sizes, by a fit to the others alone."""

    law: str
    theta: Floats
    covariance: Floats
    """Of `theta`, in the order of LAWS[law].names; NaN where the data cannot tell or a bound is met."""
    sigma: float
    """Residual standard deviation of log error."""
    e0: float
    holdout_rmse: float | None = None
    compared: dict[str, float] = field(default_factory=dict)
    """Held-out RMSE of every law that could be fitted, and of `last value`."""

    @property
    def params(self) -> dict[str, float]:
        """Parameters as in the formulas."""
        pairs = zip(LAWS[self.law].names, self.theta, strict=True)
        return {k.removeprefix("log_"): float(np.exp(v) if k.startswith("log_") else v) for k, v in pairs}

    @property
    def standard_errors(self) -> dict[str, float | None]:
        """Standard errors of `params` (first order for scales); None where the data cannot tell or a bound is met."""
        spread = np.sqrt(np.diag(self.covariance))
        scaled = [
            s * (np.exp(v) if name.startswith("log_") else 1)
            for name, v, s in zip(LAWS[self.law].names, self.theta, spread, strict=True)
        ]
        return {k: float(s) if np.isfinite(s) else None for k, s in zip(self.params, scaled, strict=True)}

    def predict(self, n: Floats) -> Floats:
        """Return the error at n images."""
        return np.exp(LAWS[self.law].predict(self.theta, np.log(np.asarray(n, float)), self.e0))


def fit_law(law: str, n: Floats, error: Floats, *, weights: Floats | None = None, chance: float | None = None) -> Fit:
    """Return the least-squares fit of one law; `weights` are 1 / variance of log error, `chance` is e0 (default 1)."""
    n, error, w = _checked(n, error, weights)
    if law not in LAWS:
        raise AnalysisError(f"no law {law!r}; there are {', '.join(LAWS)}")
    form = LAWS[law]
    if len(np.unique(n)) < len(form.names):
        raise AnalysisError(f"{law} needs {len(form.names)} different sizes; got {len(np.unique(n))}; add sizes")
    x, y = np.log(n), np.log(error)
    e0 = max(1.0 if chance is None else chance, 1.0001 * float(error.max()))
    low, high = np.array(form.low, float), np.array(form.high, float)
    if form.names[0] == "e_inf":
        high[0] = min(error.min(), 0.999 * e0)

    def residuals(p: Floats) -> Floats:
        return (form.predict(p, x, e0) - y) * np.sqrt(w)

    # A margin keeps starts off the bounds, where the steps of the trust region vanish.
    margin = 1e-6 * np.minimum(high - low, 1)
    starts = [np.clip(start, low + margin, high - margin) for start in form.starts(x, error, e0)]
    starts.sort(key=lambda start: float((residuals(start) ** 2).sum()))
    t = TOLERANCE
    solve = partial(optimize.least_squares, residuals, bounds=(low, high), x_scale="jac", jac="3-point")
    fits = [solve(start, max_nfev=EVALUATIONS, xtol=t, ftol=t, gtol=t) for start in starts[:POLISHED]]
    best = min(fits, key=lambda fit: float(fit.cost))
    freedom = max(len(n) - len(best.x), 1)
    sigma = float(np.sqrt(2 * best.cost / freedom))
    return Fit(law, best.x, _covariance(np.asarray(best.jac), best.active_mask == 0, sigma), sigma, e0)


def _checked(n: Floats, error: Floats, weights: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Return sorted sizes, errors and weights of mean one."""
    n, error = np.asarray(n, float), np.asarray(error, float)
    w = np.ones(len(n)) if weights is None else np.asarray(weights, float)
    if not len(n) == len(error) == len(w) > 0:
        raise AnalysisError(f"need one error and weight per size; got {len(n)}, {len(error)} and {len(w)}")
    if not (np.isfinite(n).all() and (n >= 1).all() and (error > 0).all() and (error <= 1).all() and (w > 0).all()):
        raise AnalysisError(
            "laws need sizes of at least 1, errors in (0, 1] and positive weights; clean the curve first"
        )
    order = np.argsort(n, kind="stable")
    return n[order], error[order], w[order] / w.mean()


def _covariance(jac: Floats, inside: NDArray[np.bool_], sigma: float) -> Floats:
    """Return sigma^2 (J'J)^-1 over the parameters inside their bounds, NaN for the others."""
    free = np.flatnonzero(inside)
    cov = np.full((jac.shape[1],) * 2, np.nan)
    gram = jac[:, free].T @ jac[:, free]
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    normal = gram / np.outer(scale, scale)
    if len(free) and np.linalg.cond(normal) < 1e14:
        cov[np.ix_(free, free)] = sigma**2 * np.linalg.inv(normal) / np.outer(scale, scale)
    return cov


def held_out(
    law: str, n: Floats, error: Floats, cut: float, *, weights: Floats | None = None, chance: float | None = None
) -> float:
    """Return the RMSE of log error at sizes above `cut`, predicted from those up to it; `law` may be `last value`."""
    n, error, w = _checked(n, error, weights)
    known, rest = n <= cut, n > cut
    if law == LAST_VALUE:
        guess = np.full(rest.sum(), np.log(error[n == n[known].max()]).mean())
    else:
        guess = np.log(fit_law(law, n[known], error[known], weights=w[known], chance=chance).predict(n[rest]))
    return float(np.sqrt(np.average((guess - np.log(error[rest])) ** 2, weights=w[rest])))


def fit_all(n: Floats, error: Floats, *, weights: Floats | None = None, chance: float | None = None) -> list[Fit]:
    """Return a fit of every law that the sizes allow, best held-out RMSE first (M1 first when none can be held out)."""
    n, error, w = _checked(n, error, weights)
    sizes = np.unique(n)
    known = len(sizes) - max(1, int(HELD_OUT * len(sizes)))
    possible = [law for law, form in LAWS.items() if len(form.names) < len(sizes)]
    tested = [law for law in possible if len(LAWS[law].names) < known]
    if not possible:
        raise AnalysisError(f"a law needs at least 3 sizes; got {len(sizes)}; add sizes")
    if not tested:
        return [fit_law("M1", n, error, weights=w, chance=chance)]
    cut = float(sizes[known - 1])
    rmse = {law: held_out(law, n, error, cut, weights=w, chance=chance) for law in [*tested, LAST_VALUE]}
    fits = []
    for law in sorted(tested, key=rmse.__getitem__):
        fit = fit_law(law, n, error, weights=w, chance=chance)
        fits.append(Fit(fit.law, fit.theta, fit.covariance, fit.sigma, fit.e0, rmse[law], rmse))
    return fits


def fit_best(n: Floats, error: Floats, *, weights: Floats | None = None, chance: float | None = None) -> Fit:
    """Return the fit, to all sizes, of the law with the least held-out RMSE."""
    return fit_all(n, error, weights=weights, chance=chance)[0]


def averaged(fits: list[Fit], n: Floats) -> Floats:
    """Return the geometric mean of the laws' predictions, weighted by 1 / held-out mean squared error."""
    weights = [1 / max(fit.holdout_rmse or 1.0, 1e-6) ** 2 for fit in fits]
    return np.exp(np.average([np.log(fit.predict(n)) for fit in fits], axis=0, weights=weights))
