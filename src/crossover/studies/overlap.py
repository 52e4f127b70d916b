"""Photographs that are in two data sets: near-copies, found by the difference hash (Krawetz 2013) of every image."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossover.data.cache import Dataset

LIMIT = 4
"""Bits of 64 in which the hashes of two near-copies may differ: re-encoded, resized images differ in fewer."""
_ROWS, _STEPS = 8, 8
_CHUNK = 1000
"""Images hashed or compared at a time."""
_LUMINANCE = (0.299, 0.587, 0.114)


def difference_hash(images: np.ndarray) -> Tensor:
    """Return float32 (N, 64) of +1 and -1: whether the brightness rises from one to the next of 8 x 9 cells.

    `images` are uint8 (N, S, S, 3), of any size S.
    """
    parts = []
    for start in range(0, len(images), _CHUNK):
        pixels = torch.from_numpy(np.array(images[start : start + _CHUNK], np.float32))
        cells = F.adaptive_avg_pool2d(pixels @ torch.tensor(_LUMINANCE), (_ROWS, _STEPS + 1))
        parts.append(torch.where(cells.diff(dim=2) > 0, 1.0, -1.0).flatten(1))
    return torch.cat(parts)


def near_copies(images: np.ndarray, others: Tensor) -> int:
    """Return how many images have a hash within LIMIT bits of one of the `others` (M, 64)."""
    bits = _ROWS * _STEPS
    agreement = [(part @ others.T).amax(dim=1) for part in difference_hash(images).split(_CHUNK)]
    return int((torch.cat(agreement) >= bits - 2 * LIMIT).sum())


def overlap_sentence(source: Dataset, target: Dataset) -> str:
    """Return how many test images of the target have a near-copy in the source, beside what chance gives.

    Chance: the same test images mirrored, which have the same statistics and no copies.
    """
    hashes = difference_hash(source.images)
    found = near_copies(target.test_images, hashes)
    chance = near_copies(target.test_images[:, :, ::-1], hashes)
    return (
        f"Of {len(target.test_images):,} test images of {target.name}, {found} have a near-copy among the"
        f" {len(source.images):,} images of {source.name} (difference hashes differ in at most {LIMIT} of 64 bits)."
        f" By chance it is {chance}: so many have one when they are mirrored."
    )
