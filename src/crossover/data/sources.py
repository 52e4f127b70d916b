"""Where do the images of a dataset lie? The original CIFAR-10 archive, an image folder, or Tiny-ImageNet."""

import pickle
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np

from crossover.config import CrossoverError

SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Listing:
    """The files of a dataset, in a fixed order, and their labels int64."""

    classes: list[str]
    train: list[Path]
    train_labels: np.ndarray
    test: list[Path]
    test_labels: np.ndarray
    validation: np.ndarray | None
    """bool over train: which files are the dataset's own validation set; None: hold some out."""


def read_cifar10(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return train images, train labels, test images, test labels, class names of the original archive.

    torchvision downloads it when it is absent and verifies its checksum; the batches are read only after that.
    """
    from torchvision.datasets import CIFAR10

    archive = root / CIFAR10.filename
    advice = (
        f"put {CIFAR10.filename} into {root}, or use CIFAR-10 as an image folder: data=cifar10_folder"
        " (data/cifar10/{train,test}/<class>/*.png)"
    )
    root.mkdir(parents=True, exist_ok=True)
    try:
        parts = [CIFAR10(str(root), train=train, download=True) for train in (True, False)]
    except (URLError, ConnectionError, TimeoutError) as error:
        raise CrossoverError(f"cannot download CIFAR-10 from {CIFAR10.url} ({error}); {advice}") from None
    except (RuntimeError, tarfile.TarError, EOFError, pickle.UnpicklingError) as error:
        raise CrossoverError(
            f"{archive} is damaged or not the original ({error}); delete it and what was unpacked beside it, then"
            f" repeat to download it again; or {advice}"
        ) from None
    train, test = parts
    labels = [np.asarray(part.targets, np.int64) for part in parts]
    return train.data, labels[0], test.data, labels[1], list(train.classes)


def list_images(kind: str, root: Path, name: str) -> Listing:
    """Return the files of an image folder or of Tiny-ImageNet; raise CrossoverError when something is missing."""
    if not root.is_dir():
        raise CrossoverError(
            f"no data for {name}: {root} is not a folder; put the images there, or name another folder with data.root=DIR"
            " (relative to machine.data_dir), or start without data: data=cues"
        )
    return _tiny_imagenet(root) if kind == "tiny_imagenet" else _folder(root)


def _folder(root: Path) -> Listing:
    """Return `train/<class>/*` with `test/`, or, as in ImageNet, with `val/` as the test set."""
    parts = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    if "train" not in parts or len(parts) == 1:
        raise CrossoverError(
            f"{root} holds {', '.join(sorted(parts)) or 'none'} of train, val, test; needed are train/<class>/* and"
            " test/<class>/* or val/<class>/*"
        )
    classes = sorted(p.name for p in parts["train"].iterdir() if p.is_dir())
    files = {part: _classes(folder, classes) for part, folder in parts.items()}
    train, labels = files["train"]
    validation = None
    if len(parts) == 3:
        extra, extra_labels = files["val"]
        validation = np.repeat([False, True], [len(train), len(extra)])
        train, labels = train + extra, np.concatenate([labels, extra_labels])
    test, test_labels = files["test" if "test" in files else "val"]
    return Listing(classes, train, labels, test, test_labels, validation)


def _classes(folder: Path, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if found != list(classes):
        odd = sorted(set(found) ^ set(classes))
        raise CrossoverError(
            f"{folder} and train/ must hold the same class folders; they differ in {', '.join(odd[:5])}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        members = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not members:
            raise CrossoverError(f"{folder / name} holds no image ({', '.join(sorted(SUFFIXES))})")
        paths += members
        labels += [label] * len(members)
    return paths, np.array(labels, np.int64)


def _tiny_imagenet(root: Path) -> Listing:
    """Return the public layout; the labelled `val` part is the usual test set."""
    try:
        ids = (root / "wnids.txt").read_text().split()
        words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if "\t" in line)
        annotations = [line.split("\t")[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    except OSError as error:
        raise CrossoverError(
            f"{error.filename} cannot be read: {root} must hold the unpacked Tiny-ImageNet archive (tiny-imagenet-200)"
        ) from None
    ids = sorted(ids)
    train: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(ids):
        folder = root / "train" / wnid / "images"
        members = sorted(folder.glob("*.JPEG")) if folder.is_dir() else []
        if not members:
            raise CrossoverError(f"{folder} holds no image (*.JPEG); unpack the archive again")
        train += members
        labels += [label] * len(members)
    number = {wnid: label for label, wnid in enumerate(ids)}
    test = [root / "val" / "images" / name for name, _ in annotations]
    return Listing(
        classes=[words.get(wnid, wnid).split(",")[0] for wnid in ids],
        train=train,
        train_labels=np.array(labels, np.int64),
        test=test,
        test_labels=np.array([number[wnid] for _, wnid in annotations], np.int64),
        validation=None,
    )
