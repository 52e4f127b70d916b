"""Checks of published studies and of the atlas against known values: inside, outside or not comparable."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from crossover.analysis.runs import without_twins
from crossover.analysis.sentences import images
from crossover.config import CrossoverError
from crossover.report.section import Part, Table, markdown_part, shown, table_of, terminal_table
from crossover.store import RUN_COLUMNS, read_table, write_text

COLUMNS = ["study", "dataset", "model", "n_train", "accuracy", "expected", "outcome", "why", "source"]
CROSSINGS = ["study", "dataset", "model", "found", "expected", "outcome", "source"]
NOT = "not comparable"
UNKNOWN, DIFFERENT = "no number is published", "conditions differ"
"""Why a model of a study is not comparable."""
SMALL = -0.01
"""Log error ratio at the largest size of a pair that ends level."""
COPIES = {"cifar10_jpeg": "cifar10"}
"""Data sets that count as another one: a JPEG copy changes the pixels only slightly."""


def main(values: dict[str, Any], console: Console) -> None:
    """Write gold.csv and gold.md next to the published studies; exit with 1 when one is outside."""
    results = Path(values["results"])
    table = compare_all(results, with_curves(values, Path(values["sets"])))
    crossings = compare_crossings(read_table(Path(values["atlas"])), values["crossings"])
    both = pd.concat([table[table["outcome"] != NOT], crossings])
    write_text(results / "gold.csv", both.to_csv(index=False, float_format="%.4f"))
    page = gold_page(table, crossings)
    write_text(results / "gold.md", "\n".join(markdown_part(page, 1)))
    for part in page.tables:
        console.print(terminal_table(part), highlight=False)
    print(*page.sentences, f"page: {results / 'gold.md'}", sep="\n")
    sys.exit(1 if (both["outcome"] == "outside").any() else 0)


def compare_all(results: Path, gold: Mapping[str, Any]) -> pd.DataFrame:
    studies = sorted(path.parent for path in results.glob("*/plan.json"))
    if not studies:
        raise CrossoverError(f"{results} has no study; make publish writes one")
    tables = {path.name: without_twins(read_table(path / "runs.csv", needed=RUN_COLUMNS)) for path in studies}
    return pd.concat([compare_study(name, table, gold) for name, table in tables.items()])


def with_curves(gold: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Return conf/gold.yaml with the numbers of its curve sets (in `data`) added to the published ones."""
    entries = list(gold["published"])
    for part in gold["curves"]:
        table = pd.read_csv(data / f"{part['set']}.csv")
        table = table[(table["task"] == part["task"]) & table["model"].isin(part["models"])]
        for row in table.itertuples():
            family, params = part["models"][row.model]
            facts = {"source": f"{part['set']}: {row.model}", "dataset": part["dataset"], "augment": part["augment"]}
            facts |= {"family": family, "params": params, "full": row.n_train == table["n_train"].max()}
            facts |= {"n_train": row.n_train, "images_seen": part["epochs"] * row.n_train, "accuracy": 1 - row.error}
            entries.append(facts)
    return {**gold, "published": entries}


def compare_study(study: str, runs: pd.DataFrame, gold: Mapping[str, Any]) -> pd.DataFrame:
    """Return one row per data set, model and size of a study with a published number for the same conditions, one for
    each model without any, and one per bound.

    `runs` is a runs.csv and `gold` comes from with_curves. Means over chains are compared; a bound is exceeded by more
    than 3 binomial standard deviations.
    """
    rows: list[dict[str, Any]] = []
    for (dataset, model), part in runs.groupby(["dataset", "model"], sort=False):
        base: dict[str, Any] = {"study": study, "dataset": dataset, "model": model, "why": ""}
        kind = COPIES.get(str(dataset), str(dataset)), part["family"].iloc[0]
        near = [entry for entry in gold["published"] if (entry["dataset"], entry["family"]) == kind]
        accuracies = 1 - part.groupby("n_train")["test_error"].mean()
        found = []
        for n, accuracy in accuracies.items():
            run = part[part["n_train"] == n].iloc[0]
            far, place = min(((_distance(run, e, gold["same"]), i) for i, e in enumerate(near)), default=(math.inf, 0))
            if far < math.inf:
                margin = gold["margin"]["full" if near[place]["full"] else "subset"]
                low, high = _ends(near[place]["accuracy"])
                found.append(base | _beside(n, accuracy, low - margin, high + margin, near[place]["source"]))
        rows += found or [base | {"outcome": NOT, "why": DIFFERENT if near else UNKNOWN}]
        for entry in gold["bounds"]:
            if entry["study"] == study:
                bound = entry["accuracy"]
                best: Any = accuracies.idxmax()
                high = bound + 3 * math.sqrt(bound * (1 - bound) / float(part["n_test"].iloc[0]))
                rows.append(base | _beside(best, accuracies[best], 0.0, high, entry["source"]))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n_train": "Int64"})


