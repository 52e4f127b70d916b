"""Lightning loggers for the history of a run, which is also kept in its record."""

import csv
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from crossover import wandb_runs
from crossover.config import CrossoverError, RunConfig
from crossover.record import run_config, run_summary

if TYPE_CHECKING:
    import wandb


class RunMirror(WandbLogger):
    """Lightning's W&B logger for a run that is written to files, and uploaded during training if requested.

    If an earlier part of the run is not uploaded yet, this one waits for `make sync`: W&B keeps the order of arrival.
    """

    def __init__(self, run: RunConfig, started: "wandb.Run") -> None:
        super().__init__(experiment=started)
        self.run_dir = run.run_dir
        *earlier, folder = wandb_runs.offline_folders(run.run_dir / "wandb")
        online = run.logger.kind == "wandb" and all(map(wandb_runs.is_uploaded, earlier))
        self.upload = wandb_runs.LiveUpload(folder) if online else None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with wandb_runs.guarded(self.run_dir):
            # at once: W&B would hold the row back until the next one, and lose it if the process dies
            self.experiment.log(dict(metrics), step=step, commit=True)


def make_logger(run: RunConfig, facts: Mapping[str, Any]) -> Logger | None:
    """Return the logger that the config asks for; `facts`, the first part of the record, become its configuration."""
    if run.logger.kind == "csv":
        return _csv_logger(run, facts)
    if run.logger.kind == "tensorboard":
        try:
            return TensorBoardLogger(save_dir=run.run_dir, name="", version="tensorboard", default_hp_metric=False)
        except ModuleNotFoundError:
            raise CrossoverError("logger=tensorboard needs tensorboardX: make setup EXTRAS=dev installs it") from None
    if run.logger.kind in ("wandb", "wandb_offline"):
        with wandb_runs.guarded(run.run_dir):
            return RunMirror(run, wandb_runs.start_training(run.run_dir, facts))
    return None


def _csv_logger(run: RunConfig, facts: Mapping[str, Any]) -> CSVLogger:
    """Return a logger that keeps the rows written by an earlier part of the run, which Lightning's would delete."""
    path = run.run_dir / "csv" / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    with warnings.catch_warnings(action="ignore"):
        logger = CSVLogger(save_dir=run.run_dir, name="", version="csv")
        logger.log_hyperparams(run_config(facts))
    for row in rows:
        logger.log_metrics({name: float(value) for name, value in row.items() if name != "step"}, int(row["step"]))
    return logger


def log_end(logger: Logger | None, record: Mapping[str, Any], run: RunConfig) -> None:
    """Log the final numbers if the logger has a place for them outside the history; CSV has none."""
    if isinstance(logger, RunMirror):
        with wandb_runs.guarded(run.run_dir):
            wandb_runs.log_end(logger.experiment, record, run.run_dir)
    elif isinstance(logger, TensorBoardLogger):
        summary = {f"final/{name}": value for name, value in run_summary(record).items()}
        # a file of its own: the history's is closed, and one opened in the same second would take its name and place
        end = TensorBoardLogger(
            save_dir=run.run_dir, name="", version="tensorboard", default_hp_metric=False, filename_suffix=".final"
        )
        end.log_hyperparams(run_config(record), summary, step=record["steps"])
        end.finalize("success")


def close_logger(logger: Logger | None, exit_code: int) -> None:
    """End the W&B run, within a bounded time; with another exit code than 0 W&B shows it as failed.

    Lightning ends other loggers itself.
    """
    if isinstance(logger, RunMirror):
        with wandb_runs.guarded(logger.run_dir):
            logger.experiment.finish(exit_code=exit_code)
        if logger.upload is not None:
            logger.upload.end()
