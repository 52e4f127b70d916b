"""The stability of a verdict under other analysis choices, and the power and coverage of its design by simulation.

The simulated truth is the lowest polynomial in log n that fits the measured difference (else its interpolant), moved
so that it crosses zero at a known size; the noise is that measured between chains. The answer is only as good as
these: power depends on how steeply the curves cross, and a variance from 3 chains is itself uncertain.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import interpolate, stats

from crossover.analysis.band import band, confidence_set, infer, root, verdict
from crossover.analysis.estimate import Estimate, Floats, estimate
from crossover.analysis.pairing import pair_models
from crossover.analysis.runs import CONDITIONS, AnalysisError, ordered_pairs, primary_runs, validate_runs
from crossover.analysis.testset import Predictions
from crossover.analysis.verdict import compare, pair_generator

METRICS = {
    "test_error": "metric",
    "val_error": "metric",
    "test_loss": "metric",
    "val_loss": "metric",
    "last_val_error": "selection",
}
"""Column of the runs to the choice it represents; `last_val_error` is that of the last step, without selection."""
Change = Literal["same", "weaker", "stronger", "contradicts"]
_FOUND = ("verdict", "n_star", "ci_low", "ci_high", "p_in_range")
MAX_LEFT_OUT = 12
"""Sizes and chains are left out one by one only up to this number; of more, no single one matters much."""


@dataclass(frozen=True)
class Alternative:
    """An alternative way to do the analysis."""

    choice: str
    value: str
    runs: pd.DataFrame
    metric: str
    setting: dict[str, str] = field(default_factory=dict)


def stability_table(
    runs: pd.DataFrame,
    *,
    seed: int,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row per pair and alternative; `change` compares its verdict with the main one.

    Values: `same`; `contradicts`: another model leads at the largest size; `weaker`, `stronger`: less or more is clear.

    Empty for a data set that allows no alternative, or a pair without a verdict. `choice` is `as analysed`, `metric`,
    `selection`, `budget`, `augment`, `recipe`, `size left out` or `chain left out`. An alternative that cannot be
    analysed has no verdict but a `note`.
    """
    validate_runs(runs, metric)
    rows: list[dict[str, Any]] = []
    for dataset, part in runs.groupby("dataset", sort=False):
        pairs = ordered_pairs([str(model) for model in dict.fromkeys(part["model"])])
        main, *others = _alternatives(part, metric)
        for a, b in pairs if others else []:
            first = _verdict(main, a, b, seed, predictions, confidence)
            if first["p_in_range"] is None:
                continue  # without replicates there is no verdict to shake
            for way in (main, *others):
                found = first if way is main else _verdict(way, a, b, seed, predictions, confidence)
                row = {"dataset": dataset, "a": a, "b": b, "choice": way.choice, "value": way.value}
                rows.append(row | found | {"change": _change(first, found)})
    columns = ["dataset", "a", "b", "choice", "value", "verdict", "n_star", "ci_low", "ci_high", "change", "note"]
    return pd.DataFrame(rows, columns=columns)


def _change(main: Mapping[str, Any], other: Mapping[str, Any]) -> Change | None:
    """Return the change an alternative makes to a verdict; None without one."""
    if other["verdict"] is None:
        return None
    if other["verdict"] == main["verdict"]:
        return "same" if other["ahead"] == main["ahead"] else "contradicts"
    if "undecided" in (main["verdict"], other["verdict"]):
        return "weaker" if other["verdict"] == "undecided" else "stronger"
    if other["ahead"] != main["ahead"]:
        return "contradicts"
    return "stronger" if other["verdict"] in ("crossover", "several_crossings") else "weaker"


def _alternatives(runs: pd.DataFrame, metric: str) -> Iterator[Alternative]:
    """Yield the main analysis, then every other that the table allows."""
    yield Alternative("as analysed", metric, runs, metric)
    for name, choice in METRICS.items():
        if name != metric and name in runs.columns and runs[name].notna().any():
            yield Alternative(choice, name, runs, name)
    kept, _, chosen = primary_runs(runs)
    for column in (name for name in CONDITIONS if name in runs.columns):
        used = set(chosen[column].values())
        for value in (str(v) for v in dict.fromkeys(runs[column]) if str(v) not in used):
            yield Alternative(column, value, runs, metric, {column: value})
    sizes, chains = sorted(kept["n_train"].unique()), sorted(kept["chain"].unique())
    for n in sizes if 2 < len(sizes) <= MAX_LEFT_OUT else []:
        yield Alternative("size left out", f"{n:,.0f}", kept[kept["n_train"] != n], metric)
    for chain in chains if 2 < len(chains) <= MAX_LEFT_OUT else []:
        yield Alternative("chain left out", str(chain), kept[kept["chain"] != chain], metric)


