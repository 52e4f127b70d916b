"""Where does the history of a run go besides its record? W&B (offline unless asked), CSV, or nowhere."""

import math
import queue
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger

from crossover import wandb_runs
from crossover.config import RunConfig
from crossover.data.loader import TrainBatches
from crossover.record import CONFUSION, HISTORY, INCOMPLETE, RUN_JOB, SAMPLES, run_config, run_summary

if TYPE_CHECKING:
    import wandb

SAMPLE_COUNT, SAMPLE_PIXELS = 8, 64
MOST_CLASSES = 50
"""Classes up to which a confusion matrix is logged: it has their square as rows."""


class WandbMirror(Logger):
    """A W&B run that is fed by a thread of its own: the training neither waits for W&B nor fails with it.

    Online W&B that does not answer in time is logged offline instead, as are all later parts of the run: W&B keeps rows
    in the order in which they come. What it has not taken in time after the end stays on disk (see wandb_runs).
    `make sync` uploads both later.
    """

    def __init__(self, run: RunConfig, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._run, self._config = run, dict(config)
        self._folder = run.run_dir / "wandb"
        self._actions: queue.SimpleQueue[Callable[[wandb.Run], object] | None] = queue.SimpleQueue()
        self._exit_code = 0
        self._has_complained = False
        self._thread = threading.Thread(target=self._work, name="wandb mirror", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._run.logger.project

    @property
    def version(self) -> str:
        return self._run.run_id

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is given at the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = dict(metrics)
        self.send(lambda run: run.log(row, step=step))  # with its step: a resumed run repeats no row

    def send(self, action: Callable[["wandb.Run"], object]) -> None:
        """Let `action` be done to the W&B run, after what was sent before."""
        self._actions.put(action)

    def close(self, exit_code: int) -> None:
        """End the W&B run; returns after a bounded time whatever W&B does."""
        self._exit_code = exit_code
        self._actions.put(None)
        self._thread.join(wandb_runs.INIT_SECONDS + wandb_runs.FINISH_SECONDS + 5)
        if self._thread.is_alive():
            wandb_runs.give_up()
            self._complain("it does not answer")

    def _work(self) -> None:
        import wandb
        from wandb.sdk.mailbox.mailbox_handle import HandleAbandonedError

        try:
            run = self._start()
            while (action := self._actions.get()) is not None:
                action(run)
            wandb_runs.finish_run(run, self._exit_code)
        except (wandb.errors.Error, OSError, HandleAbandonedError) as error:  # a timeout is an OSError
            self._complain(str(error))

    def _complain(self, why: str) -> None:
        if self._has_complained:
            return
        self._has_complained = True
        self._folder.mkdir(exist_ok=True)
        (self._folder / INCOMPLETE).touch()
        print(f"W&B has not taken all of {self._run.run_id} ({why}); `make sync` uploads it later", flush=True)

    def _start(self) -> "wandb.Run":
        run, online = self._run, self._run.logger.kind == "wandb"
        if online and ((self._folder / INCOMPLETE).exists() or any(self._folder.glob("offline-run-*"))):
            print(f"{run.run_id} goes on offline, as W&B has not all of it; `make sync` uploads it", flush=True)
            online = False
        return wandb_runs.start_run(
            run.run_dir,
            online=online,
            id=run.run_id,
            name=run.run_id,
            project=run.logger.project,
            entity=run.logger.entity,
            group=run.logger.group,
            job_type=RUN_JOB,
            tags=[str(self._config["dataset"]), str(self._config["model"])],
            resume="allow",
            config=self._config,
        )


def make_logger(run: RunConfig, facts: dict[str, Any]) -> Logger | None:
    """Return the Lightning logger that the config asks for; `facts` become its flat configuration."""
    if run.logger.kind == "none":
        return None
    if run.logger.kind == "csv":
        logger = CSVLogger(save_dir=run.run_dir, name="", version="csv")
        logger.log_hyperparams(run_config(facts))
        return logger
    return WandbMirror(run, run_config(facts))


def history_row(row: Mapping[str, float]) -> dict[str, float]:
    """Return a row of the history under the names that dashboards use."""
    return {metric: row[field] for field, metric in HISTORY.items()}


def log_end(logger: Logger | None, run: RunConfig, record: Mapping[str, Any], batches: TrainBatches) -> None:
    """Log the final numbers; in W&B also augmented samples, the confusion matrix and the record as an artifact."""
    if logger is None:
        return
    on_gpu = record["device_memory_bytes"] is not None
    summary = run_summary(record, run.trainer.devices * run.trainer.num_nodes if on_gpu else 0)
    logger.log_metrics(summary, step=record["steps"])
    if not isinstance(logger, WandbMirror):
        return
    grid = sample_grid(batches)
    with np.load(run.run_dir / "predictions.npz") as saved:
        labels, predictions = saved["labels"].tolist(), saved["predictions"].tolist()

    def end(wandb_run: "wandb.Run") -> None:
        import wandb

        wandb_run.summary.update(summary)  # else val/error would be that of the last validation
        wandb_run.log({SAMPLES: wandb.Image(Image.fromarray(grid))}, step=record["steps"])
        if len(record["classes"]) <= MOST_CLASSES:
            matrix = wandb.plot.confusion_matrix(y_true=labels, preds=predictions, class_names=record["classes"])
            wandb_run.log({CONFUSION: matrix}, step=record["steps"])
        artifact = wandb.Artifact(f"record-{run.run_id}", type="record")
        artifact.add_file(str(run.run_dir / "record.json"), policy="immutable")  # not copied
        wandb_run.log_artifact(artifact)

    logger.send(end)


def sample_grid(batches: TrainBatches) -> np.ndarray:
    """Return uint8 (height, width, 3): augmented images of the first step side by side, enlarged if they are small."""
    images = batches.normalise.pixels(batches.at(0)[0][:SAMPLE_COUNT]).cpu().numpy()
    factor = math.ceil(SAMPLE_PIXELS / images.shape[1])
    return np.concatenate([np.kron(image, np.ones((factor, factor, 1), np.uint8)) for image in images], axis=1)


def close_logger(logger: Logger | None, exit_code: int) -> None:
    """End logging; W&B shows a run with another exit code than 0 as failed."""
    if isinstance(logger, WandbMirror):
        logger.close(exit_code)
    elif logger is not None:
        logger.finalize("failed" if exit_code else "success")
