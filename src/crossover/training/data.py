"""The batches that Lightning sees: one "epoch" of its loop is the stretch of steps between two validations."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch

from crossover.config import RunConfig
from crossover.data.cache import Dataset
from crossover.data.loader import Batch, EvalBatches, Images, TrainBatches
from crossover.training.module import Chunk, Classifier
from crossover.training.ranks import ALONE, Rank

CHUNK = 10
"""Optimiser steps per Lightning batch: spreads Lightning's cost of about 0.4 ms a batch."""
AHEAD = 3
"""Batches read ahead of training when they come from the memory map."""
EVAL_BATCH = 250


def leg_bounds(total_steps: int, evaluations: int) -> list[int]:
    """Return the steps at which a run validates, from 0 to `total_steps`, evenly spaced."""
    legs = min(evaluations, total_steps)
    return [round(total_steps * i / legs) for i in range(legs + 1)]


class Chunks:
    """The steps from the present one to the next validation, in chunks. No length: stretches may differ by a step.

    Large images (those that do not fit in memory) come one step at a time, read ahead in a thread.
    """

    def __init__(self, batches: TrainBatches, bounds: list[int], step: Callable[[], int]) -> None:
        self.batches, self.bounds, self.step = batches, bounds, step

    def __iter__(self) -> Iterator[Chunk]:
        first = self.step()
        last = next((bound for bound in self.bounds if bound > first), first)  # a resumed run may already be at its end
        if self.batches.images.resident:
            for start in range(first, last, CHUNK):
                yield start, [self.batches.raw(step) for step in range(start, min(start + CHUNK, last))]
        else:
            for step, batch in zip(range(first, last), read_ahead(self.batches.raw, range(first, last)), strict=True):
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


class SubsetData(pl.LightningDataModule):
    """A run's training subset, by step, and its held-out images."""

    def __init__(
        self,
        run: RunConfig,
        dataset: Dataset,
        indices: np.ndarray,
        *,
        bounds: list[int],
        device: torch.device,
        rank: Rank = ALONE,
    ) -> None:
        super().__init__()
        self.dataset, self.bounds, self.device, self.rank = dataset, bounds, device, rank
        limit = run.machine.resident_gb
        self._resident_bytes = None if limit is None else limit * 1e9
        images = Images(dataset.images, dataset.labels, indices, device, self._resident_bytes)
        size = run.recipe.batch_size
        self.train_batches = TrainBatches(
            images, dataset, run.augment, batch_size=size, seed=run.seed, rows=rank.rows(size)
        )
        self._val = Images(dataset.images, dataset.labels, dataset.val, device, self._resident_bytes)

    def train_dataloader(self) -> Chunks:
        module = self.trainer.lightning_module  # type: ignore[union-attr]
        # the module's own count: a resumed Lightning loop counts its "epochs" differently from an uninterrupted one
        return Chunks(self.train_batches, self.bounds, lambda: cast(Classifier, module).step)

    def val_dataloader(self) -> EvalBatches:
        """Return the batches that this process validates on."""
        size = min(EVAL_BATCH, -(-len(self._val) // self.rank.count))
        return EvalBatches(self._val, self.dataset, batch_size=size, share=(self.rank.index, self.rank.count))

    def test_dataloader(self) -> EvalBatches:
        labels = self.dataset.test_labels
        return self._evaluation(self.dataset.test_images, labels, np.arange(len(labels)))

    def train_sample(self, count: int) -> EvalBatches:
        """Return the first `count` training images of the chain, without augmentation."""
        return self._evaluation(self.dataset.images, self.dataset.labels, self.train_batches.images.indices[:count])

    def _evaluation(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> EvalBatches:
        taken = Images(images, labels, indices, self.device, self._resident_bytes)
        return EvalBatches(taken, self.dataset, batch_size=EVAL_BATCH)

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        return batch  # already there
