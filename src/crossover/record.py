"""The record of a run: its fields, the columns of runs.csv with their labels and units, and their names in W&B."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_type_hints

import pandas as pd
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from crossover.config import RunConfig

RECORD_SCHEMA = 1
"""Version of record.json; a reader refuses others."""


@dataclass(frozen=True)
class Column:
    """How tables and W&B show a field of the record."""

    title: str = ""
    """In tables of a page."""
    unit: str = ""
    config: bool = False
    """Whether the flat W&B configuration of a run has it: what dashboards filter and group by."""
    summary: str = ""
    """Metric of the W&B summary: of the selected weights, at the end of the run."""
    cost: Literal["", "mean", "max"] = ""
    """How the table of costs aggregates several runs; empty: not shown there."""
    listed: bool = False
    """Whether the page's table of all runs shows it."""
    name: str = ""
    """The field."""


CONFIGURED, LISTED = Column(config=True), Column(config=True, listed=True)


class HistoryRow(TypedDict):
    """The numbers of one validation, and their metrics in W&B."""

    step: int
    train_loss: Annotated[float, "train/loss"]
    train_error: Annotated[float, "train/error"]
    val_loss: Annotated[float, "val/loss"]
    val_error: Annotated[float, "val/error"]
    lr: Annotated[float, "lr"]
    images_per_second: Annotated[float, "images_per_second"]
    images_seen: Annotated[int, "images_seen"]


class GitState(TypedDict):
    """The commit of the code, and whether the code that ran differed from it; nulls outside a git checkout."""

    commit: str | None
    dirty: bool | None


class Record(TypedDict, total=False):
    """What record.json holds; the fields with a Column are in runs.csv, in this order. Older records lack some fields.

    Errors and accuracies are fractions, losses nats; both are of the selected weights where nothing else is said.
    """

    schema: int
    run_id: Annotated[str, CONFIGURED]
    dataset: Annotated[str, LISTED]
    model: Annotated[str, LISTED]
    family: Annotated[str, CONFIGURED]
    n_train: Annotated[int, Column("training images", config=True, listed=True)]
    chain: Annotated[int, LISTED]
    seed: Annotated[int, LISTED]
    budget: Annotated[str, LISTED]
    augment: Annotated[str, LISTED]
    recipe: Annotated[str, LISTED]
    optimizer: Annotated[str, CONFIGURED]
    lr: Annotated[float, Column("peak learning rate", config=True)]
    weight_decay: Annotated[float, CONFIGURED]
    batch_size: Annotated[int, CONFIGURED]
    image_size: Annotated[int, Column("side of the images", "px", config=True)]
    test_error: Annotated[float, Column(unit="%", summary="test/error", listed=True)]
    test_loss: Annotated[float, Column(unit="nats", summary="test/loss")]
    val_error: Annotated[float, Column("validation error", "%", summary="val/error", listed=True)]
    val_loss: Annotated[float, Column("validation loss", "nats", summary="val/loss")]
    last_val_error: Annotated[float, Column("validation error after the last step")]
    """Only in runs.csv."""
    train_error: Annotated[float, Column("training error", "%", summary="train/error", listed=True)]
    train_loss: Annotated[float, Column(unit="nats", summary="train/loss")]
    loss_floor: Annotated[float, Column(unit="nats")]
    """The lowest training loss that label smoothing allows."""
    best_step: Annotated[int, Column(listed=True)]
    n_test: Annotated[int, Column("test images")]
    n_pool: Annotated[int, Column("images in the training pool")]
    """Images that the chains are drawn from."""
    steps: Annotated[int, CONFIGURED]
    params: Annotated[int, Column("parameters", config=True, cost="mean")]
    forward_flops: Annotated[float, Column("forward FLOPs per image", config=True, cost="mean")]
    images_seen: Annotated[int, Column("images seen", cost="mean")]
    flops: Annotated[float, Column("training FLOPs", config=True, cost="mean")]
    train_seconds: Annotated[float, Column("training seconds", "s", summary="train_seconds", cost="mean", listed=True)]
    total_seconds: Annotated[float, Column("wall seconds", "s", summary="wall_seconds")]
    images_per_second: Annotated[
        float, Column("images per second", "/s", summary="images_per_second", cost="mean", listed=True)
    ]
    peak_rss_bytes: Annotated[int, Column("peak memory", "B", cost="max")]
    device_memory_bytes: Annotated[int | None, Column("peak memory of the device", "B", cost="max")]
    device: Annotated[str, CONFIGURED]
    precision: Annotated[str, CONFIGURED]
    engine: Annotated[str, CONFIGURED]
    commit: Annotated[str | None, CONFIGURED]
    """Of `git`; only in runs.csv and W&B."""
    threads: int
    dataset_hash: str
    subset_hash: str
    init_hash: str | None
    """Of the initial weights that were loaded."""
    init_file_hash: str | None
    """Of the file they came from."""
    git: GitState
    config: dict[str, Any]
    """The complete RunConfig as JSON."""
    test_error_by_class: list[float | None]
    """In the order of `classes`; null for a class without test images."""
    classes: list[str]
    history: list[HistoryRow]
    finished: str
    versions: dict[str, str]


