"""Where does the history of a run go besides its record? W&B (offline unless asked), CSV, or nowhere."""

import os
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from crossover.config import RunConfig

SUMMARY = {
    "test/error": "test_error",
    "test/loss": "test_loss",
    "val/error": "val_error",
    "train/error": "train_error",
    "train_seconds": "train_seconds",
    "images_per_second": "images_per_second",
}
"""W&B summary key: record field."""


def make_logger(run: RunConfig, facts: dict[str, Any]) -> Logger | None:
    """Return the Lightning logger that the config asks for; `facts` become its flat configuration.

    Online W&B that cannot be reached is not a reason to lose a training: the run is then kept offline (`make sync`
    uploads it later), and says so.
    """
    flat = {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
    if run.logger.kind == "none":
        return None
    if run.logger.kind == "csv":
        logger = CSVLogger(save_dir=run.run_dir, name="", version="csv")
        logger.log_hyperparams(flat)
        return logger
    return _wandb_logger(run, flat)


def _wandb_logger(run: RunConfig, flat: dict[str, Any]) -> WandbLogger:
    import wandb

    offline = run.logger.kind == "wandb_offline"
    if offline:
        os.environ["WANDB_MODE"] = "offline"
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # else even an offline run opens a connection

    def start(offline: bool) -> WandbLogger:
        logger = WandbLogger(
            name=run.run_id,
            id=run.run_id,
            project=run.logger.project,
            entity=run.logger.entity,
            group=run.logger.group,
            job_type="train",
            tags=[str(flat["dataset"]), str(flat["model"])],
            save_dir=run.run_dir,
            offline=offline,
            resume="allow",
            config=flat,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=30),
        )
        _ = logger.experiment  # connects now
        return logger

    try:
        return start(offline)
    except wandb.errors.Error as error:
        if offline:
            raise
        print(f"W&B cannot be reached ({error}): {run.run_id} is logged offline; `make sync` uploads it later")
        return start(True)


def log_summary(logger: Logger | None, record: dict[str, Any]) -> None:
    """Write the final numbers where dashboards look for them."""
    if isinstance(logger, WandbLogger):
        summary = {name: record[field] for name, field in SUMMARY.items()}
        summary["test/accuracy"] = 1 - record["test_error"]
        logger.experiment.summary.update(summary)
    elif logger is not None:
        logger.log_metrics({name: record[field] for name, field in SUMMARY.items()}, step=record["steps"])


def close_logger(logger: Logger | None) -> None:
    """End a W&B run; without this the next run in the process would continue it."""
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()
    elif logger is not None:
        logger.finalize("success")
