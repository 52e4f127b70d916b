"""The atlas: verdicts for every published pair of a model with a stronger and one with a weaker inductive bias.

Learning curves that others published, in data/published, become one table, one figure, and a page for each set.
"""

import itertools
import os
import shlex
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from crossover.analysis.compare import compare
from crossover.analysis.runs import AnalysisError, Method, bias_rank, read_curves, validate_runs
from crossover.analysis.sentences import images
from crossover.config import describe
from crossover.fields import Frozen
from crossover.report.section import Drawing, Part, markdown_part, plain, table_of
from crossover.report.style import save
from crossover.store import file_name, replace_block, write_text
from crossover.studies.atlas_figure import draw_atlas
from crossover.text import counted, tracked
from crossover.training.ranks import worker_processes

SETS = "sets.yaml"
BY_BIAS = ("cnn", "hybrid", "transformer")
"""From the strongest inductive bias to the weakest; a task has all pairs of models of different families."""
ROUNDED = ("n_star", "ci_low", "ci_high", "crossing_of_means", "n_min", "n_max")
COLUMNS = {
    **dict.fromkeys(("set", "task", "a", "b", "family_a", "family_b", "verdict", "direction"), "str"),
    **dict.fromkeys(ROUNDED, "Int64"),
    "p_in_range": "float",
    **dict.fromkeys(("replicates_min", "replicates_max"), "Int64"),
    **dict.fromkeys(("log_ratio_n_min", "log_ratio_n_max", "log_ratio_n_max_low", "log_ratio_n_max_high"), "float"),
    **dict.fromkeys(("n_counts", "interval_covers", "protocol_differences", "source", "summary"), "str"),
}
"""Columns of atlas.csv. `a` has the stronger bias; replicates are those of the sizes with the fewest and with the most;
log_ratio is the mean log error of b minus that of a, low and high its simultaneous 95% band."""

