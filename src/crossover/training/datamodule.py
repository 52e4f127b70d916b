"""Which batches does Lightning see? One "epoch" of its loop is the stretch of steps between two validations."""

from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import torch

from crossover.config import RunConfig
from crossover.data.images import Dataset
from crossover.data.loader import EvalBatches, Images, TrainBatches
from crossover.training.module import Chunk, Classifier

CHUNK = 10
"""Optimiser steps per Lightning batch: spreads Lightning's cost of about 0.4 ms a batch."""
EVAL_BATCH = 250


def leg_bounds(total_steps: int, evaluations: int) -> list[int]:
    """Return the steps at which a run validates, from 0 to `total_steps`, evenly spaced."""
    legs = min(evaluations, total_steps)
    return [round(total_steps * i / legs) for i in range(legs + 1)]


class Chunks:
    """The steps from where the run is to the next validation, in chunks. No length: legs may differ by a step."""

    def __init__(self, batches: TrainBatches, bounds: list[int], step: Callable[[], int]) -> None:
        self.batches, self.bounds, self.step = batches, bounds, step

    def __iter__(self) -> Iterator[Chunk]:
        first = self.step()
        last = next((bound for bound in self.bounds if bound > first), first)  # a resumed run may be at its end
        for start in range(first, last, CHUNK):
            yield start, [self.batches.at(step) for step in range(start, min(start + CHUNK, last))]


class SubsetData(pl.LightningDataModule):
    """A run's training subset, by step, and its held-out images."""

    def __init__(
        self,
        run: RunConfig,
        dataset: Dataset,
        indices: np.ndarray,
        module: Classifier,
        *,
        bounds: list[int],
        device: torch.device,
    ) -> None:
        super().__init__()
        self._module = module
        self.dataset, self.bounds, self.device = dataset, bounds, device
        self._resident_bytes = run.machine.resident_gb * 1e9
        self.train_images = Images(dataset.images, dataset.labels, indices, device, self._resident_bytes)
        self.train_batches = TrainBatches(
            self.train_images, dataset, run.augment, batch_size=run.recipe.batch_size, seed=run.seed
        )
        self._val = self._evaluation(dataset.images, dataset.labels, dataset.val)

    def _evaluation(self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> EvalBatches:
        taken = Images(images, labels, indices, self.device, self._resident_bytes)
        return EvalBatches(taken, self.dataset, batch_size=EVAL_BATCH)

    def train_dataloader(self) -> Chunks:
        # the module's own count: a resumed Lightning loop counts its "epochs" differently from an uninterrupted one
        return Chunks(self.train_batches, self.bounds, lambda: self._module.step)

    def val_dataloader(self) -> EvalBatches:
        return self._val

    def test_dataloader(self) -> EvalBatches:
        labels = self.dataset.test_labels
        return self._evaluation(self.dataset.test_images, labels, np.arange(len(labels)))

    def train_sample(self, count: int) -> EvalBatches:
        """Return the first `count` training images of the chain, un-augmented."""
        return self._evaluation(self.dataset.images, self.dataset.labels, self.train_images.indices[:count])

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        return batch  # already there
