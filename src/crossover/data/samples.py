"""A picture of a few training images, plain and augmented."""

import numpy as np
from PIL import Image

from crossover.config import RunConfig
from crossover.data.cache import Dataset
from crossover.fields import AugmentConfig

MOST_CLASSES = 10
STEPS = 3
"""Steps of a training whose augmentation is shown."""
MOST_PIXELS = 96
"""Largest side of one image in the picture."""


def sample_picture(run: RunConfig, dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a picture uint8 (H, W, 3) and the classes of its columns.

    Above, the first training image of each class; below, if anything changes them, the same images in STEPS steps.
    """
    labels = dataset.labels[dataset.pool]
    shown = [label for label in range(len(dataset.classes)) if (labels == label).any()][:MOST_CLASSES]
    first = np.array([dataset.pool[np.argmax(labels == label)] for label in shown])
    rows = [np.asarray(dataset.images[first])]
    if changes(run.augment) or dataset.order is not None:
        rows += _changed(run, dataset, first)
    small = [[_reduced(image) for image in row] for row in rows]
    return np.vstack([np.hstack(row) for row in small]), tuple(dataset.classes[label] for label in shown)


def _changed(run: RunConfig, dataset: Dataset, indices: np.ndarray) -> list[np.ndarray]:
    import torch  # a report needs it only if something changes the images: that saves seconds

    from crossover.data.loader import Images, TrainBatches

    images = Images(dataset.images, dataset.labels, indices, torch.device("cpu"), resident_bytes=2**30)
    batches = TrainBatches(images, dataset, run.augment, batch_size=len(indices), seed=run.seed)
    rows = []
    for step in range(STEPS):
        batches.seed_step(step)
        x, _ = batches.augment(*images.take(np.arange(len(indices))))
        rows.append(batches.normalise.pixels(x).numpy())
    return rows


def changes(augment: AugmentConfig) -> bool:
    """Return whether an augmentation does anything."""
    return augment != AugmentConfig(name=augment.name)


def _reduced(image: np.ndarray) -> np.ndarray:
    if len(image) <= MOST_PIXELS:
        return image
    return np.asarray(Image.fromarray(image).resize((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS))
