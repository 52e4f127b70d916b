"""Does the verdict survive other choices? The analysis again under every alternative that the runs allow."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from crossover.analysis.crossover import analyse
from crossover.analysis.tables import CONDITIONS, AnalysisError, primary_runs, validate_runs

METRICS = ("test_error", "val_error", "test_loss", "val_loss")
MAX_SIZES = 12
"""Sizes are left out one by one only up to this number."""


def stability_table(
    runs: pd.DataFrame, *, rng: np.random.Generator, metric: str = "test_error", confidence: float = 0.95
) -> pd.DataFrame:
    """Return one row per pair and alternative: dataset, a, b, choice, value, verdict, n_star, ci_low, ci_high, flips, note.

    `choice` is "as analysed", metric, budget, augment, recipe, or sizes / chain left out. `flips` is true where
    the verdict differs from the main one. An alternative that cannot be analysed has verdict None and a note.
    """
    rows: list[dict[str, Any]] = []
    valid, _ = validate_runs(runs, metric)
    for dataset, part in runs[runs["run_id"].isin(valid["run_id"])].groupby("dataset", sort=False):
        main: dict[tuple[str, str], str] = {}
        for choice, value, kept, options in _alternatives(part, metric):
            for pair in _pairs(kept, rng, confidence, options):
                key = pair["a"], pair["b"]
                main.setdefault(key, pair["verdict"])
                row = {"dataset": dataset, "choice": choice, "value": value, "flips": pair["verdict"] != main[key]}
                names = ("a", "b", "verdict", "n_star", "ci_low", "ci_high", "note")
                rows.append(row | {name: pair.get(name) for name in names})
    columns = ["dataset", "a", "b", "choice", "value", "verdict", "n_star", "ci_low", "ci_high", "flips", "note"]
    return pd.DataFrame(rows, columns=columns)
