"""The stability of a verdict under other analysis choices, and the power and coverage of its design by simulation.

The simulated truth is the lowest polynomial in log n that fits the measured difference (else its interpolant), moved
so that it crosses zero at a known size; the noise is that measured between chains. The answer is only as good as
these: power depends on how steeply the curves cross, and a variance from 3 chains is itself uncertain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import interpolate, stats

from crossover.analysis.band import Verdict, band, confidence_set, infer, root, verdict
from crossover.analysis.compare import compare, pair_generator
from crossover.analysis.contract import Calibration, Repetitions, Simulated
from crossover.analysis.estimate import Estimate, Floats, estimate
from crossover.analysis.pairing import pair_models
from crossover.analysis.runs import (
    CONDITIONS,
    AnalysisError,
    Method,
    Told,
    ordered_pairs,
    primary_runs,
    quietly,
    validate_runs,
)

_MEASURED = ("test_error", "val_error", "test_loss", "val_loss")
METRICS = dict.fromkeys(_MEASURED, "metric") | {"last_val_error": "selection"}
"""Column of the runs to the choice it represents; `last_val_error` is that of the last step, without selection."""
Change = Literal["same", "weaker", "stronger", "contradicts"]
MAX_LEFT_OUT = 12
"""Sizes and chains are left out one by one only up to this number; of more, no single one matters much."""
COLUMNS = ["dataset", "a", "b", "choice", "value", "verdict", "n_star", "ci_low", "ci_high", "change", "note"]


class Alternative(NamedTuple):
    """An alternative way to do the analysis, with its runs or the reason why it cannot be done."""

    choice: str
    value: str
    method: Method
    runs: pd.DataFrame | AnalysisError


class Found(NamedTuple):
    """The result of an alternative for one pair; no verdict if it cannot be analysed."""

    verdict: Verdict | None = None
    n_star: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    note: str = ""
    a_ahead: bool | None = None
    """At the largest size; None where it is not clear."""
    replicated: bool = False


def stability_table(runs: pd.DataFrame, method: Method, told: Told = quietly) -> pd.DataFrame:
    """Return one row per pair and alternative; `change` compares its verdict with the main one.

    Values: `same`; `contradicts`: another model leads at the largest size; `weaker`, `stronger`: less or more is clear.

    Empty for a data set that allows no alternative, or a pair without a verdict. `choice` is `as analysed`, `metric`,
    `selection`, `budget`, `augment`, `recipe`, `size left out` or `chain left out`. An alternative that cannot be
    analysed has no verdict but a `note`.
    """
    validate_runs(runs, method.metric)
    rows = []
    for dataset, part in runs.groupby("dataset", sort=False):
        pairs = ordered_pairs([str(model) for model in dict.fromkeys(part["model"])])
        ways = list(_alternatives(part, method))
        for a, b in told(pairs if len(ways) > 1 else [], f"pairs of {dataset} analysed in other ways"):
            main = _found(ways[0], a, b)
            if not main.replicated:
                continue  # without replicates there is no verdict to shake
            for way in ways:
                found = main if way is ways[0] else _found(way, a, b)
                row = (dataset, a, b, way.choice, way.value, *found[:4], _change(main, found), found.note)
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _change(main: Found, other: Found) -> Change | None:
    """Return the change an alternative makes to a verdict; None without one."""
    if other.verdict is None:
        return None
    if other.verdict == main.verdict:
        return "same" if other.a_ahead == main.a_ahead else "contradicts"
    if "undecided" in (main.verdict, other.verdict):
        return "weaker" if other.verdict == "undecided" else "stronger"
    if other.a_ahead != main.a_ahead:
        return "contradicts"
    return "stronger" if other.verdict in ("crossover", "several_crossings") else "weaker"


def _alternatives(runs: pd.DataFrame, method: Method) -> Iterator[Alternative]:
    """Yield the main analysis, then every other that the table allows."""

    def way(choice: str, value: str, rows: pd.DataFrame, metric: str = method.metric, **setting: str) -> Alternative:
        try:
            chosen: pd.DataFrame | AnalysisError = primary_runs(validate_runs(rows, metric)[0], setting)[0]
        except AnalysisError as error:
            chosen = error
        return Alternative(choice, value, replace(method, metric=metric), chosen)

    yield way("as analysed", method.metric, runs)
    for name, choice in METRICS.items():
        if name != method.metric and name in runs.columns and runs[name].notna().any():
            yield way(choice, name, runs, name)
    kept, _, chosen = primary_runs(runs)
    for column in (name for name in CONDITIONS if name in runs.columns):
        used = set(chosen[column].values())
        for value in (str(v) for v in dict.fromkeys(runs[column]) if str(v) not in used):
            yield way(column, value, runs, **{column: value})
    sizes, chains = sorted(kept["n_train"].unique()), sorted(kept["chain"].unique())
    for n in sizes if 2 < len(sizes) <= MAX_LEFT_OUT else []:
        yield way("size left out", f"{n:,.0f}", kept[kept["n_train"] != n])
    for chain in chains if 2 < len(chains) <= MAX_LEFT_OUT else []:
        yield way("chain left out", str(chain), kept[kept["chain"] != chain])


def _found(way: Alternative, a: str, b: str) -> Found:
    if isinstance(way.runs, AnalysisError):
        return Found(note=str(way.runs))
    if not {a, b} <= set(way.runs["model"]):
        return Found(note="one of the two models has no such run")
    try:
        pair = compare(way.runs, a, b, way.method, look_for_influence=False)
    except AnalysisError as error:
        return Found(note=str(error))
    return Found(
        pair["verdict"],
        pair["n_star"],
        pair["ci_low"],
        pair["ci_high"],
        note=" ".join(pair["notes"]),
        a_ahead=None if pair["verdict"] == "undecided" else pair["gap"][-1]["log_error_ratio"] > 0,
        replicated=pair["p_in_range"] is not None,
    )


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
) -> Simulated:
    """Return what `designs` repetitions of a design with so many chains find."""
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
    return Simulated(
        chains=chains,
        power=power,
        power_low=low,
        coverage=float(np.mean(covered)) if covered else None,
        width=float(np.exp(np.median(widths))) if widths else None,
        fieller_width=float(np.exp(np.median(pointwise))) if widths else None,
        log_width_ratio=float(np.median(widths) / np.median(pointwise)) if widths else None,
    )


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
    runs: pd.DataFrame, method: Method, *, designs: int = 500, chains: Sequence[int] = CHAINS, told: Told = quietly
) -> list[Calibration]:
    """Return, for every pair of models, coverage, false crossovers and power by number of chains.

    False crossovers are those of the hardest null: a leads at the first two sizes, as far as the models ever are
    apart, and then both are equal. Takes about 3 seconds a pair and number of chains with 500 designs.
    """
    if designs < 20:
        raise AnalysisError(f"designs must be at least 20 for a rate to mean anything; got {designs}; 500 is usual")
    runs, _ = validate_runs(runs, method.metric)
    found = []
    for dataset, part in runs.groupby("dataset", sort=False):
        part = primary_runs(part)[0]
        for a, b in ordered_pairs([str(model) for model in dict.fromkeys(part["model"])]):
            measured = pair_models(part, a, b, method).difference
            entry = Calibration(
                dataset=str(dataset),
                a=a,
                b=b,
                designs=designs,
                n_star=None,
                sizes=[],
                sd=[],
                rows=[],
                chains_needed=None,
                note="Not simulated: it needs at least 3 sizes, 2 chains, and a difference shaped to cross zero once.",
            )
            design = None if measured is None else design_like(measured)
            if design is not None:
                _repeat(entry, design, sorted(set(chains)), method, told)
            found.append(entry)
    return found


def _repeat(entry: Calibration, design: Design, chains: Sequence[int], method: Method, told: Told) -> None:
    """Enter what repetitions of a design and of its null find."""
    led = np.where(np.arange(len(design.n)) < 2, np.abs(design.truth).max(), 0.0)
    null = Design(design.n, led, None, design.noise, design.extra)
    a, b = entry["a"], entry["b"]
    rng = pair_generator(method.seed, entry["dataset"], a, b)
    for count in told(chains, f"numbers of chains of {a} and {b} simulated"):
        row = simulate(design, count, entry["designs"], rng, method.confidence)
        false = simulate(null, count, entry["designs"], rng, method.confidence)["power"]
        entry["rows"].append(Repetitions(**row, false_crossover=false))
    entry["n_star"], entry["sizes"] = design.n_star, [round(n) for n in design.n]
    entry["sd"] = [float(value) for value in np.sqrt(np.diag(design.noise))]
    entry["chains_needed"] = next((row["chains"] for row in entry["rows"] if row["power_low"] >= POWER), None)
    more = f"More than {max(chains)} chains, more test images or sizes closer to N* are needed for a power of {POWER}."
    entry["note"] = "" if entry["chains_needed"] else more
