"""The epochs of Lightning, from one validation to the next: their batches, and the checkpoint to continue from."""

import io
import itertools
import signal
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import Dataset
from crossover.data.loader import Batch, EvalBatches, Images, TrainBatches
from crossover.store import write_atomically
from crossover.training.module import Chunk, Classifier
from crossover.training.ranks import ALONE, Rank

CHUNK = 10
"""Optimiser steps per Lightning batch: spreads Lightning's cost of about 0.4 ms a batch."""
AHEAD = 3
"""Batches read ahead of training when they come from the memory map."""
EVAL_BATCH = 250
ASK_STEPS = 10
"""Steps between checks whether any process of a run should stop, since a check makes the device wait for Python."""


def leg_bounds(total_steps: int, evaluations: int) -> list[int]:
    """Return the steps at which a run validates, from 0 to `total_steps`, evenly spaced."""
    legs = min(evaluations, total_steps)
    return [round(total_steps * i / legs) for i in range(legs + 1)]


class Chunks:
    """The steps from the present one to the next validation, in chunks. No length: stretches may differ by a step.

    Large images (those that do not fit in memory) come one step at a time, read ahead in a thread.
    """

    def __init__(self, module: Classifier, bounds: list[int]) -> None:
        self.module, self.bounds = module, bounds

    def __iter__(self) -> Iterator[Chunk]:
        # the module's own count: a resumed Lightning loop counts its "epochs" differently from an uninterrupted one
        first, batches = self.module.step, self.module.batches
        last = next((bound for bound in self.bounds if bound > first), first)  # a resumed run may already be at its end
        if batches.images.resident:
            for start in range(first, last, CHUNK):
                yield start, [batches.raw(step) for step in range(start, min(start + CHUNK, last))]
        else:
            for step, batch in zip(range(first, last), read_ahead(batches.raw, range(first, last)), strict=True):
                yield step, [batch]


def read_ahead(read: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[Batch]:
    """Yield read(step) in order, reading up to AHEAD steps ahead in a thread; its errors are raised here."""
    remaining = iter(steps)
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Batch]] = deque(thread.submit(read, s) for s in itertools.islice(remaining, AHEAD))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(thread.submit(read, step) for step in itertools.islice(remaining, 1))
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)


class RunData:
    """The images of a run on its device: the training subset by step, and the held-out ones."""

    def __init__(
        self, run: RunConfig, dataset: Dataset, indices: np.ndarray, *, device: torch.device, rank: Rank = ALONE
    ) -> None:
        self.dataset, self.device = dataset, device
        limit, size = run.machine.resident_gb, run.recipe.batch_size
        self._resident_bytes = None if limit is None else limit * 1e9
        images = self._images(dataset.images, dataset.labels, indices)
        self.training = TrainBatches(images, dataset, run.augment, batch_size=size, seed=run.seed, rows=rank.rows(size))
        held_out = self._images(dataset.images, dataset.labels, dataset.val)
        size = min(EVAL_BATCH, -(-len(held_out) // rank.count))
        self.validation = EvalBatches(held_out, dataset, batch_size=size, share=(rank.index, rank.count))

    def test(self) -> EvalBatches:
        labels = self.dataset.test_labels
        images = self._images(self.dataset.test_images, labels, np.arange(len(labels)))
        return EvalBatches(images, self.dataset, batch_size=EVAL_BATCH)

    def train_sample(self, count: int) -> EvalBatches:
        """Return the first `count` training images of the chain, without augmentation."""
        images = self._images(self.dataset.images, self.dataset.labels, self.training.images.indices[:count])
        return EvalBatches(images, self.dataset, batch_size=EVAL_BATCH)

    def _images(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Images:
        return Images(images, labels, indices, self.device, self._resident_bytes)


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
    """Writes a checkpoint directly to its place: Lightning stages it in TMPDIR, which may be small.

    It is written by Python, since torch does not say when a disk is full ("unexpected pos 64 vs 0").
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).write_bytes(content.getbuffer())


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
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # at a KeyboardInterrupt Lightning would end with status 1

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
