"""Is a repeated run the published one? Identical, or as close as another seed would be, or not the same."""

from typing import Literal

import numpy as np
import pandas as pd

from crossover.analysis.estimate import estimate
from crossover.analysis.verdict import unit_table

Outcome = Literal["identical", "within", "outside", "no tolerance"]
WIDTH = 3.0
"""Standard deviations of the difference of two runs that count as the same."""
COLUMNS = ["run_id", "model", "n_train", "chain", "published", "repeated", "ratio", "tolerance", "outcome"]


def compare_runs(published: pd.DataFrame, repeated: pd.DataFrame, metric: str = "test_error") -> pd.DataFrame:
    """Return one row per repeated run: both errors, their ratio, the largest ratio allowed, and the outcome.

    The same config on another processor differs in rounding, which training amplifies, at most to the difference of two
    seeds: |log ratio| <= WIDTH * sqrt(2) * sd, sd being that of log error between the published chains at this size.
    Without replicates there is no tolerance, and only an identical error says something.
    """
    width: dict[tuple[str, str, int], float] = {}
    for (dataset, model), part in published.groupby(["dataset", "model"]):
        table = unit_table(part, str(model), metric)
        values = estimate(table.columns.to_numpy(float), np.log(table.to_numpy(float)))
        noise = None if values is None else values.noise
        if noise is not None:
            sizes = (round(float(n)) for n in table.columns)
            spread = zip(sizes, np.sqrt(np.diag(noise)), strict=True)
            width |= {(str(dataset), str(model), n): float(sd) for n, sd in spread}
    known = dict(zip(published["run_id"], published[metric], strict=True))
    rows = []
    for run in repeated.to_dict("records"):
        was, now = float(known[run["run_id"]]), float(run[metric])
        sd = width.get((run["dataset"], run["model"], run["n_train"]))
        tolerance = None if sd is None else float(np.exp(WIDTH * np.sqrt(2) * sd))
        row = (run["run_id"], run["model"], run["n_train"], run["chain"], was, now, now / was, tolerance)
        rows.append((*row, _outcome(was, now, tolerance)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _outcome(was: float, now: float, tolerance: float | None) -> Outcome:
    if now == was:
        return "identical"
    if tolerance is None:
        return "no tolerance"
    return "within" if abs(np.log(now / was)) <= np.log(tolerance) else "outside"
