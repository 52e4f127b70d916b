"""The checkpoint of an unfinished run, from which it continues as if it had never stopped."""

import signal
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from crossover.config import CrossoverError
from crossover.store import write_atomically
from crossover.training.module import Classifier

ASK_STEPS = 10
"""Steps between checks whether any process of a run should stop, since a check makes the device wait for Python."""


class StoppedError(Exception):
    """The run was asked to stop; it saved where it was, and the same command continues it."""


class ResumePoint(pl.Callback):
    """Writes `path` after each validation, and immediately when `stop` is set, after which it raises StoppedError.

    `bounds` are the steps at which the run validates. Lightning cannot resume inside one of its epochs without training
    longer or shorter. A point between two validations therefore stores the loop's state of the last validation, and the
    module's own step count decides.
    """

    def __init__(
        self,
        path: Path,
        bounds: Sequence[int],
        stop: threading.Event,
        dataset_hash: str = "",
        init_hash: str | None = None,
    ) -> None:
        self.path, self._bounds, self._stop = path, frozenset(bounds), stop
        self._dataset_hash, self._init_hash = dataset_hash, init_hash
        self._handler = signal.getsignal(signal.SIGTERM)
        self._loops: object = None
        self._asked = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Lightning's handler would end the run unsaved
            signal.signal(signal.SIGTERM, self._handler)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        step = cast(Classifier, pl_module).step
        if self._at_bound(pl_module) or (trainer.world_size > 1 and step - self._asked < ASK_STEPS):
            return  # at a bound the validation comes first
        self._asked = step
        if self._stopping(trainer):
            self._save(trainer)
            raise StoppedError

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)
        if self._stopping(trainer):
            raise StoppedError

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint |= {"dataset_hash": self._dataset_hash, "init_hash": self._init_hash}
        if self._at_bound(pl_module):
            self._loops = checkpoint["loops"]
        else:
            del checkpoint["loops"]
            if self._loops is not None:
                checkpoint["loops"] = self._loops

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if checkpoint.get("dataset_hash") != self._dataset_hash:
            raise CrossoverError(
                f"{self.path} began with other images than there are now; give these another name (data.name=NAME),"
                " or move that file away to start again"
            )
        if checkpoint.get("init_hash", self._init_hash) != self._init_hash:
            raise CrossoverError(
                f"{self.path} began with other weights than init_from names now; put those back, or move that file away"
                " to start again"
            )
        self._loops = checkpoint.get("loops")

    def _at_bound(self, module: pl.LightningModule) -> bool:
        return cast(Classifier, module).step in self._bounds

    def _stopping(self, trainer: pl.Trainer) -> bool:
        """Return whether any process of the run was asked to stop, since all must stop at the same step."""
        return bool(trainer.strategy.reduce_boolean_decision(self._stop.is_set(), all=False))

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            write_atomically(self.path, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.path)  # participates, but writes nothing


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint directly to its place: Lightning stages it in TMPDIR, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, path)


class Stop(threading.Event):
    """Asks a run to stop; `number` is the signal that asked, 0 for none."""

    number = 0


@contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Stop]:
    """Yield an event that the signals set: the run saves and ends with StoppedError. A second one ends it at once."""
    stop = Stop()
    previous = {number: signal.getsignal(number) for number in numbers}

    def note(number: int, _: object) -> None:
        stop.number = number
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for each in numbers:
        signal.signal(each, note)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def whole(checkpoint: Path) -> Path | None:
    """Return the checkpoint if all its checksums match; remove a damaged one, so that the run starts from step 0."""
    if not checkpoint.exists():
        return None
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            damaged = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        damaged = str(error)
    if damaged is None:
        return checkpoint
    print(f"{checkpoint} is damaged ({damaged}): starting from step 0")
    checkpoint.unlink(missing_ok=True)  # another process of the run may be quicker
    return None
