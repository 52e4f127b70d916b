"""CIFAR-5m from its npz files: samples of a diffusion model trained on CIFAR-10's training set.

A network of 98.5 % accuracy labelled them (Nakkiran, Neyshabur, Sedghi 2020, "The deep bootstrap framework",
https://github.com/preetum/cifar5m).
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data.readers import Raw
from crossover.text import tracked

URL = "https://storage.googleapis.com/gresearch/cifar5m/part{}.npz"
PART_IMAGES = 1_000_448
"""Images in each of the parts; the repository gives no checksums, but every npz carries the CRC-32 of its members."""
PARTS = 6
"""The last one is the test part."""
TEST_IMAGES = 10_000
"""As many as CIFAR-10 has, from the test part."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read(root: Path, parts: int | None, scratch: Path) -> Raw:
    """Return the first `parts` parts, all for None, and TEST_IMAGES of the last one, memory-mapped in `scratch`."""
    paths = [root / f"part{i}.npz" for i in (*range(parts or PARTS - 1), PARTS - 1)]
    if missing := [path for path in paths if not path.exists()]:
        raise CrossoverError(
            f"{missing[0]} does not exist: CIFAR-5m is 3 GB a part; fetch {URL.format(missing[0].stem[4:])} to"
            f" there ({len(missing)} of {len(paths)} parts are missing), or ask for fewer with data.parts=1"
        )
    unpacked = (_read_part(path, scratch / path.stem) for path in tracked(paths, "parts unpacked", len(paths)))
    images, labels = zip(*unpacked, strict=True)
    test = (images[-1][:TEST_IMAGES],), labels[-1][:TEST_IMAGES]
    return Raw(CLASSES, images[:-1], np.concatenate(labels[:-1]), *test)


def _read_part(path: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:  # compares checksums
            images, labels = (np.load(archive.extract(f"{name}.npy", scratch), mmap_mode="r") for name in ("X", "Y"))
        shapes = images.shape == (PART_IMAGES, 32, 32, 3) and labels.shape == (PART_IMAGES,)
        if not (shapes and images.dtype == np.uint8 and np.isin(labels, range(len(CLASSES))).all()):
            raise ValueError(f"no {PART_IMAGES} images of 32 x 32 pixels with labels of {len(CLASSES)} classes")
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise CrossoverError(
            f"{path} is damaged ({error}): fetch {URL.format(path.stem[4:])} again in its place"
        ) from None
    return images, labels.astype(np.int64)
