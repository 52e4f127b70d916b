"""The raw images of a dataset, as readers return them and the cache decodes them, and the progress of decoding."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TELL_SECONDS = 5.0

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


class Clock:
    """Prints the progress of a long operation every few seconds, on standard error."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._began = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if now - self._told > TELL_SECONDS:
            self._told, left = now, (now - self._began) / done * (self.total - done)
            print(f"{self.what}: {done:,} of {self.total:,}, {left:.0f} s left", file=sys.stderr, flush=True)
