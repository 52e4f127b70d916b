"""A small folder of images in three classes, for tests of data sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from crossover.fields import ImageData

SIZE = 12
CLASSES = ("cat", "dog", "emu")
CONFIG = ImageData(kind="folder", name="pets", root="pets", image_size=SIZE, val_fraction=0.25)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def write_pets(data_dir: Path, **counts: int) -> None:
    """Write PNG images, so many per class and part; image i of a class c has the pixels of picture(100 c + i)."""
    for offset, (part, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = data_dir / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(1000 * offset + 100 * label + i)).save(folder / f"{i:03}.png")
