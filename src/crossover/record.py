"""The record of a run: its fields, the columns of runs.csv with their labels and units, and their names in W&B."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import pandas as pd

from crossover.config import RunConfig

RECORD_SCHEMA = 1
"""Version of record.json; a reader refuses others."""


class HistoryRow(TypedDict):
    """The numbers of one validation."""

    step: int
    images_seen: int
    lr: float
    train_loss: float
    train_error: float
    val_loss: float
    val_error: float
    images_per_second: float


class GitState(TypedDict):
    """The commit of the code, and whether the code that ran differed from it; nulls outside a git checkout."""

    commit: str | None
    dirty: bool | None


class Identity(TypedDict):
    """The first fields of a record: the names and settings that identify a run in tables and dashboards.

    The last five, which distinguish two recipes of the same name, are missing in older records.
    """

    schema: int
    run_id: str
    dataset: str
    model: str
    family: str
    n_train: int
    chain: int
    seed: int
    recipe: str
    augment: str
    budget: str
    optimizer: str
    lr: float
    weight_decay: float
    batch_size: int
    image_size: int


class Facts(Identity):
    """What is known of a run when it begins to train."""

    steps: int
    images_seen: int
    params: int
    flops: float
    forward_flops: float
    loss_floor: float
    """The lowest training loss that label smoothing allows."""
    device: str
    precision: str
    engine: str
    threads: int
    dataset_hash: str
    subset_hash: str
    n_pool: int
    """Images that the chains are drawn from."""
    init_hash: str | None
    """Of the initial weights that were loaded."""
    init_file_hash: str | None
    """Of the file they came from; missing in older records."""
    git: GitState
    config: dict[str, Any]
    """The complete RunConfig as JSON."""


class Measures(TypedDict):
    """What a run has measured, with the selected weights where nothing else is said."""

    test_error: float
    test_loss: float
    val_error: float
    val_loss: float
    train_error: float
    train_loss: float
    best_step: int
    test_error_by_class: list[float | None]
    """In the order of `classes`; null for a class without test images."""
    n_test: int
    train_seconds: float
    images_per_second: float
    history: list[HistoryRow]


class Provenance(TypedDict):
    """What a run took, and with which packages."""

    total_seconds: float
    finished: str
    peak_rss_bytes: int
    device_memory_bytes: int | None
    versions: dict[str, str]


class Record(Facts, Measures, Provenance):
    """What record.json holds. Errors and accuracies are fractions, losses nats; the rest has its unit in COLUMNS."""

    classes: list[str]


@dataclass(frozen=True)
class Column:
    """A column of runs.csv."""

    name: str
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


COLUMNS = (
    Column("run_id", config=True),
    Column("dataset", config=True, listed=True),
    Column("model", config=True, listed=True),
    Column("family", config=True),
    Column("n_train", "training images", config=True, listed=True),
    Column("chain", config=True, listed=True),
    Column("seed", config=True, listed=True),
    Column("budget", config=True, listed=True),
    Column("augment", config=True, listed=True),
    Column("recipe", config=True, listed=True),
    Column("optimizer", config=True),
    Column("lr", "peak learning rate", config=True),
    Column("weight_decay", config=True),
    Column("batch_size", config=True),
    Column("image_size", "side of the images", "px", config=True),
    Column("test_error", unit="%", summary="test/error", listed=True),
    Column("test_loss", unit="nats", summary="test/loss"),
    Column("val_error", "validation error", "%", summary="val/error", listed=True),
    Column("val_loss", "validation loss", unit="nats", summary="val/loss"),
    Column("last_val_error", "validation error after the last step"),
    Column("train_error", "training error", "%", summary="train/error", listed=True),
    Column("train_loss", unit="nats", summary="train/loss"),
    Column("loss_floor", unit="nats"),
    Column("best_step", listed=True),
    Column("n_test", "test images"),
    Column("n_pool", "images in the training pool"),
    Column("steps", config=True),
    Column("params", "parameters", config=True, cost="mean"),
    Column("forward_flops", "forward FLOPs per image", config=True, cost="mean"),
    Column("images_seen", "images seen", cost="mean"),
    Column("flops", "training FLOPs", config=True, cost="mean"),
    Column("train_seconds", "training seconds", "s", summary="train_seconds", cost="mean", listed=True),
    Column("total_seconds", "wall seconds", "s", summary="wall_seconds"),
    Column("images_per_second", "images per second", "/s", summary="images_per_second", cost="mean", listed=True),
    Column("peak_rss_bytes", "peak memory", "B", cost="max"),
    Column("device_memory_bytes", "peak memory of the device", "B", cost="max"),
    Column("device", config=True),
    Column("precision", config=True),
    Column("engine", config=True),
    Column("commit", config=True),
)
TITLES = {column.name: column.title for column in COLUMNS if column.title} | {
    "augment": "augmentation",
    "best_step": "step with the best validation error",
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
HISTORY = {
    "train_loss": "train/loss",
    "train_error": "train/error",
    "val_loss": "val/loss",
    "val_error": "val/error",
    "lr": "lr",
    "images_per_second": "images_per_second",
    "images_seen": "images_seen",
}
"""Field of a row of the record's history: metric, at each validation."""
ACCURACY, GPU_SECONDS, N_TRAIN = "test/accuracy", "gpu_seconds", "n_train"
CONFUSION = "confusion"
RUN_JOB = "train"
"""Job type of a run in W&B."""


def title(name: str) -> str:
    """Return the readable name of a column, metric, choice or condition."""
    return TITLES.get(name) or name.replace("_", " ")


def identify(run: RunConfig) -> Identity:
    """Return the first fields of a record."""
    return Identity(
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
    """Return one row per record with the columns of runs.csv; `last_val_error` is that of the last validation."""
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
