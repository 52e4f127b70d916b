"""On what do we race? Real CIFAR-10 images where they are, else random ones; the same for every contender."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError, ImageData, RunConfig, parse_run
from crossover.data.cache import Dataset, open_dataset

TRAIN, TEST = 11_200, 1_000
"""Images of the mini-sweep's folder: a pool of 10,080 and 1,120 for validation: evaluation must not dominate."""


@dataclass(frozen=True)
class Task:
    """A network and its recipe on a dataset, to be trained for a while."""

    run: RunConfig
    """Composed from conf/, as a sweep's."""
    synthetic: bool
    """Random images: they cost what real ones cost."""

    def dataset(self) -> Dataset:
        if not self.synthetic:
            return open_dataset(self.run.data, Path(self.run.machine.data_dir))
        return random_dataset(self.run.data.image_size, max(self.run.n_train, 512))


def random_dataset(size: int, count: int) -> Dataset:
    """Return uint8 noise of 10 classes: `count` images to train on, 500 to validate and 500 to test on."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(count + 500, size, size, 3), dtype=np.uint8)
    test = rng.integers(256, size=(500, size, size, 3), dtype=np.uint8)
    labels, moments = np.arange(count + 500) % 10, np.full(3, 0.5)
    return Dataset(
        name="random",
        classes=tuple(str(c) for c in range(10)),
        images=images,
        labels=labels,
        pool=np.arange(count),
        val=np.arange(count, count + 500),
        test_images=test,
        test_labels=np.arange(500) % 10,
        mean=moments,
        std=moments / 2,
        hash="random",
        folder=Path(),
    )


def few_held_out(dataset: Dataset) -> Dataset:
    """Return the dataset with 250 images for validation, for races of the training alone."""
    return replace(dataset, val=dataset.val[:250])


def image_folder(data_dir: Path, place: Path) -> Path:
    """Return a folder {train,test}/<class>/* of some CIFAR-10 images, as links; raise CrossoverError without them.

    Each class has the first images, by name, of the copy in `data_dir`/cifar10.
    """
    source = data_dir / "cifar10"
    if not (source / "train").is_dir() or not (source / "test").is_dir():
        raise CrossoverError(
            f"{source} has no train and test folder: unpack CIFAR-10 there as an image folder (conf/data/"
            "cifar10_folder.yaml says which), or leave the mini-sweep out: only=[steady,harness,growth]"
        )
    shutil.rmtree(place, ignore_errors=True)
    for part, count in (("train", TRAIN), ("test", TEST)):
        link_images(source / part, place / part, count)
    return place


def link_images(source: Path, target: Path, count: int, turn: int = 0) -> None:
    """Make `target` an image folder of `count` images of `source`, as links, the same number of each class.

    Each class has its first images by name; with `turn` 1, 2, … those that follow, from the start again at the end.
    """
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    each = count // len(classes)
    for folder in classes:
        (target / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        start = turn * each % max(1, len(files) - each + 1)
        for file in files[start : start + each]:
            (target / folder.name / file.name).symlink_to(file.resolve())


def folder_data(root: Path) -> ImageData:
    return ImageData(kind="folder", name="cifar10_bench", root=str(root.resolve()), image_size=32, val_fraction=0.1)


def with_fields(run: RunConfig, **changes: object) -> RunConfig:
    """Return a validated copy with some fields replaced; dotted ones are written with two underscores."""
    values = run.model_dump()
    for key, value in changes.items():
        *path, last = key.split("__")
        target = values
        for part in path:
            target = target[part]
        target[last] = value
    return parse_run(values)
