"""The atlas: every published pair of a stronger and a weaker inductive bias, through the engine of the verdicts."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from crossover.analysis.runs import AnalysisError, bias_rank, read_curves, validate_runs
from crossover.analysis.verdict import compare
from crossover.config import describe

SETS = "sets.yaml"
FAMILIES = ("cnn", "hybrid", "transformer")
"""From the strongest inductive bias to the weakest; the pairs of a task are all its models of different families."""
ROUNDED = ("n_star", "ci_low", "ci_high", "crossing_of_means", "n_min", "n_max")
COLUMNS = {
    **dict.fromkeys(("set", "task", "a", "b", "family_a", "family_b", "verdict", "direction"), "str"),
    **dict.fromkeys(ROUNDED, "Int64"),
    "p_in_range": "float",
    **dict.fromkeys(("replicates_min", "replicates_max"), "Int64"),
    **dict.fromkeys(("log_ratio_n_min", "log_ratio_n_max", "log_ratio_n_max_low", "log_ratio_n_max_high"), "float"),
    **dict.fromkeys(("n_counts", "interval_covers", "protocol_differences", "source", "summary"), "str"),
}
"""Of atlas.csv. `a` has the stronger bias; replicates are of the sizes with the fewest and with the most; log_ratio is
the mean log error of b less that of a, low and high its simultaneous 95% band."""
GAP = ("log_error_ratio", "ci_low", "ci_high")


class PublishedSet(BaseModel):
    """What sets.yaml says about a CSV of curves; its head explains each field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    counts: str | None = None
    differs: str = "not stated"
    families: dict[str, Literal["cnn", "hybrid", "transformer", "other"]] = {}
    varies: str = "training runs"
    source: str | None = None


@dataclass(frozen=True)
class Pair:
    """Two models of one task of a set, and their runs."""

    models: tuple[str, str]
    runs: pd.DataFrame
    varies: str
    facts: dict[str, str]
    """Columns of the atlas that do not come from the engine."""


def read_sets(folder: Path) -> dict[str, PublishedSet]:
    """Return the entries of sets.yaml by the name of their CSV; raise AnalysisError where the two do not agree."""
    path = folder / SETS
    try:
        sets = TypeAdapter(dict[str, PublishedSet]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise AnalysisError(f"{path}: {describe(error)}; each set needs a title, its head says what else") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AnalysisError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    found = {file.stem for file in folder.glob("*.csv")}
    for name in sorted(found ^ sets.keys()):
        file = folder / f"{name}.csv"
        raise AnalysisError(
            f"{file} has no entry in {SETS}; add `{name}:` with its title, counts and differs"
            if name in found
            else f"{path} names {name}, but there is no {file}; add the file or remove the entry"
        )
    return sets


def set_pairs(folder: Path, name: str, entry: PublishedSet) -> Iterator[Pair]:
    """Yield the pairs of a set, in the order of FAMILIES and of its rows."""
    path = folder / f"{name}.csv"
    curves = read_curves(path)
    given = pd.read_csv(path).reindex(columns=["what_n_counts", "source"])
    curves = validate_runs(curves.assign(model=curves["model"].astype(str), **given))[0]
    families = {model: _family(path, model, entry) for model in dict.fromkeys(curves["model"])}
    found = False
    for task, runs in curves.groupby("dataset", sort=False):
        models = [model for family in FAMILIES for model in dict.fromkeys(runs["model"]) if families[model] == family]
        shared = {"set": name, "task": str(task), "protocol_differences": entry.differs}
        shared["n_counts"] = entry.counts or _first(runs["what_n_counts"])
        shared["source"] = entry.source or _first(runs["source"])
        for i, a in enumerate(models):
            for b in (b for b in models[i + 1 :] if families[b] != families[a]):
                found = True
                facts = {"a": a, "b": b, "family_a": families[a], "family_b": families[b]}
                yield Pair((a, b), runs[runs["model"].isin([a, b])], entry.varies, shared | facts)
    if not found:
        raise AnalysisError(f"{path}: column model: no task has models of two families; correct families in {SETS}")


def _family(path: Path, model: str, entry: PublishedSet) -> str:
    rank = bias_rank(model)
    if model in entry.families:
        return entry.families[model]
    if rank is None:
        raise AnalysisError(
            f"{path}: column model: the family of {model} cannot be told by its name; say it in {SETS}:"
            f" families: {{{model}: cnn}} ({', '.join(FAMILIES)}, or other to leave it out)"
        )
    return FAMILIES[rank]


def _first(column: "pd.Series[str]") -> str:
    """Return the first text of a column, without its remarks."""
    texts = column.dropna()
    return str(texts.iloc[0]).split(";")[0] if len(texts) else "not stated"


def compare_pair(pair: Pair) -> dict[str, Any]:
    """Return a pair's row of the atlas."""
    found = compare(pair.runs, *pair.models, seed=0)
    sizes, gap = pair.runs.groupby(["model", "n_train"]).size(), found["gap"] or [dict.fromkeys(GAP)]
    covers = f"variation between {pair.varies}"
    if found["p_in_range"] is None:
        covers = "nothing: no replicates"
    elif found["chains"] == 1:
        covers = "noise along the curve of one run"
    return {
        **{name: found[name] for name in ("verdict", "direction", "p_in_range", "summary")},
        **{name: None if found[name] is None else round(found[name]) for name in ROUNDED},
        "replicates_min": int(sizes.min()),
        "replicates_max": int(sizes.max()),
        "log_ratio_n_min": gap[0]["log_error_ratio"],
        **dict(
            zip(("log_ratio_n_max", "log_ratio_n_max_low", "log_ratio_n_max_high"), map(gap[-1].get, GAP), strict=True)
        ),
        "interval_covers": covers,
        **pair.facts,
    }


def atlas_table(folder: Path, workers: int) -> pd.DataFrame:
    """Return the atlas of the sets of a folder, in the order of sets.yaml: one row a pair, with COLUMNS."""
    pairs = [pair for name, entry in read_sets(folder).items() for pair in set_pairs(folder, name, entry)]
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            rows = list(pool.map(compare_pair, pairs, chunksize=4))
    else:
        rows = [compare_pair(pair) for pair in pairs]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    if table["n_min"].isna().all():
        raise AnalysisError(
            f"{folder}: column n_train: no two models of a task share a size; give both at the same sizes"
        )
    return table
