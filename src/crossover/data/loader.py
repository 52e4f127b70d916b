"""The batches of a run, each a pure function of (seed, step), from device memory or a memory map."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossover.data.augment import Draws, apply_policy, crop_and_flip, erase, mix, resized_crop
from crossover.data.cache import Dataset
from crossover.fields import AugmentConfig

Batch = tuple[Tensor, Tensor]
"""Images and labels or targets."""
_ORDER_STREAM, _AUGMENT_STREAM = 0, 1
CPU_RESIDENT_GB = 4
FREE_SHARE = 0.25
"""Share of the free memory for one set of images: a run holds up to three, and other runs need some too."""


def index_stream(seed: int, n: int, start: int, count: int) -> np.ndarray:
    """Return positions `start` to `start + count` of an endless order of 0..n-1, int64 (count,).

    The order is one permutation per pass, each drawn from (seed, pass) alone. A batch may span two passes (or many,
    when n is below the batch size), so that every n_train has one batch shape and no image is dropped.
    """
    parts = []
    while count:
        number, first = divmod(start, n)
        parts.append(_pass(seed, n, number)[first : first + count])
        start, count = start + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=4)  # redrawing it for each batch costs 1 ms for 65,536 images, 20 ms for ImageNet
def _pass(seed: int, n: int, number: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER_STREAM, number]).permutation(n)


class Normaliser:
    """From pixel values to network inputs, and back; `mean` and `std` are of pixel values in 0..1.

    `order` is the permutation of pixels of the dataset, None for none.
    """

    def __init__(self, mean: Tensor, std: Tensor, order: Tensor | None = None) -> None:
        self.mean, self.std, self.order = mean, std, order
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Return (images / 255 - mean) / std as float32 (B, 3, H, W), channels last, of uint8 (B, H, W, 3)."""
        return torch.addcmul(self._shift, images.to(torch.float32), self._scale).permute(0, 3, 1, 2)

    def pixels(self, x: Tensor) -> Tensor:
        """Return normalised images as uint8 (B, H, W, 3), rounded."""
        return (255 * (x.permute(0, 2, 3, 1).float() * self.std + self.mean)).round().clamp(0, 255).to(torch.uint8)

    def permute(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W), channels last, with their pixels in the dataset's order."""
        if self.order is None:
            return x
        return x.flatten(2)[:, :, self.order].reshape(x.shape).contiguous(memory_format=torch.channels_last)


class Images:
    """Some images of a dataset, with their labels: in device memory when they fit, else read from the memory map."""

    def __init__(
        self, dataset: Dataset, indices: np.ndarray, device: torch.device, resident_gb: float | None, test: bool = False
    ) -> None:
        self.dataset, self.device, self.indices = dataset, device, indices
        source, labels = (dataset.test_images, dataset.test_labels) if test else (dataset.images, dataset.labels)
        self.labels = torch.from_numpy(labels[indices]).to(device)
        self.resident = len(indices) * math.prod(source.shape[1:]) <= resident_limit(resident_gb, device)
        self._source = torch.from_numpy(source[indices]).to(device) if self.resident else source
        mean, std = (torch.tensor(x, dtype=torch.float32, device=device) for x in (dataset.mean, dataset.std))
        order = None if dataset.order is None else torch.from_numpy(dataset.order).to(device)
        self.normalise = Normaliser(mean, std, order)

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: np.ndarray) -> Batch:
        """Return uint8 (B, H, W, 3) and int64 (B,) at the given positions, on the device."""
        at = self._send(positions)
        if isinstance(self._source, Tensor):
            return self._source[at], self.labels[at]
        return self._send(self._source[self.indices[positions]]), self.labels[at]

    def _send(self, values: np.ndarray) -> Tensor:
        sent = torch.from_numpy(values)
        if self.device.type == "cuda":  # only a copy from pinned memory is asynchronous
            sent = sent.pin_memory()
        return sent.to(self.device, non_blocking=True)


