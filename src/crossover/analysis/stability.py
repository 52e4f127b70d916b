"""Does the verdict survive other choices? The analysis again under every alternative that the runs allow."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from crossover.analysis.crossover import compare
from crossover.analysis.pairing import Predictions
from crossover.analysis.tables import CONDITIONS, AnalysisError, ordered_pairs, primary_runs, validate_runs

METRICS = {
    "test_error": "metric",
    "val_error": "metric",
    "test_loss": "metric",
    "val_loss": "metric",
    "last_val_error": "selection",
}
"""Column of the runs to the choice it stands for; `last_val_error` is that of the last step, selected by nothing."""
_FOUND = ("verdict", "n_star", "ci_low", "ci_high", "p_in_range")
MAX_LEFT_OUT = 12
"""Sizes, and chains, are left out one by one only up to this number: of more, none matters much alone."""


@dataclass(frozen=True)
class Alternative:
    """One way in which the analysis could have been done."""

    choice: str
    value: str
    runs: pd.DataFrame
    metric: str
    setting: dict[str, str] = field(default_factory=dict)


def stability_table(
    runs: pd.DataFrame,
    *,
    rng: np.random.Generator,
    metric: str = "test_error",
    predictions: Predictions | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return one row per pair and alternative; `flips` is true where the verdict differs from the main one.

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
            verdict = _verdict(main, a, b, rng, predictions, confidence)
            if verdict["p_in_range"] is None:
                continue  # without replicates there is no verdict to shake
            for way in (main, *others):
                found = verdict if way is main else _verdict(way, a, b, rng, predictions, confidence)
                flips = found["verdict"] is not None and found["verdict"] != verdict["verdict"]
                row = {"dataset": dataset, "a": a, "b": b, "choice": way.choice, "value": way.value}
                rows.append(row | found | {"flips": flips})
    columns = ["dataset", "a", "b", "choice", "value", "verdict", "n_star", "ci_low", "ci_high", "flips", "note"]
    return pd.DataFrame(rows, columns=columns)


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
    way: Alternative, a: str, b: str, rng: np.random.Generator, predictions: Predictions | None, confidence: float
) -> dict[str, Any]:
    try:
        kept = primary_runs(validate_runs(way.runs, way.metric)[0], way.setting)[0]
        if not {a, b} <= set(kept["model"]):
            raise AnalysisError("one of the two models has no such run")
        pair = compare(kept, a, b, rng=rng, metric=way.metric, predictions=predictions, confidence=confidence)
    except AnalysisError as error:
        return dict.fromkeys(_FOUND) | {"note": str(error)}
    return {name: pair[name] for name in _FOUND} | {"note": " ".join(pair["notes"])}
