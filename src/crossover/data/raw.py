"""The raw images of a dataset, as readers return them and the cache decodes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Images = Sequence[Path] | np.ndarray | tuple[np.ndarray, ...]
"""Image files, or uint8 (N, H, W, 3), in one array or one after another."""


@dataclass(frozen=True)
class Raw:
    """The images of a dataset before they are decoded and resized."""

    classes: tuple[str, ...]
    images: Images
    """For training; the last `n_val` of them for validation."""
    labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    n_val: int | None = None
    """None: the dataset has no validation set of its own; it is held out of the training images."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the files were read."""
