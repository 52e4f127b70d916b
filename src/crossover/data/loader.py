"""Which images make up step t of a run? A pure function of (seed, t), from device memory or a memory map."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from crossover.config import AugmentConfig
from crossover.data.augment import augment, normalise
from crossover.data.images import Dataset

_ORDER_STREAM, _AUGMENT_STREAM = 0, 1


def index_stream(seed: int, n: int, start: int, count: int) -> np.ndarray:
    """Return positions `start` to `start + count` of an endless order of 0..n-1, int64 (count,).

    The order is one permutation per pass, each drawn from (seed, pass) alone. A batch may span two passes (or many,
    when n is below the batch size), so that every n_train has one batch shape and no image is dropped.
    """
    first, last = start // n, (start + count - 1) // n
    passes = [np.random.default_rng([seed, _ORDER_STREAM, p]).permutation(n) for p in range(first, last + 1)]
    return np.concatenate(passes)[start - first * n :][:count]


class Images:
    """Some images of a dataset, with their labels: in device memory when they fit, else read from the memory map."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray, device: torch.device, resident_bytes: float
    ) -> None:
        self.device, self.indices = device, indices
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self._source = images
        size = len(indices) * int(np.prod(images.shape[1:]))
        self._resident = torch.from_numpy(images[indices]).to(device) if size <= resident_bytes else None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def resident(self) -> bool:
        return self._resident is not None

    def take(self, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return uint8 (B, H, W, 3) and int64 (B,) at the given positions, on the device."""
        at = torch.from_numpy(positions).to(self.device)
        if self._resident is not None:
            return self._resident[at], self.labels[at]
        picked = torch.from_numpy(self._source[self.indices[positions]])
        return picked.to(self.device, non_blocking=True), self.labels[at]


class TrainBatches:
    """The augmented training batches of a run, by step."""

    def __init__(self, images: Images, dataset: Dataset, config: AugmentConfig, *, batch_size: int, seed: int) -> None:
        self.images, self.config, self.batch_size, self.seed = images, config, batch_size, seed
        self.classes = len(dataset.classes)
        self.mean, self.std = _statistics(dataset, images.device)
        self._generator = torch.Generator(images.device)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return float32 (B, 3, H, W), channels last, and the targets of `step`."""
        positions = index_stream(self.seed, len(self.images), step * self.batch_size, self.batch_size)
        images, labels = self.images.take(positions)
        self._generator.manual_seed(step_seed(self.seed, step))
        return augment(
            images,
            labels,
            self.config,
            classes=self.classes,
            mean=self.mean,
            std=self.std,
            generator=self._generator,
        )


class EvalBatches:
    """Un-augmented batches in order, for validation and test. Iterating again starts again."""

    def __init__(self, images: Images, dataset: Dataset, *, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size
        self.mean, self.std = _statistics(dataset, images.device)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.images), self.batch_size):
            images, labels = self.images.take(np.arange(start, min(start + self.batch_size, len(self.images))))
            yield normalise(images, self.mean, self.std), labels


def step_seed(seed: int, step: int) -> int:
    """Return a 63-bit seed for the random draws of one step."""
    return int(np.random.SeedSequence([seed, _AUGMENT_STREAM, step]).generate_state(1, np.uint64)[0] >> 1)


def _statistics(dataset: Dataset, device: torch.device) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(x, dtype=torch.float32, device=device) for x in (dataset.mean, dataset.std))  # type: ignore[return-value]
