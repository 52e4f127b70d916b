"""What have networks learned, by number of training images? The probes of a study as tables of means over chains."""

from pathlib import Path
from typing import Any

import pandas as pd

NAME = "probes.csv"
KEYS = ["probe", "model", "layer"]
HEADER = ("measure", "model", "layer", "untrained", "without learning")
NOTE = (
    "Means over chains ± their standard deviation, by number of training images; beside them the same networks before"
    " training, and what it would be without learning, where that is known."
)
MIXED = "Runs that differ in more than the chain (seed, budget or recipe) are averaged here."


def read_probe_table(directory: Path) -> pd.DataFrame | None:
    """Return the table that `make probe` left beside a report, where there is one."""
    path = directory / NAME
    return pd.read_csv(path, keep_default_na=False, na_values=["NaN"]) if path.exists() else None


def probe_tables(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return title, notes, header and rows of each world and augmentation; a row for each measure, model and layer.

    The similarities of single pairs of layers (`cka`) are left out: they are in the table itself.
    """
    shown = table[table["probe"] != "cka"]
    return [
        _one_table(f"{world}, augmentation {augment}", part)
        for (world, augment), part in shown.groupby(["world", "augment"], sort=False)
    ]


def _one_table(title: str, table: pd.DataFrame) -> dict[str, Any]:
    sizes = sorted(table["n_train"].unique())
    order = {name: i for i, name in enumerate(dict.fromkeys(table["probe"]))}
    means = table.groupby([*KEYS, "n_train"], sort=False)["value"].agg(["mean", "std"])
    cells = {key: _cell(*numbers) for key, numbers in zip(means.index, means.to_numpy(), strict=True)}
    start = table.groupby(KEYS, sort=False)[["untrained", "analytic"]].mean()
    rows = [
        [*key, *(_cell(value) for value in start.loc[key]), *(cells.get((*key, n), "–") for n in sizes)]
        for key in sorted(start.index, key=lambda key: order[key[0]])
    ]
    mixed = table.duplicated([*KEYS, "n_train", "chain"]).any()
    header = [*HEADER, *(f"{n:,}" for n in sizes)]
    return {"title": title, "notes": [NOTE, *([MIXED] if mixed else [])], "header": header, "rows": rows}


def _cell(mean: float, deviation: float = float("nan")) -> str:
    if pd.isna(mean):
        return "–"
    return f"{mean:.3g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")
