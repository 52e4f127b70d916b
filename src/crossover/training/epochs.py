"""The epochs of Lightning, from one validation to the next: their batches, and the checkpoint to continue from."""

import io
import itertools
import signal
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from crossover.config import CrossoverError
from crossover.data.loader import Batch
from crossover.store import write_atomically
from crossover.training.module import Chunk, Classifier

CHUNK = 10
"""Optimiser steps per Lightning batch: spreads Lightning's cost of about 0.4 ms a batch."""
AHEAD = 3
"""Batches read ahead of training when they come from the memory map."""
ASK_STEPS = 10
"""Steps between checks whether any process of a run should stop, since a check makes the device wait for Python."""


def leg_bounds(total_steps: int, evaluations: int) -> list[int]:
    """Return the steps at which a run validates, from 0 to `total_steps`, evenly spaced."""
    legs = min(evaluations, total_steps)
    return [round(total_steps * i / legs) for i in range(legs + 1)]


class Chunks:
    """The steps from the present one to the next validation, in chunks. No length: stretches may differ by a step.

    A batch is read when it is used; from the memory map (images that do not fit in memory), ahead in a thread.
    """

    def __init__(self, module: Classifier, bounds: list[int]) -> None:
        self.module, self.bounds = module, bounds

    def __iter__(self) -> Iterator[Chunk]:
        # the module's own count: a resumed Lightning loop counts its "epochs" differently from an uninterrupted one
        first, batches = self.module.step, self.module.batches
        last = next((bound for bound in self.bounds if bound > first), first)  # a resumed run may already be at its end
        steps = range(first, last)
        raw = map(batches.raw, steps) if batches.images.resident else read_ahead(batches.raw, steps)
        for _ in steps[::CHUNK]:
            yield itertools.islice(raw, CHUNK)


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


class StoppedError(Exception):
    """The run was asked to stop; it saved where it was, and the same command continues it."""


class ResumePoint(pl.Callback):
    """Writes `path` after each validation, and immediately when `stop` is set, after which it raises StoppedError.

    `bounds` are the steps at which the run validates; `origin` has the hashes of its images and of the weights that it
    starts from, which must be the same when it is resumed. The module's own step count says where a run is: Lightning
    cannot resume inside one of its epochs without training longer or shorter.
    """

    def __init__(
        self, path: Path, bounds: Sequence[int], stop: threading.Event, origin: Mapping[str, str | None]
    ) -> None:
        self.path, self._bounds, self._stop, self._origin = path, frozenset(bounds), stop, origin
        self._handler = signal.getsignal(signal.SIGTERM)
        self._asked = 0

    def load(self, module: Classifier) -> None:
        """Let a module that is not trained yet continue from `path`, if that is there and whole."""
        if whole(self.path) is None:
            return
        # weights_only: a checkpoint in a shared folder must not be able to run code
        saved = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, what in (("dataset_hash", "images than there are"), ("init_hash", "weights than init_from names")):
            if saved.get(name, self._origin[name]) != self._origin[name]:
                raise CrossoverError(
                    f"{self.path} began with other {what} now; put those back, or move that file away to start again"
                )
        module.load_state_dict(saved["state_dict"])
        module.resume(saved["crossover"], saved["optimizer_states"][0])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # Lightning's handler would end the run unsaved
            signal.signal(signal.SIGTERM, self._handler)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        asked = trainer.world_size > 1 and pl_module.step - self._asked < ASK_STEPS
        if asked or pl_module.step in self._bounds:  # where the validation comes first
            return
        self._asked = pl_module.step
        if self._stopping(trainer):
            self._save(trainer, pl_module)
            raise StoppedError

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module)
        if self._stopping(trainer):
            raise StoppedError

    def _stopping(self, trainer: pl.Trainer) -> bool:
        """Return whether any process of the run was asked to stop, since all must stop at the same step."""
        return bool(trainer.strategy.reduce_boolean_decision(self._stop.is_set(), all=False))

    def _save(self, trainer: pl.Trainer, module: Classifier) -> None:
        states: dict[str, Any] = {"crossover": module.progress(), "optimizer_states": [module.optimizer.state_dict()]}
        if trainer.is_global_zero:
            content = io.BytesIO()  # written by Python: torch does not say when a disk is full
            torch.save({"state_dict": module.state_dict(), **states, **self._origin}, content)
            write_atomically(self.path, lambda path: path.write_bytes(content.getvalue()))


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
