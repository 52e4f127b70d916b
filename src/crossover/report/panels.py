"""Which panels show a sweep in W&B? Each reads names of the vocabulary alone."""

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr

from crossover.record import ACCURACY, GPU_SECONDS, HISTORY, N_TRAIN, SUMMARY
from crossover.vocabulary import CURVE, EQUIVALENCE, GAP

MOST_RUNS = 500
"""Runs that a panel draws; W&B's own default is 10."""
WIDE = wr.Layout(w=24, h=12)


def config(name: str) -> Any:
    return wr.Config(name)


def learning_curves() -> wr.LinePlot:
    """Return the curve and band of each model, from its aggregate run."""
    return _lines("Test error over training images", list(CURVE.values()), "error (fraction)", log_y=True)


def gap() -> wr.LinePlot:
    names = [GAP[field] for field in ("log_error_ratio", "ci_low", "ci_high")]
    return _lines("Log error ratio: below zero the second model leads", names, "log error ratio")


def equivalence() -> wr.LinePlot:
    return _lines(
        "Data equivalence: images needed for the same error, as a factor", list(EQUIVALENCE.values()), "factor"
    )


def _lines(title: str, metrics: Sequence[str], label: str, *, log_y: bool = False) -> wr.LinePlot:
    return wr.LinePlot(
        title=title,
        x=N_TRAIN,
        y=list(metrics),
        log_x=True,
        log_y=log_y,
        title_x="training images",
        title_y=label,
        max_runs_to_show=MOST_RUNS,
        layout=WIDE,
    )


def training(metric: str, title: str) -> wr.LinePlot:
    """Return a metric over the images seen, one line per model and n_train, the range over chains around it."""
    return wr.LinePlot(
        title=title,
        x=HISTORY["images_seen"],
        y=[metric],
        groupby=config("cell"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        title_x="images seen",
        max_runs_to_show=MOST_RUNS,
        layout=wr.Layout(w=12, h=8),
    )


def scatter(title: str, x: Any, y: str, *, log_x: bool = True, log_y: bool = False) -> wr.ScatterPlot:
    return wr.ScatterPlot(
        title=title, x=x, y=wr.SummaryMetric(y), log_x=log_x, log_y=log_y, layout=wr.Layout(w=12, h=8)
    )


def bars(title: str, metric: str, how: Any) -> wr.BarPlot:
    return wr.BarPlot(
        title=title,
        metrics=[metric],
        groupby=config("model"),
        groupby_aggfunc=how,
        max_runs_to_show=MOST_RUNS,
        layout=wr.Layout(w=12, h=8),
    )


def all_runs() -> list[Any]:
    columns = [
        wr.ParallelCoordinatesPlotColumn(config("model")),
        wr.ParallelCoordinatesPlotColumn(config(N_TRAIN), log=True),
        wr.ParallelCoordinatesPlotColumn(config("chain")),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(SUMMARY["val_error"])),
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(SUMMARY["test_error"])),
    ]
    return [
        scatter("All runs: test error", config(N_TRAIN), SUMMARY["test_error"], log_y=True),
        scatter(
            "Validation and test error", wr.SummaryMetric(SUMMARY["val_error"]), SUMMARY["test_error"], log_x=False
        ),
        wr.ParallelCoordinatesPlot(title="All runs", columns=columns, layout=WIDE),
    ]


def cost() -> list[Any]:
    return [
        bars("Images per second", SUMMARY["images_per_second"], "mean"),
        bars("GPU seconds, sum", GPU_SECONDS, "sum"),
        scatter("Wall seconds of a run", config(N_TRAIN), SUMMARY["total_seconds"]),
        scatter("Accuracy over training FLOPs", config("flops"), ACCURACY),
    ]


def trainings() -> list[Any]:
    return [
        training(HISTORY["val_error"], "Validation error"),
        training(HISTORY["train_loss"], "Training loss"),
        training(HISTORY["val_loss"], "Validation loss"),
        training(HISTORY["lr"], "Learning rate"),
    ]