def resident_limit(resident_gb: float | None, device: torch.device) -> float:
    """Return how many bytes one set of images may take; by default, what the device has room for."""
    if resident_gb is None:
        resident_gb = math.inf if device.type == "cuda" else CPU_RESIDENT_GB
    return min(resident_gb * 1e9, FREE_SHARE * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """Return the memory available now, on the GPU or in the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: only machine.resident_gb limits
        return 2**63


def augment(
    images: Tensor, labels: Tensor, config: AugmentConfig, *, classes: int, normalise: Normaliser, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Return float32 (B, 3, H, W), channels last, and targets, of uint8 (B, H, W, 3) and int64 (B,).

    The order is torchvision's: crop, flip, policy, normalise, erase, then mixup or CutMix. Targets are the labels, or
    probabilities float32 (B, classes) when mixup or CutMix is on.
    """
    if config.min_area:
        images = resized_crop(images, config.min_area, draws)
    if config.crop or config.flip:
        images = crop_and_flip(images, config.crop, config.flip, draws)
    if config.policy != "none":
        images = apply_policy(images, config, draws)
    x = normalise(images)
    if config.erase:
        x = erase(x, config.erase, draws)
    if config.mixes:
        return mix(x, labels, config, classes, draws)
    return x, labels


class TrainBatches:
    """The augmented training batches of a run, by step.

    `rows` are those of each batch that this process trains on. Its draws are taken from those of the full batch, so
    that results do not depend on the sharing.
    """

    def __init__(
        self, images: Images, config: AugmentConfig, *, batch_size: int, seed: int, rows: slice = slice(None)
    ) -> None:
        self.images, self.config, self.batch_size, self.seed = images, config, batch_size, seed
        self.generator = torch.Generator(images.device)
        own = np.arange(batch_size)[rows]
        shared = len(own) < batch_size
        self._lead = int(shared and config.mixes)
        """Rows ahead of our own: the first image is mixed with the one before it."""
        self._taken = np.arange(own[0] - self._lead, own[-1] + 1) % batch_size
        self._rows = torch.from_numpy(self._taken).to(images.device) if shared else None

    def raw(self, step: int) -> Batch:
        """Return uint8 (B, H, W, 3) and labels int64 (B,) of `step`, on the device."""
        positions = index_stream(self.seed, len(self.images), step * self.batch_size, self.batch_size)
        return self.images.take(positions[self._taken])

    def seed_step(self, step: int) -> None:
        """Seed the generator for the draws of `step`."""
        self.generator.manual_seed(step_seed(self.seed, step))

    def augment(self, images: Tensor, labels: Tensor) -> Batch:
        """Return float32 (B, 3, H, W), channels last, and the targets."""
        draws, normalise = Draws(self.generator, self.batch_size, self._rows), self.images.normalise
        classes = len(self.images.dataset.classes)
        x, targets = augment(images, labels, self.config, classes=classes, normalise=normalise, draws=draws)
        return normalise.permute(x[self._lead :]), targets[self._lead :]

    def at(self, step: int) -> Batch:
        """Return the augmented batch of `step`."""
        self.seed_step(step)
        return self.augment(*self.raw(step))


class EvalBatches:
    """Batches in order without augmentation, for validation and test. Iterating again starts from the beginning.

    With `share = (rank, processes)`, each process takes every processes-th batch.
    """

    def __init__(self, images: Images, *, batch_size: int, share: tuple[int, int] = (0, 1)) -> None:
        self.images, self.batch_size = images, batch_size
        self._starts = range(share[0] * batch_size, len(images), share[1] * batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Batch]:
        for start in self._starts:
            images, labels = self.images.take(np.arange(start, min(start + self.batch_size, len(self.images))))
            yield self.images.normalise.permute(self.images.normalise(images)), labels


def step_seed(seed: int, step: int) -> int:
    """Return a 63-bit seed for the random draws of one step."""
    return int(np.random.SeedSequence([seed, _AUGMENT_STREAM, step]).generate_state(1, np.uint64)[0] >> 1)
