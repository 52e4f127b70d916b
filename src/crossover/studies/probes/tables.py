"""The probes of a study as a section of a report: means over chains by number of training images."""

import pandas as pd

from crossover.report.section import Part, Section
from crossover.report.table import Cell, Table, columns

NAME = "probes.csv"
KEYS = ["probe", "model", "layer"]
HEADER = ("measure", "model", "layer", "untrained", "without learning")
NOTE = (
    "Means over chains ± their standard deviation, by number of training images; beside them the same networks before"
    " training, and what it would be without learning, where that is known."
)
MIXED = "Runs that differ in more than the chain (seed, budget or recipe) are averaged here."


def probe_section(table: pd.DataFrame) -> Section:
    """Return a part for each world and augmentation, with a row for each measure, model and layer.

    The similarities of single pairs of layers (`cka`) are left out: they are in the table itself.
    """
    shown = table[table["probe"] != "cka"]
    parts = [
        Part(title=f"{world}, augmentation {augment}", sentences=_notes(part), tables=(_means(part),))
        for (world, augment), part in shown.groupby(["world", "augment"], sort=False)
    ]
    return Section(name="probes", title="What the networks have learned", parts=tuple(parts), files=(NAME,))


def _notes(table: pd.DataFrame) -> tuple[str, ...]:
    mixed = table.duplicated([*KEYS, "n_train", "chain"]).any()
    return (NOTE, MIXED) if mixed else (NOTE,)


def _means(table: pd.DataFrame) -> Table:
    sizes = sorted(table["n_train"].unique())
    order = {name: i for i, name in enumerate(dict.fromkeys(table["probe"]))}
    means = table.groupby([*KEYS, "n_train"], sort=False)["value"].agg(["mean", "std"])
    cells = {key: _cell(*numbers) for key, numbers in zip(means.index, means.to_numpy(), strict=True)}
    start = table.groupby(KEYS, sort=False)[["untrained", "analytic"]].mean()
    rows: list[tuple[Cell, ...]] = [
        (*key, *(_cell(value) for value in start.loc[key]), *(cells.get((*key, n)) for n in sizes))
        for key in sorted(start.index, key=lambda key: order[key[0]])
    ]
    return Table(caption="", columns=columns(*HEADER, *(f"{n:,}" for n in sizes), left=3), rows=tuple(rows))


def _cell(mean: float, deviation: float = float("nan")) -> str | None:
    if pd.isna(mean):
        return None
    return f"{mean:.3g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")