def _noted(kind: type) -> dict[str, Any]:
    """Return what the annotations of a type note about its fields."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


COLUMNS = tuple(replace(column, name=name) for name, column in _noted(Record).items())
TITLES = {column.name: column.title for column in COLUMNS if column.title} | {
    "augment": "augmentation",
    "best_step": "step whose weights are tested",
    "dirty": "changes that are in no commit",
    "size left out": "without the size",
    "chain left out": "without the chain",
    "selection": "weights tested",
    "metric": "number compared",
    "typical": "error of its replicates",
    "verdict_without": "verdict without it",
    "false_crossover": "false crossovers",
    "coverage": "coverage of N*",
    "fieller_width": "width of a pointwise Fieller set",
}
SUMMARY = {column.name: column.summary for column in COLUMNS if column.summary}
"""Field of the record: metric at the end, of the selected weights."""
CONFIG = (*(column.name for column in COLUMNS if column.config), "cell")
"""Flat configuration of a W&B run. `cell` joins model and n_train, as a panel groups by a single key."""
HISTORY: dict[str, str] = _noted(HistoryRow)
"""Field of a row of the record's history: metric, at each validation."""
ACCURACY, GPU_SECONDS, N_TRAIN = "test/accuracy", "gpu_seconds", "n_train"
CONFUSION = "confusion"
RUN_JOB = "train"
"""Job type of a run in W&B."""


def title(name: str) -> str:
    """Return the readable name of a column, metric, choice or condition."""
    return TITLES.get(name) or name.replace("_", " ")


def identify(run: RunConfig) -> Record:
    """Return the first fields of a record: the names and settings that identify a run in tables and dashboards."""
    return Record(
        schema=RECORD_SCHEMA,
        run_id=run.run_id,
        dataset=run.dataset,
        model=run.model.name,
        family=run.model.family,
        n_train=run.n_train,
        chain=run.chain,
        seed=run.seed,
        recipe=run.recipe.name,
        augment=run.augment.name,
        budget=run.budget.label,
        optimizer=run.recipe.optimizer,
        lr=run.recipe.lr,
        weight_decay=run.recipe.weight_decay,
        batch_size=run.recipe.batch_size,
        image_size=run.data.image_size,
    )


def runs_table(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per record with the columns of runs.csv."""
    rows = []
    for record in records:
        config = record.get("config") or {}
        row = {**config.get("recipe", {}), "image_size": config.get("data", {}).get("image_size"), **record}
        row["commit"] = record.get("git", {}).get("commit")
        if record.get("history"):
            row["last_val_error"] = record["history"][-1]["val_error"]
        rows.append(row)
    return pd.DataFrame(rows, columns=[column.name for column in COLUMNS])


def run_config(facts: Mapping[str, Any]) -> dict[str, str | int | float | None]:
    """Return the flat W&B configuration of a run from the first part of its record."""
    cell = f"{facts['model']} n={facts['n_train']}"
    known = {**facts, "cell": cell, "commit": facts.get("git", {}).get("commit")}
    return {name: known[name] for name in CONFIG if name in known}


def history_row(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row of the history under the names of W&B."""
    return {metric: row[field] for field, metric in HISTORY.items()}


def run_summary(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the final numbers of a run under the names of W&B."""
    trainer, on_gpu = record["config"]["trainer"], record["device_memory_bytes"] is not None
    gpus = trainer["devices"] * trainer["num_nodes"] if on_gpu else 0
    return {metric: record[field] for field, metric in SUMMARY.items()} | {
        ACCURACY: 1 - record["test_error"],
        GPU_SECONDS: gpus * record["total_seconds"],
        N_TRAIN: record["n_train"],
    }