def _verdict(
    way: Alternative, a: str, b: str, seed: int, predictions: Predictions | None, confidence: float
) -> dict[str, Any]:
    try:
        kept = primary_runs(validate_runs(way.runs, way.metric)[0], way.setting)[0]
        if not {a, b} <= set(kept["model"]):
            raise AnalysisError("one of the two models has no such run")
        pair = compare(
            kept,
            a,
            b,
            seed=seed,
            metric=way.metric,
            predictions=predictions,
            confidence=confidence,
            look_for_influence=False,
        )
    except AnalysisError as error:
        return dict.fromkeys((*_FOUND, "ahead")) | {"note": str(error)}
    found = {name: value for name, value in pair.items() if name in _FOUND}
    ahead = None if pair["verdict"] == "undecided" else pair["gap"][-1]["log_error_ratio"] > 0
    return found | {"note": " ".join(pair["notes"]), "ahead": ahead}


POWER = 0.8
CHAINS = (3, 5, 8, 12)


@dataclass(frozen=True)
class Design:
    """A measured difference as a design to be simulated."""

    n: Floats
    truth: Floats
    """D at the sizes."""
    n_star: float | None
    """Where the truth crosses; None for curves that do not."""
    noise: Floats
    """Covariance over sizes of one chain."""
    extra: Floats | None = None
    """Covariance of the mean that more chains do not reduce: test images."""


def simulate(
    design: Design, chains: int, designs: int, rng: np.random.Generator, confidence: float = 0.95
) -> dict[str, Any]:
    """Return how often `designs` repetitions find a crossover, and how often the set of N* holds the truth.

    Widths are medians of ci_high / ci_low, beside those of a Fieller set for one size at a time (t instead of max-|t|,
    the same variances) on the same data.
    """
    if chains < 2:
        raise AnalysisError(f"a design needs at least 2 chains to have an interval; got {chains}")
    found: list[str] = []
    covered, widths, pointwise = [], [], []
    for _ in range(designs):
        values = _draw(design, chains, rng)
        bounds, intervals = infer(values, confidence, rng)
        found.append(verdict(bounds.knot_signs))
        if design.n_star is None:
            continue
        n_star = design.n_star
        covered.append(any((low or 0) <= n_star <= (np.inf if high is None else high) for low, high in intervals))
        fieller = confidence_set(band(values, float(stats.t.ppf((1 + confidence) / 2, values.df))))
        if found[-1] == "crossover" and len(fieller) == 1:
            widths.append(_log_width(intervals[0]))
            pointwise.append(_log_width(fieller[0]))
    power = float(np.mean([one == "crossover" for one in found]))
    low = float(stats.binomtest(round(power * designs), designs).proportion_ci(0.95, "wilson").low)
    wide = (float(np.exp(np.median(w))) if widths else None for w in (widths, pointwise))
    result: dict[str, Any] = {"chains": chains, "crossover": power, "crossover_low": low}
    result["coverage"] = float(np.mean(covered)) if covered else None
    result |= dict(zip(("width", "fieller_width"), wide, strict=True))
    return result | {"log_width_ratio": float(np.median(widths) / np.median(pointwise)) if widths else None}


def _draw(design: Design, chains: int, rng: np.random.Generator) -> Estimate:
    noise = rng.multivariate_normal(np.zeros(len(design.n)), design.noise, size=chains, method="eigh")
    values = design.truth + noise
    if design.extra is not None:
        values = values + rng.multivariate_normal(np.zeros(len(design.n)), design.extra, method="eigh")
    result = estimate(design.n, values, design.extra)
    if result is None:
        raise AnalysisError("a design without replicates cannot be simulated")
    return result


def _log_width(interval: tuple[float | None, float | None]) -> float:
    low, high = interval
    return float("inf") if low is None or high is None else float(np.log(high / low))


