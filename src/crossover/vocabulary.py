"""What is each number called in W&B? The one list that runs write from and that panels are checked against."""

from collections.abc import Mapping
from typing import Any

CONFIG = (
    *("run_id", "dataset", "model", "family", "n_train", "chain", "seed", "cell", "recipe", "augment", "budget"),
    *("params", "flops", "forward_flops", "steps", "device", "precision", "engine"),
)
"""Flat configuration of a run: what dashboards filter and group by. `cell` is the model and n_train in one word, as a
panel groups by one key."""
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
SUMMARY = {
    "test_error": "test/error",
    "test_loss": "test/loss",
    "val_error": "val/error",
    "val_loss": "val/loss",
    "train_error": "train/error",
    "train_loss": "train/loss",
    "images_per_second": "images_per_second",
    "train_seconds": "train_seconds",
    "total_seconds": "wall_seconds",
}
"""Field of the record: metric at the end, of the selected weights."""
ACCURACY, GPU_SECONDS, N_TRAIN = "test/accuracy", "gpu_seconds", "n_train"
SAMPLES, CONFUSION = "samples", "confusion"
CONFUSION_TABLE = f"{CONFUSION}_table"
"""What W&B calls the numbers behind the chart."""

CURVE = {"error_mean": "curve/error", "error_low": "curve/low", "error_high": "curve/high"}
"""Column of curves.csv: metric of the aggregate run of a model, one row per n_train."""
GAP = {
    "log_error_ratio": "gap/log_error_ratio",
    "ci_low": "gap/low",
    "ci_high": "gap/high",
    "accuracy_gap": "gap/accuracy",
}
"""Field of a pair's `gap`: metric of the aggregate run of the pair, one row per n_train."""
EQUIVALENCE = {"factor": "equivalence/factor", "ci_low": "equivalence/low", "ci_high": "equivalence/high"}
VERDICT = ("verdict", "summary", "n_star", "ci_low", "ci_high", "p_in_range", "trend")
"""Fields of a pair that the summary of its aggregate run has."""
PAIR = "pair"
"""Configuration key of a pair's aggregate run."""
TABLE, FIGURES, VERDICTS = "learning_curves", "figures/", "verdicts"
"""What the summary run of a sweep logs: a table, images with this prefix, the verdicts as text."""
INCOMPLETE = "not-uploaded"
"""File in the W&B folder of an online run of which W&B has not taken all."""
RUN_JOB, CURVE_JOB, PAIR_JOB, REPORT_JOB = "train", "curve", "pair", "report"
"""Job types: a training, the aggregates, and the summary of a sweep."""


def run_config(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat W&B configuration of a run from the first part of its record."""
    known = {**facts, "cell": cell(facts["model"], facts["n_train"])}
    return {name: known[name] for name in CONFIG if name in known}


def cell(model: str, n_train: int) -> str:
    """Return what chains are averaged over, as one word."""
    return f"{model} n={n_train}"


def run_summary(record: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """Return the final numbers of a run that held `gpus` GPUs."""
    numbers = {metric: record[field] for field, metric in SUMMARY.items()}
    return numbers | {
        ACCURACY: 1 - record["test_error"],
        GPU_SECONDS: gpus * record["total_seconds"],
        N_TRAIN: record["n_train"],
    }


def logged_names() -> set[str]:
    """Return every metric that a training or an aggregate run of a finished sweep logs."""
    named = (HISTORY, SUMMARY, CURVE, GAP, EQUIVALENCE)
    metrics = {metric for names in named for metric in names.values()}
    return metrics | {ACCURACY, GPU_SECONDS, N_TRAIN, SAMPLES, CONFUSION_TABLE, *VERDICT}