BEGIN, END = "<!-- atlas: written by make atlas -->\n", "<!-- end of atlas -->\n"
ALT = (
    "A line for each pair of models over the sizes it was measured at, in the colour of the family that leads there,"
    " with N* and its interval where they cross. The numbers stand above; results/atlas/atlas.csv has all pairs."
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


def main(values: dict[str, Any], _: Console) -> None:
    """Write the atlas of a folder of published curves, and its block in the README."""
    data, folder = Path(values["sets"]), Path(values["output"])
    table = atlas_table(data, values["parallel"] or len(os.sched_getaffinity(0)))
    write_atlas(table, read_sets(data), data, folder)
    if values["readme"] is not None:
        replace_block(Path(values["readme"]), BEGIN, END, readme_block(table))
    print(*summary(table), f"page: {folder / 'atlas.md'}", sep="\n")


class PublishedSet(Frozen):
    """What sets.yaml says about a CSV of curves; its head explains each field."""

    title: str
    counts: str | None = None
    differs: str = "not stated"
    families: dict[str, Literal["cnn", "hybrid", "transformer", "other"]] = {}
    varies: str = "training runs"
    source: str | None = None


Pair = tuple[pd.DataFrame, dict[str, str]]
"""The runs of two models of one task of a set, and the columns of the atlas that do not come from the analysis."""


def read_sets(folder: Path) -> dict[str, PublishedSet]:
    """Return the entries of sets.yaml by the name of their CSV; raise AnalysisError if the two do not match."""
    path = folder / SETS
    try:
        sets = TypeAdapter(dict[str, PublishedSet]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise AnalysisError(f"{path}: {describe(error)}; each set needs a title, its head says what else") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AnalysisError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    for name in sorted({file.stem for file in folder.glob("*.csv")} ^ sets.keys()):
        raise AnalysisError(f"{folder / name}.csv and an entry `{name}:` in {path} go together; add what is missing")
    return sets


def set_pairs(folder: Path, name: str, entry: PublishedSet) -> Iterator[Pair]:
    """Yield the pairs of a set, in the order of BY_BIAS and of its rows."""
    path = folder / f"{name}.csv"
    curves = read_curves(path)
    given = pd.read_csv(path).reindex(columns=["what_n_counts", "source"])
    curves = validate_runs(curves.assign(model=curves["model"].astype(str), **given))[0]
    families = {model: _family(path, model, entry) for model in dict.fromkeys(curves["model"])}
    found = False
    for task, runs in curves.groupby("dataset", sort=False):
        models = [model for family in BY_BIAS for model in dict.fromkeys(runs["model"]) if families[model] == family]
        shared = {"set": name, "task": str(task), "protocol_differences": entry.differs}
        shared["interval_covers"] = f"variation between {entry.varies}"
        shared["n_counts"] = entry.counts or _first(runs["what_n_counts"])
        shared["source"] = entry.source or _first(runs["source"])
        for a, b in itertools.combinations(models, 2):
            if families[a] != families[b]:
                found = True
                facts = {"a": a, "b": b, "family_a": families[a], "family_b": families[b]}
                yield runs[runs["model"].isin([a, b])], shared | facts
    if not found:
        raise AnalysisError(f"{path}: column model: no task has models of two families; correct families in {SETS}")


def _family(path: Path, model: str, entry: PublishedSet) -> str:
    if model in entry.families:
        return entry.families[model]
    if (rank := bias_rank(model)) is None:
        raise AnalysisError(
            f"{path}: column model: the family of {model} cannot be told by its name; say it in {SETS}:"
            f" families: {{{model}: cnn}} ({', '.join(BY_BIAS)}, or other to leave it out)"
        )
    return BY_BIAS[rank]


def _first(column: "pd.Series[str]") -> str:
    """Return the first text of a column, without its remarks."""
    texts = column.dropna()
    return str(texts.iloc[0]).split(";")[0] if len(texts) else "not stated"


def compare_pair(pair: Pair) -> dict[str, Any]:
    runs, facts = pair
    found: Any = compare(runs, facts["a"], facts["b"], Method(seed=0))
    sizes, gap = runs.groupby(["model", "n_train"]).size(), found["gap"] or [{}]
    covers = {"none": "nothing: no replicates", "roughness": "noise along the curve of one run"}
    return {
        **{name: found[name] for name in ("verdict", "direction", "p_in_range", "summary")},
        **{name: None if found[name] is None else round(found[name]) for name in ROUNDED},
        "replicates_min": int(sizes.min()),
        "replicates_max": int(sizes.max()),
        "log_ratio_n_min": gap[0].get("log_error_ratio"),
        "log_ratio_n_max": gap[-1].get("log_error_ratio"),
        "log_ratio_n_max_low": gap[-1].get("ci_low"),
        "log_ratio_n_max_high": gap[-1].get("ci_high"),
        **facts,
        "interval_covers": covers.get(found["interval"], facts["interval_covers"]),
    }


def atlas_table(folder: Path, workers: int) -> pd.DataFrame:
    """Return the atlas of the sets in a folder, in the order of sets.yaml: one row per pair, with COLUMNS."""
    pairs = [pair for name, entry in read_sets(folder).items() for pair in set_pairs(folder, name, entry)]
    if workers > 1:
        with worker_processes(workers, get_context("spawn")) as pool:
            rows = list(tracked(pool.map(compare_pair, pairs, chunksize=4), "comparing pairs", len(pairs)))
    else:
        rows = list(tracked(map(compare_pair, pairs), "comparing pairs", len(pairs)))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    if table["n_min"].isna().all():
        raise AnalysisError(
            f"{folder}: column n_train: no two models of a task share a size; give both at the same sizes"
        )
    return table


def write_atlas(table: pd.DataFrame, sets: dict[str, PublishedSet], data: Path, folder: Path) -> None:
    """Write atlas.csv, the figure, atlas.md and the page of each set; the table is the atlas of `sets` in `data`."""
    write_text(folder / "atlas.csv", table.to_csv(index=False, float_format="%.4g"))
    save(draw_atlas(table, {name: entry.title for name, entry in sets.items()}), folder / "figures", "atlas", ["svg"])
    links = []
    for name, entry in sets.items():
        page = set_page(data / f"{name}.csv", entry, table[table["set"] == name])
        links.append(f"- [{plain(entry.title)}]({file_name(name)}.md)")
        write_text(folder / f"{file_name(name)}.md", "\n".join(markdown_part(page, 1)))
    title = "The atlas: published learning curves through one engine"
    whole = Part(title=title, sentences=(*summary(table), *READING), drawings=(Drawing(name="atlas", alt=ALT),))
    write_text(folder / "atlas.md", "\n".join([*markdown_part(whole, 1), *links]) + "\n")


def set_page(path: Path, entry: PublishedSet, rows: pd.DataFrame) -> Part:
    """Return the page of a set, the CSV `path`: its description, its pairs, and where to find more."""
    cells = (
        {
            "pair": f"{row['a']} ({row['family_a']}) / {row['b']} ({row['family_b']})",
            "task": row["task"],
            "verdict": row["summary"],
            "sizes": "none shared" if pd.isna(row["n_min"]) else f"{images(row['n_min'])} to {images(row['n_max'])}",
            "runs a size": " to ".join(dict.fromkeys(str(row[f"replicates_{end}"]) for end in ("min", "max"))),
            "the interval covers": row["interval_covers"],
        }
        for row in rows.to_dict("records")
    )
    first = rows.iloc[0]
    about = f"Source: {first['source']}. n counts {first['n_counts']}. Protocols: {entry.differs}."
    command = shlex.join(["python", "scripts/report.py", f"curves={path}", f"output=outputs/{path.stem}"])
    whole = Part(title="The whole report", code=command)
    return Part(title=entry.title, sentences=(about,), tables=(table_of(cells),), parts=(whole,))


def summary(table: pd.DataFrame) -> list[str]:
    """Return a summary of the atlas: its pairs by outcome, and by meaning of n which model overtakes which."""
    crossing, bare = table["verdict"] == "crossover", table["p_in_range"].isna() & table["n_min"].notna()
    counts = {
        "the stronger bias leads to the end": table["verdict"] == "a_better",
        "the weaker bias leads at the end and is nowhere behind": table["verdict"] == "b_better",
        "the curves of single runs cross, without an interval": bare & table["crossing_of_means"].notna(),
        "the curves of single runs do not cross": bare & table["crossing_of_means"].isna(),
    }
    counts["the models share no size"] = table["n_min"].isna()
    counts["it is not clear"] = ~(crossing | pd.concat(counts, axis=1).any(axis=1))
    sets = counted(table["set"].nunique(), "published set")
    lines = [
        f"{counted(len(table), 'pair')} of {sets}. N* lies in the measured range in"
        f" {crossing.sum()} of them ({(crossing & (table['replicates_max'] > 1)).sum()} with replicated runs);"
        f" {'; '.join(f'in {rows.sum()} {said}' for said, rows in counts.items() if rows.any())}."
    ]
    groups = table.groupby("n_counts", sort=False)
    return lines + [f"n counts {name}: {_passes(rows)}." for name, rows in groups]


def _passes(rows: pd.DataFrame) -> str:
    """Return whom a model overtakes and where, and who stays ahead of it, for the model with most decided pairs."""
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
    """Return the README's block about real images."""
    first, *others = map(plain, summary(table))
    figure = f"![{plain(ALT)}](results/atlas/figures/atlas.svg)"
    return "\n".join([f"**{first}**", "", *(f"- {line}" for line in others), "", figure]) + "\n"