def design_like(values: Estimate) -> Design | None:
    """Return a design with a known crossing, shaped like a measured difference; None if it has no slope to cross with.

    N* is where the measured means cross, or else the middle of the sizes: "were there a crossing here, as steep as
    the curves are, would it be seen?"
    """
    noise = values.noise
    if noise is None or len(values.n) < 3:
        return None
    if values.mean[-1] > values.mean[0]:  # a would overtake b: the same question with the models exchanged
        values = replace(values, mean=-values.mean)
    x = values.x
    n_star = root(values, True) or float(np.exp((x[0] + x[-1]) / 2))
    for curve in _shapes(values):
        truth = curve(x) - curve(np.log(n_star))
        before, after = truth[x < np.log(n_star)], truth[x > np.log(n_star)]
        if (before > 0).all() and (after < 0).all():
            return Design(values.n, truth, n_star, noise, values.extra)
    return None


def _shapes(values: Estimate) -> Iterator[Callable[[Any], Any]]:
    """Yield the polynomials in log n not rejected by an F test of the residuals (5%), lowest degree first,
    then the interpolant through the means."""
    sizes = len(values.n)
    for degree in range(1, sizes - 1):
        curve = np.polynomial.Polynomial.fit(values.x, values.mean, degree, w=1 / values.se)
        freedom = sizes - degree - 1
        ratio = float((((values.mean - curve(values.x)) / values.se) ** 2).sum()) / freedom
        if ratio <= float(stats.f.ppf(0.95, freedom, values.df)):
            yield curve
    yield interpolate.PchipInterpolator(values.x, values.mean)


def calibrate(
    runs: pd.DataFrame,
    *,
    seed: int,
    designs: int = 500,
    chains: Sequence[int] = CHAINS,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
    setting: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return, for every pair of models, coverage, false crossovers and power by number of chains.

    False crossovers are those of a boundary null: a leads at the first two sizes, then both are equal.

    `chains_needed` is the smallest of `chains` whose power is at least 0.8 (lower 95% limit of the simulation), null
    if none is. Takes about 3 seconds a pair and number of chains with 500 designs.
    """
    if designs < 20:
        raise AnalysisError(f"designs must be at least 20 for a rate to mean anything; got {designs}; 500 is usual")
    runs, _ = validate_runs(runs, metric)
    pairs = []
    for dataset, part in runs.groupby("dataset", sort=False):
        part = primary_runs(part, setting)[0]
        for a, b in ordered_pairs([str(model) for model in dict.fromkeys(part["model"])]):
            measured = pair_models(part, a, b, metric, predictions).difference
            design = None if measured is None else design_like(measured)
            entry = {"dataset": str(dataset), "a": a, "b": b, "designs": designs}
            rng = pair_generator(seed, str(dataset), a, b)
            pairs.append(entry | _rows(design, chains, designs, rng, confidence))
    return {"confidence": confidence, "pairs": pairs}


def _rows(
    design: Design | None, chains: Sequence[int], designs: int, rng: np.random.Generator, confidence: float
) -> dict[str, Any]:
    if design is None:
        note = "Not simulated: it needs at least 3 sizes, 2 chains, and a difference shaped to cross zero once."
        return {"n_star": None, "rows": [], "chains_needed": None, "note": note}
    # The hardest null: a leads at the first two sizes, as far as the models ever are apart, and then nobody does.
    led = np.where(np.arange(len(design.n)) < 2, np.abs(design.truth).max(), 0.0)
    same = Design(design.n, led, None, design.noise, design.extra)
    rows = []
    for count in sorted(set(chains)):
        row = simulate(design, count, designs, rng, confidence)
        false = simulate(same, count, designs, rng, confidence)
        row |= {"power": row.pop("crossover"), "power_low": row.pop("crossover_low")}
        rows.append(row | {"false_crossover": false["crossover"]})
    enough = [row["chains"] for row in rows if row["power_low"] >= POWER]
    sd = [float(value) for value in np.sqrt(np.diag(design.noise))]
    result = {"n_star": design.n_star, "sizes": [round(n) for n in design.n], "sd": sd, "rows": rows}
    more = f"More than {max(chains)} chains, more test images or sizes closer to N* are needed for a power of {POWER}."
    note = "" if enough else more
    return result | {"chains_needed": enough[0] if enough else None, "note": note}
