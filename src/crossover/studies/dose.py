"""How do verdict and N* move with the dose of bias? One row for each data set of a sweep, pair and size."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

COLUMNS = ("dose", "dataset", "a", "b", "verdict", "direction", "n_star", "ci_low", "ci_high", "p_in_range")
GAP = ("n_train", "log_error_ratio", "band_low", "band_high")


def dose_table(result: Mapping[str, Any], doses: Mapping[str, float | str]) -> pd.DataFrame:
    """Return the verdicts of crossover.json by dose, with the log error ratio (b over a) at every size.

    `doses` maps a dataset to its dose, in the order of the rows: the share of what is permuted, or the setting of the
    dials.
    """
    rows = []
    for study in result["studies"]:
        for pair in study["pairs"]:
            facts = {"dose": doses[study["dataset"]], "dataset": study["dataset"]} | {k: pair[k] for k in COLUMNS[2:]}
            for gap in pair["gap"]:
                ends = {"band_low": gap["ci_low"], "band_high": gap["ci_high"]}
                rows.append(facts | {k: gap[k] for k in GAP[:2]} | ends)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *GAP])
    order = {name: i for i, name in enumerate(doses)}
    table = table.assign(order=table["dataset"].map(order)).sort_values(["a", "b", "order", "n_train"], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)
