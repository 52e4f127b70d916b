"""Checks of published studies against literature values and exact bounds: inside, outside or not comparable."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from crossover.analysis.runs import without_twins
from crossover.config import CrossoverError
from crossover.report.section import Part, markdown_part
from crossover.report.table import Table, columns, terminal_table
from crossover.store import write_text

COLUMNS = ["study", "dataset", "model", "n_train", "accuracy", "expected", "outcome", "why", "source"]
NOT = "not comparable"
COPIES = {"cifar10_jpeg": "cifar10"}
"""Data sets that count as another one: a JPEG copy changes the pixels only slightly."""
UNSTATED = 1000.0
"""Ratio assumed for an unstated condition in the search for the published number nearest to a run."""
UNITS = {"params": "parameters", "n_train": "training images", "images_seen": "images seen", "steps": "steps"}


def main(values: dict[str, Any], console: Console) -> None:
    """Write gold.csv and gold.md next to the published studies; exit with 1 when one is outside."""
    results = Path(values["results"])
    studies = sorted(path.parent for path in results.glob("*/plan.json"))
    if not studies:
        raise CrossoverError(f"{results} has no study; make publish writes one")
    gold = with_curves(values, Path(values["sets"]))
    runs = {path.name: without_twins(pd.read_csv(path / "runs.csv")) for path in studies}
    table = pd.concat([compare_study(name, table, gold) for name, table in runs.items()])
    write_text(results / "gold.csv", table[table["outcome"] != NOT].to_csv(index=False, float_format="%.4f"))
    page = gold_page(table)
    write_text(results / "gold.md", "\n".join(markdown_part(page, 1)))
    console.print(terminal_table(page.tables[0]), highlight=False)
    console.print(page.sentences[0], markup=False, highlight=False)
    print(f"page: {results / 'gold.md'}")
    sys.exit(1 if (table["outcome"] == "outside").any() else 0)


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
    """Return one row per data set, model and size of a study with a published number for the same conditions, else one
    row with the nearest number; and one row per bound.

    `runs` is a runs.csv and `gold` comes from with_curves. Means over chains are compared; a bound is exceeded by more
    than 3 binomial standard deviations.
    """
    rows: list[dict[str, Any]] = []
    for (dataset, model), part in runs.groupby(["dataset", "model"], sort=False):
        name, family = COPIES.get(str(dataset), str(dataset)), str(part["family"].iloc[0])
        near = [entry for entry in gold["published"] if (entry["dataset"], entry["family"]) == (name, family)]
        sizes = [size for _, size in part.groupby("n_train")] if near else []
        found = [min((_beside(size, entry, gold) for entry in near), key=_distance) for size in sizes]
        base: dict[str, Any] = {"study": study, "dataset": dataset, "model": model}
        if found:
            same = [row for row in found if row["outcome"] != NOT]
            rows += [base | row for row in same or [min(found, key=_distance)]]
        else:
            why = f"no published number of a {family} on {dataset}"
            rows.append(base | {"outcome": NOT, "why": why})
        for entry in gold["bounds"]:
            if entry["study"] == study:
                rows.append(base | _below(part, entry))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n_train": "Int64"})


def _beside(runs: pd.DataFrame, entry: Mapping[str, Any], gold: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row that compares one size with one published number, and the distance of their conditions."""
    mine = runs.iloc[0]
    budget = "steps" if entry.get("steps") else "images_seen"
    limits = {name: gold["same"].get(name, gold["same"]["budget"]) for name in ("params", "n_train", budget)}
    far, reasons = 0.0, []
    for name, limit in limits.items():
        if entry.get(name) is None:
            reasons.append("the source does not state its budget")
            far += math.log(UNSTATED)
            continue
        low, high = _ends(entry[name])
        ratio = max(1.0, low / mine[name], mine[name] / high)
        far += math.log(ratio)
        if ratio > limit:
            reasons.append(f"{mine[name]:,.0f} {UNITS[name]}, published {low:,.0f}")
    if "augment" in entry and entry["augment"] != mine["augment"]:
        far += 1.0
        reasons.append(f"augmentation {mine['augment']}, published {entry['augment']}")
    margin = gold["margin"]["full" if entry["full"] else "subset"]
    low, high = _ends(entry["accuracy"])
    low, high = low - margin, high + margin
    accuracy = 1 - float(runs["test_error"].mean())
    why = "; ".join(reasons)
    outcome = NOT if reasons else "inside" if low <= accuracy <= high else "outside"
    return {
        "n_train": int(mine["n_train"]),
        "accuracy": accuracy,
        "expected": f"{low:.3f} to {high:.3f}",
        "outcome": outcome,
        "why": why,
        "source": entry["source"],
        "distance": (bool(reasons), UNITS["n_train"] in why, far),
    }


def _distance(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """Return whether it is not comparable, whether its size differs, and the distance of the conditions."""
    return row["distance"]


def _below(runs: pd.DataFrame, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row that compares the size with the highest mean accuracy with a bound."""
    mean = 1 - runs.groupby("n_train")["test_error"].mean()
    best = float(mean.max())
    bound = entry["accuracy"]
    spread = 3 * math.sqrt(bound * (1 - bound) / float(runs["n_test"].iloc[0]))
    return {
        "n_train": int(str(mean.idxmax())),
        "accuracy": best,
        "expected": f"at most {bound + spread:.3f}",
        "outcome": "inside" if best <= bound + spread else "outside",
        "why": "",
        "source": entry["source"],
    }


def _ends(value: float | Sequence[float]) -> tuple[float, float]:
    return (value[0], value[-1]) if isinstance(value, Sequence) else (value, value)


def gold_page(table: pd.DataFrame) -> Part:
    """Return the page: what is comparable, and how much is not and why."""
    same = table[table["outcome"] != NOT]
    other = table[table["outcome"] == NOT]
    inside, unknown = int((same["outcome"] == "inside").sum()), int(other["n_train"].isna().sum())
    differ = len(other) - unknown
    said = (
        f"{len(same)} numbers of {same['study'].nunique()} studies are comparable, {inside} of them inside."
        f" {len(other)} models of a study and data set are not: of {unknown} no number is published, and {differ}"
        " differ from the nearest in parameters, images, budget or augmentation."
    )
    shown = ("study", "model", "n_train", "accuracy", "expected", "outcome", "source")
    rows = tuple(tuple(row[name] for name in shown) for row in same.to_dict("records"))
    return Part(
        title="The published studies beside published numbers and exact bounds",
        sentences=(said,),
        tables=(Table(caption="", columns=columns(*shown, left=len(shown)), rows=rows),),
    )
