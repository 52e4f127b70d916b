"""The files of the atlas: table, figure, the page of all pairs and one for each set, and the block of the README."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from crossover.analysis.runs import AnalysisError
from crossover.analysis.sentences import images
from crossover.config import CrossoverError
from crossover.report.section import Drawing, Part, markdown_part
from crossover.report.style import save
from crossover.report.table import Table, columns, plain
from crossover.store import file_name, replace_block, write_text
from crossover.studies.atlas import PublishedSet, atlas_table, read_sets
from crossover.studies.atlas_figure import draw_atlas, line_of

BEGIN, END = "<!-- atlas: written by make atlas -->\n", "<!-- end of atlas -->\n"
ALT = (
    "A line for each pair of models over the sizes it was measured at, in the colour of the family that leads there,"
    " with N* and its interval where they cross. The numbers stand above; results/atlas/atlas.md has all pairs."
)
READING = (
    "The pairs are all models of one task whose families differ, the stronger inductive bias first: CNN, then hybrid"
    " (convolution and attention, or attention in local windows), then transformer.",
    "N* is where log error changes sides, with its 95% interval. The page of each set says what that covers; none"
    " covers other recipes, budgets or test sets.",
    "Beyond and below, if at all: not in the measured range. Not clear: the band of the difference holds zero where it"
    " matters. Means: one run a size, so no interval and no verdict.",
    "A crossing is one of recipe as well as of bias: what differs between the models is on the page of each set.",
)


def write_atlas(table: pd.DataFrame, sets: dict[str, PublishedSet], data: Path, folder: Path) -> None:
    """Write atlas.csv, the figure, atlas.md and the page of each set; the table is the atlas of `sets` in `data`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "atlas.csv", table.to_csv(index=False, float_format="%.4g"))
    save(draw_atlas(table, {name: entry.title for name, entry in sets.items()}), folder / "figures", "atlas", ["svg"])
    parts, links = [], []
    for name, entry in sets.items():
        rows, page = table[table["set"] == name], f"{file_name(name)}.md"
        parts.append(Part(title=entry.title, tables=(pair_table(rows),)))
        links.append(f"[{plain(entry.title)}]({page})")
        write_text(folder / page, "\n".join(markdown_part(set_page(data / f"{name}.csv", entry, rows), 1)))
    whole = Part(
        title="The atlas: published learning curves through one engine",
        sentences=(*summary(table), *READING),
        drawings=(Drawing(name="atlas", alt=ALT),),
        parts=tuple(parts),
    )
    pages = f"A page for each set, with its source, its protocols and a sentence for each pair: {', '.join(links)}."
    write_text(folder / "atlas.md", "\n".join([*markdown_part(whole, 1), pages]) + "\n")


def pair_table(rows: pd.DataFrame) -> Table:
    """Return the table of a set: N* of each pair, or who leads."""
    made = columns("pair", "task", "N*, or who leads", "sizes", "runs a size", left=3)
    return Table(caption="", columns=made, rows=tuple(_cells(row) for row in rows.itertuples()))


def _cells(row: Any) -> tuple[str, ...]:
    runs = " to ".join(dict.fromkeys((str(row.replicates_min), str(row.replicates_max))))
    if pd.isna(row.n_min):
        return f"{row.a} / {row.b}", row.task, "cannot be compared", "none shared", runs
    return f"{row.a} / {row.b}", row.task, line_of(row).says, f"{images(row.n_min)} to {images(row.n_max)}", runs


def set_page(path: Path, entry: PublishedSet, rows: pd.DataFrame) -> Part:
    """Return the page of a set, the CSV `path`: what it is, the sentence of every pair, and how to see more."""
    made = columns("pair", "task", "verdict", "the interval covers", left=4)
    shown = ("task", "summary", "interval_covers")
    cells = tuple(
        (f"{row['a']} ({row['family_a']}) / {row['b']} ({row['family_b']})", *(row[name] for name in shown))
        for row in rows.to_dict("records")
    )
    return Part(
        title=entry.title,
        sentences=(
            f"Source: {rows['source'].iloc[0]}.",
            f"n counts {rows['n_counts'].iloc[0]}. Protocols: {entry.differs}.",
        ),
        tables=(Table(caption="", columns=made, rows=cells),),
        parts=(
            Part(title="The whole report", code=f"python scripts/report.py curves={path} output=outputs/{path.stem}"),
        ),
    )