def compare_crossings(atlas: pd.DataFrame, known: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row (CROSSINGS) per pair of the atlas with a known crossing; `known` is that part of conf/gold.yaml."""
    rows = []
    for part in known:
        task = atlas[(atlas["set"] == part["set"]) & (atlas["task"] == part["task"])]
        for what in ("n_star", "means", "none"):
            for a, b, *ends in part.get(what, []):
                found = task[(task["a"] == a) & (task["b"] == b)].to_dict("records")
                if not found:
                    raise CrossoverError(f"the atlas has no {a} and {b} on {part['task']} of {part['set']}; make atlas")
                row = found[0]
                at = row["crossing_of_means" if what == "means" else "n_star"]
                inside = ends[0] <= at <= ends[1] if ends else math.isnan(at) and row["log_ratio_n_max"] > SMALL
                said = "means cross at " if what == "means" else "N* = "
                rows.append(
                    {
                        "study": "atlas",
                        "dataset": part["task"],
                        "model": f"{a} / {b}",
                        "found": "not in range" if math.isnan(at) else f"{said}{images(at)}",
                        "expected": f"{images(ends[0])} to {images(ends[1])}" if ends else "not in range",
                        "outcome": "inside" if inside else "outside",
                        "source": part["set"],
                    }
                )
    return pd.DataFrame(rows, columns=CROSSINGS)


def _beside(n: Any, accuracy: float, low: float, high: float, source: str) -> dict[str, Any]:
    return {
        "n_train": int(n),
        "accuracy": accuracy,
        "expected": f"{low:.3f} to {high:.3f}" if low else f"at most {high:.3f}",
        "outcome": "inside" if low <= accuracy <= high else "outside",
        "source": source,
    }


def _distance(run: "pd.Series[Any]", entry: Mapping[str, Any], same: Mapping[str, float]) -> float:
    """Return how far the conditions of a published number are from a run's: a sum of logs, infinite if not the same.

    `same` has the largest ratios that count as the same. A source that does not state its budget is never the same.
    """
    budget = "steps" if entry.get("steps") else "images_seen"
    if entry.get("augment", run["augment"]) != run["augment"] or entry.get(budget) is None:
        return math.inf
    far = 0.0
    for name, most in (("params", same["params"]), ("n_train", same["n_train"]), (budget, same["budget"])):
        low, high = _ends(entry[name])
        ratio = max(1.0, low / run[name], run[name] / high)
        far += math.log(ratio) if ratio <= most else math.inf
    return far


def _ends(value: float | Sequence[float]) -> tuple[float, float]:
    return (value[0], value[-1]) if isinstance(value, Sequence) else (value, value)


def gold_page(table: pd.DataFrame, crossings: pd.DataFrame) -> Part:
    """Return the page: what is comparable, and how much is not and why; then the crossings."""
    same, other = table[table["outcome"] != NOT], table[table["outcome"] == NOT]
    inside, unknown = (same["outcome"] == "inside").sum(), (other["why"] == UNKNOWN).sum()
    said = (
        f"{len(same)} numbers of {same['study'].nunique()} studies are comparable, {inside} of them inside."
        f" {len(other)} models of a study and data set are not: of {unknown} no number is published, and"
        f" {len(other) - unknown} differ from the nearest in parameters, images, budget or augmentation."
    )
    known = (
        f"{len(crossings)} pairs of published curves are known to cross or not to cross, and the atlas finds"
        f" {(crossings['outcome'] == 'inside').sum()} of them where they were found by interpolation."
    )
    return Part(
        title="The published studies and the atlas beside known numbers",
        sentences=(said, known),
        tables=(
            _table("Accuracies", same, ("study", "model", "n_train", "accuracy", "expected", "outcome", "source")),
            _table("Crossings of the atlas", crossings, ("dataset", "model", *CROSSINGS[3:])),
        ),
    )


def _table(caption: str, rows: pd.DataFrame, names: Sequence[str]) -> Table:
    return table_of(rows[list(names)].map(shown).to_dict("records"), caption=caption)
