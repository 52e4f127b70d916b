"""The stability of a verdict under other analysis choices, and the power and coverage of its design by simulation.

The simulated truth is the lowest polynomial in log n that fits the measured difference (else its interpolant), moved
so that it crosses zero at a known size; the noise is that measured between chains. The answer is only as good as
these: power depends on how steeply the curves cross, and a variance from 3 chains is itself uncertain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import interpolate, stats

from crossover.analysis.band import Interval, band, confidence_set, infer, root, verdict
from crossover.analysis.compare import compare, pair_generator
from crossover.analysis.contract import Calibration, Pair, Repetitions
from crossover.analysis.estimate import Estimate, Floats, estimate, t_value
from crossover.analysis.pairing import pair_models
from crossover.analysis.runs import CONDITIONS, AnalysisError, Method, ordered_pairs, primary_runs, validate_runs
from crossover.analysis.sentences import images
from crossover.text import tracked

_MEASURED = ("test_error", "val_error", "test_loss", "val_loss")
METRICS = dict.fromkeys(_MEASURED, "metric") | {"last_val_error": "selection"}
"""Column of the runs to the choice it represents; `last_val_error` is that of the last step, without selection."""
Change = Literal["same", "weaker", "stronger", "contradicts"]
CLAIMS = {"undecided": 0, "a_better": 1, "b_better": 1, "crossover": 2, "several_crossings": 3}
"""How much a verdict claims."""
MAX_LEFT_OUT = 12
"""Sizes and chains are left out one by one only up to this number; of more, no single one matters much."""
RESULT = ("verdict", "n_star", "ci_low", "ci_high")
COLUMNS = ["dataset", "a", "b", "choice", "value", *RESULT, "change", "note"]
Way = tuple[str, str, Method, pd.DataFrame | str]
"""Another way to do the analysis: a choice and its value, the method, and the runs or why it cannot be done."""


def stability_table(runs: pd.DataFrame, method: Method) -> pd.DataFrame:
    """Return one row per pair and alternative; `change` compares its verdict with the main one.

    `contradicts`: another model leads at the largest size. An alternative that cannot be analysed has only a `note`.
    """
    rows = []
    for dataset, part in runs.groupby("dataset", sort=False):
        ways = list(_alternatives(part, method))
        pairs = ordered_pairs(part) if len(ways) > 1 else []
        for a, b in tracked(pairs, f"pairs of {dataset} analysed in other ways", len(pairs)):
            main = _found(a, b, *ways[0][2:])
            if isinstance(main, str) or main["p_in_range"] is None:
                continue  # without replicates there is no verdict to shake
            for choice, value, how, kept in ways:
                found = main if kept is ways[0][3] else _found(a, b, how, kept)
                row: dict[str, object] = {"dataset": dataset, "a": a, "b": b, "choice": choice, "value": value}
                if isinstance(found, str):
                    row["note"] = found
                else:
                    row |= {name: dict(found)[name] for name in RESULT}
                    row |= {"change": _change(main, found), "note": " ".join(found["notes"])}
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _change(main: Pair, other: Pair) -> Change:
    """Return the change an alternative makes to a verdict."""
    before, now = (CLAIMS[pair["verdict"]] for pair in (main, other))
    if before and now and len({pair["gap"][-1]["log_error_ratio"] > 0 for pair in (main, other)}) > 1:
        return "contradicts"
    return "same" if before == now else "stronger" if now > before else "weaker"


def _alternatives(runs: pd.DataFrame, method: Method) -> Iterator[Way]:
    """Yield the main analysis, then every other that the table allows."""

    def way(choice: str, value: str, rows: pd.DataFrame, metric: str = method.metric, **setting: str) -> Way:
        try:
            chosen: pd.DataFrame | str = primary_runs(validate_runs(rows, metric)[0], setting)[0]
        except AnalysisError as error:
            chosen = str(error)
        return choice, value, replace(method, metric=metric), chosen

    yield way("as analysed", method.metric, runs)
    for name, choice in METRICS.items():
        if name != method.metric and name in runs.columns and runs[name].notna().any():
            yield way(choice, name, runs, name)
    kept, _, chosen = primary_runs(runs)
    for column in (name for name in CONDITIONS if name in runs.columns):
        used = set(chosen[column].values())
        for value in (str(v) for v in dict.fromkeys(runs[column]) if str(v) not in used):
            yield way(column, value, runs, **{column: value})
    for column in ("n_train", "chain"):
        values = sorted(kept[column].unique())
        for value in values if 2 < len(values) <= MAX_LEFT_OUT else []:
            said = f"{value:,.0f}" if column == "n_train" else str(value)
            yield way(f"{column.replace('n_train', 'size')} left out", said, kept[kept[column] != value])


def _found(a: str, b: str, method: Method, runs: pd.DataFrame | str) -> Pair | str:
    """Return a pair as analysed in another way, or why it cannot be."""
    if isinstance(runs, str):
        return runs
    if not {a, b} <= set(runs["model"]):
        return "one of the two models has no such run"
    try:
        return compare(runs, a, b, method, influence=False)
    except AnalysisError as error:
        return str(error)


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
) -> Repetitions:
    """Return what `designs` repetitions of a design with so many chains find."""
    if chains < 2:
        raise AnalysisError(f"a design needs at least 2 chains to have an interval; got {chains}")
    crossed, covered, widths = [], [], []
    for _ in range(designs):
        values = _draw(design, chains, rng)
        bounds, intervals = infer(values, confidence, rng)
        crossed.append(verdict(bounds.knot_signs) == "crossover")
        if design.n_star is None:
            continue
        n_star = design.n_star
        covered.append(any((low or 0) <= n_star <= (np.inf if high is None else high) for low, high in intervals))
        fieller = confidence_set(band(values, t_value(confidence, values.df)))
        if crossed[-1] and len(fieller) == 1:
            widths.append([_ratio(intervals[0]), _ratio(fieller[0])])
    found = stats.binomtest(sum(crossed), designs)
    width, fieller_width = np.exp(np.median(np.log(widths), axis=0)).tolist() if widths else (None, None)
    return Repetitions(
        chains=chains,
        power=found.statistic,
        power_low=float(found.proportion_ci(0.95, "wilson").low),
        coverage=float(np.mean(covered)) if covered else None,
        width=width,
        fieller_width=fieller_width,
    )


def _ratio(interval: Interval) -> float:
    low, high = interval
    return high / low if low and high else np.inf


def _draw(design: Design, chains: int, rng: np.random.Generator) -> Estimate:
    noise = rng.multivariate_normal(np.zeros(len(design.n)), design.noise, size=chains, method="eigh")
    values = design.truth + noise
    if design.extra is not None:
        values = values + rng.multivariate_normal(np.zeros(len(design.n)), design.extra, method="eigh")
    return estimate(design.n, values, design.extra)


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
    runs: pd.DataFrame, method: Method, *, designs: int = 500, chains: Sequence[int] = CHAINS
) -> list[Calibration]:
    """Return, for every pair of models, coverage, false crossovers and power by number of chains.

    Takes about 3 seconds a pair and number of chains with 500 designs.
    """
    if designs < 20:
        raise AnalysisError(f"designs must be at least 20 for a rate to mean anything; got {designs}; 500 is usual")
    runs, _ = validate_runs(runs, method.metric)
    found = []
    for dataset, part in runs.groupby("dataset", sort=False):
        part = primary_runs(part)[0]
        for a, b in ordered_pairs(part):
            design = design_like(pair_models(part, a, b, method).difference)
            rng = pair_generator(method.seed, str(dataset), a, b)
            counts = tracked(sorted(set(chains)), f"numbers of chains of {a} and {b} simulated", len(chains))
            rows = [_repeat(design, count, designs, rng, method.confidence) for count in counts] if design else []
            needed = next((row["chains"] for row in rows if row["power_low"] >= POWER), None)
            note = "Not simulated: it needs at least 3 sizes, 2 chains, and a difference shaped to cross zero once."
            if design and needed:
                note = (
                    f"A crossing as steep as measured, at {images(design.n_star)} images, would be found in at least"
                    f" {POWER:.0%} of repetitions with {needed} chains."
                )
            elif design:
                more = f"More than {max(chains)} chains, more test images or sizes closer to N*"
                note = f"{more} are needed for a power of {POWER}."
            entry = Calibration(
                dataset=str(dataset),
                a=a,
                b=b,
                designs=designs,
                n_star=design.n_star if design else None,
                rows=rows,
                chains_needed=needed,
                note=note,
            )
            found.append(entry)
    return found


def _repeat(design: Design, chains: int, designs: int, rng: np.random.Generator, confidence: float) -> Repetitions:
    """Return what repetitions of a design find, and how often those of the hardest null find a crossover.

    There a leads at the first two sizes, as far as the models ever are apart, and then both are equal.
    """
    found = simulate(design, chains, designs, rng, confidence)
    led = np.where(np.arange(len(design.n)) < 2, np.abs(design.truth).max(), 0.0)
    null = simulate(replace(design, truth=led, n_star=None), chains, designs, rng, confidence)
    return found | {"false_crossover": null["power"]}