def summary(table: pd.DataFrame) -> list[str]:
    """Return what the atlas says in numbers: its pairs by outcome, and for each thing that n counts who passes whom."""
    crossing, bare = table["verdict"] == "crossover", table["p_in_range"].isna()
    counts = {
        "the stronger bias leads to the end": table["verdict"] == "a_better",
        "the weaker bias leads at the end and is nowhere behind": table["verdict"] == "b_better",
        "the curves of single runs cross, without an interval": bare & table["crossing_of_means"].notna(),
        "the curves of single runs do not cross": bare & table["crossing_of_means"].isna(),
    }
    counts["it is not clear"] = ~(crossing | pd.concat(counts, axis=1).any(axis=1))
    lines = [
        f"{len(table)} pairs of {table['set'].nunique()} published sets. N* lies in the measured range in"
        f" {crossing.sum()} of them ({(crossing & (table['replicates_max'] > 1)).sum()} with replicated runs);"
        f" {'; '.join(f'in {rows.sum()} {said}' for said, rows in counts.items() if rows.any())}."
    ]
    groups = table.groupby("n_counts", sort=False)
    return lines + [f"n counts {name}: {_passes(rows)}." for name, rows in groups]


def _passes(rows: pd.DataFrame) -> str:
    """Return whom a model passes and where, and who stays ahead of it: the one with the most decided pairs."""
    forward = rows["direction"] != "a_overtakes_b"
    rows = rows.assign(winner=rows["b"].where(forward, rows["a"]), loser=rows["a"].where(forward, rows["b"]))
    crossings = rows[rows["verdict"] == "crossover"].sort_values("n_star")
    if crossings.empty:
        return "no crossing with an interval"
    decided = rows.loc[~rows["verdict"].isin(["undecided", "several_crossings"]), "winner"].value_counts()
    best = max(dict.fromkeys(crossings["winner"]), key=lambda model: decided[model])
    tasks = rows["task"].nunique()
    said = []
    for loser, part in crossings[crossings["winner"] == best].groupby("loser", sort=False):
        first, last = part.iloc[0], part.iloc[-1]
        where = f"{images(first.n_star)} ({images(first.ci_low)} to {images(first.ci_high)})"
        if len(part) > 1:
            where = f"{images(first.n_star)} to {images(last.n_star)} ({len(part)} of {tasks} tasks)"
        said.append(f"{loser} at {where}")
    ahead = rows.loc[(rows["verdict"] == "a_better") & (rows["b"] == best), "a"].value_counts(sort=False)
    stay = [f"{model} ({count} of {tasks} tasks)" if count > 1 else str(model) for model, count in ahead.items()]
    return f"{best} passes {', '.join(said)}" + (f"; not in range: {', '.join(stay)}" if stay else "")


def readme_block(table: pd.DataFrame) -> str:
    """Return what the README says about real images."""
    first, *others = map(plain, summary(table))
    figure = f"![{plain(ALT)}](results/atlas/figures/atlas.svg)"
    return "\n".join([f"**{first}**", "", *(f"- {line}" for line in others), "", figure]) + "\n"


def main(values: dict[str, Any], console: Console) -> None:
    """Put every published pair through the engine and write its table, figure and pages."""
    data, output = Path(values["data"]), Path(values["output"])
    try:
        table = atlas_table(data, values["parallel"] or len(os.sched_getaffinity(0)))
        write_atlas(table, read_sets(data), data, output)
    except AnalysisError as error:
        raise CrossoverError(str(error)) from None
    if values["readme"] is not None:
        replace_block(Path(values["readme"]), BEGIN, END, readme_block(table))
    console.print("\n".join(summary(table)).replace("*", "").replace("\\", ""), highlight=False, markup=False)
    console.print(f"page: {output / 'atlas.md'}", soft_wrap=True)
