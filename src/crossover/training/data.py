"""The batches that Lightning sees: one "epoch" of its loop is the stretch of steps between two validations."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
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
