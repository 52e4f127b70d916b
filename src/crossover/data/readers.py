"""What does a raw dataset hold? Readers of CIFAR-10, image folders, Tiny-ImageNet and the embedded world."""

import hashlib
import http.client
import os
import shutil
import struct
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossover.config import CrossoverError, CuesData, ImageData
from crossover.data import cues
from crossover.data.cifar5m import CLASSES, PARTS, PartImages, read_cifar5m

SUFFIXES = (".jpeg", ".jpg", ".png")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)

Images = Sequence[Path] | np.ndarray | PartImages
"""Image files, or uint8 (N, H, W, 3), at once or as a stream."""


@dataclass(frozen=True)
class Raw:
    """The images of a dataset as they come, before they are decoded and resized."""

    classes: tuple[str, ...]
    images: Images
    """For training; the last `n_val` of them for validation."""
    labels: np.ndarray
    test_images: Images
    test_labels: np.ndarray
    n_val: int | None = None
    """None: the dataset has no validation set of its own; it is held out of the training images."""


def raw_root(config: ImageData, data_dir: Path) -> Path:
    """Return the absolute folder of the raw data."""
    return (data_dir / Path(config.root).expanduser()).resolve()


def read_raw(config: CuesData | ImageData, data_dir: Path) -> Raw:
    """Return the raw images; image files are listed, not opened. Raise CrossoverError when they are not all there."""
    if isinstance(config, CuesData):
        images, labels, test_images, test_labels = cues.generate(config)
        names = tuple(str(i) for i in range(config.classes))
        return Raw(names, images, labels, test_images, test_labels, config.n_val)
    root = raw_root(config, data_dir)
    readers = {"cifar10": read_cifar10, "folder": read_folder, "tiny_imagenet": read_tiny_imagenet}
    try:
        if config.kind == "cifar5m":
            return Raw(CLASSES, *read_cifar5m(root, config.parts or PARTS - 1))
        return readers[config.kind](root)
    except OSError as error:
        raise CrossoverError(f"cannot read {error.filename or root}: {error.strerror or error}") from None


def read_cifar10(root: Path) -> Raw:
    """Return CIFAR-10 from its original archive in `root`; it is downloaded when absent, and its checksums verified."""
    from torchvision.datasets import CIFAR10  # slow to import, and needed by this dataset alone

    archive, unpacked = root / CIFAR10.filename, root / CIFAR10.base_folder
    mend = f"delete it and repeat the command to download it again from {CIFAR10.url}"
    if archive.exists() and (found := _md5(archive)) != CIFAR10.tgz_md5:
        raise CrossoverError(f"{archive} is damaged: its MD5 is {found}, CIFAR-10 has {CIFAR10.tgz_md5}; {mend}")
    # in a folder of our own, where nobody changes a file between its checksum and its use: the batches are pickles
    with tempfile.TemporaryDirectory() as scratch:
        if not archive.exists() and unpacked.is_dir():
            shutil.copytree(unpacked, Path(scratch) / unpacked.name)
            return _cifar10_arrays(Path(scratch), f"{unpacked} is damaged: a checksum differs; {mend}")
        if not archive.exists():
            _download_cifar10(archive)
        shutil.copyfile(archive, Path(scratch) / archive.name)
        return _cifar10_arrays(Path(scratch), f"{archive} does not unpack to CIFAR-10; {mend}")


def _cifar10_arrays(root: Path, complaint: str) -> Raw:
    """Return what torchvision reads below `root`; it unpacks an archive there, and verifies the checksums first."""
    from torchvision.datasets import CIFAR10

    # torchvision before 0.29 unpacks without a filter, of which Python 3.12 warns
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    download = (root / CIFAR10.filename).exists()
    try:
        with warnings.catch_warnings():  # the archive was pickled by an old numpy
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train, test = (CIFAR10(root, train=part, download=download) for part in (True, False))
    except (RuntimeError, tarfile.TarError, zlib.error, EOFError):
        raise CrossoverError(complaint) from None
    labels, test_labels = (np.array(part.targets, np.int64) for part in (train, test))
    return Raw(tuple(train.classes), train.data, labels, test.data, test_labels)


def _download_cifar10(archive: Path) -> None:
    """Download beside `archive`, verify, rename: runs that start together never see or write half a file."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_url

    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=archive.parent) as scratch:
        try:
            download_url(CIFAR10.url, scratch, archive.name, CIFAR10.tgz_md5)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            raise CrossoverError(
                f"cannot download CIFAR-10 from {CIFAR10.url} ({str(error).strip('<>')}); without a network, put"
                f" {archive.name} into {archive.parent}, or use an image folder: data=cifar10_folder data.root=DIR"
            ) from None
        (Path(scratch) / archive.name).replace(archive)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_folder(root: Path) -> Raw:
    """Return an image folder `{train,val,test}/<class>/*` of JPEG or PNG files; classes in the order of their names.

    `test` is the test set and `val` the validation set. Without `test`, `val` is the test set (as in ImageNet).
    """
    layout = f"{{train,val,test}}/<class>/*{{{','.join(SUFFIXES)}}}, of which train and one more are needed"
    if not (root / "train").is_dir() or not any((root / part).is_dir() for part in ("val", "test")):
        state = "has no train folder beside a val or test folder" if root.is_dir() else "does not exist"
        raise CrossoverError(f"{root} {state}: put the images there as {layout}, or give their folder: data.root=DIR")
    parts = {name: _class_files(root / name) for name in ("train", "val", "test") if (root / name).is_dir()}
    classes = tuple(parts["train"])
    for name, files in parts.items():
        if differing := sorted(set(files) ^ set(classes)):
            raise CrossoverError(
                f"{root / name} and {root / 'train'} must have the same class folders;"
                f" only one of them has {', '.join(differing[:5])}"
            )
    (images, labels), (test_images, test_labels) = (
        _flatten(list(parts[name].values())) for name in ("train", "test" if "test" in parts else "val")
    )
    if len(parts) < 3:
        return Raw(classes, images, labels, test_images, test_labels)
    val_images, val_labels = _flatten(list(parts["val"].values()))
    labels = np.concatenate([labels, val_labels])
    return Raw(classes, images + val_images, labels, test_images, test_labels, len(val_images))


def read_tiny_imagenet(root: Path) -> Raw:
    """Return Tiny-ImageNet in its public layout. Its labelled `val` is the test set; `test` has no labels."""
    for part in ("wnids.txt", "words.txt", "train", "val/val_annotations.txt", "val/images"):
        if not (root / part).exists():
            raise CrossoverError(
                f"{root / part} does not exist: unpack the public archive tiny-imagenet-200.zip there,"
                " or give its folder: data.root=DIR"
            )
    ids = sorted((root / "wnids.txt").read_text().split())
    words = dict(line.split("\t", 1) for line in (root / "words.txt").read_text().splitlines() if "\t" in line)
    short = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    names = tuple(name if short.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(short, ids, strict=True))
    images, labels = _flatten([_image_files(root / "train" / wnid / "images") for wnid in ids])
    rows = [line.split("\t")[:2] for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
    if unknown := [row for row in rows if len(row) < 2 or row[1] not in ids]:
        raise CrossoverError(f"{root / 'val' / 'val_annotations.txt'}: no class of wnids.txt in the line {unknown[0]}")
    test_labels = np.array([ids.index(wnid) for _, wnid in rows], np.int64)
    return Raw(names, images, labels, [root / "val" / "images" / name for name, _ in rows], test_labels)


def _class_files(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise CrossoverError(f"{folder} has {len(classes)} class folders: at least two are needed, one per class")
    return {path.name: _image_files(path) for path in classes}


def _image_files(folder: Path) -> list[Path]:
    """Return the images of one class by name. Hidden files are ignored; any other stray file is an error."""
    files = sorted(entry.path for entry in os.scandir(folder) if not entry.name.startswith("."))
    if not files:
        raise CrossoverError(f"{folder} holds no image: add some, or remove the folder (one folder is one class)")
    if strays := [path for path in files if not path.lower().endswith(SUFFIXES)]:
        raise CrossoverError(f"{strays[0]} is not an image of the allowed types {', '.join(SUFFIXES)}: remove it")
    return [Path(path) for path in files]


def _flatten(by_class: list[list[Path]]) -> tuple[list[Path], np.ndarray]:
    labels = np.repeat(np.arange(len(by_class)), [len(files) for files in by_class])
    return [path for files in by_class for path in files], labels


def decode(image: Path | np.ndarray, size: int) -> np.ndarray:
    """Return the central square of an image, resized to uint8 (size, size, 3); images of that size stay untouched.

    Resizing is bicubic with antialiasing. Grey, palette and CMYK become RGB, alpha is dropped; the pixels are taken as
    stored, without EXIF rotation, as torchvision does. Raise CrossoverError for a file that is not a whole image.
    """
    if isinstance(image, np.ndarray):
        return _fit(Image.fromarray(image), size)
    try:
        with Image.open(image) as opened:
            return _fit(opened, size)
    except _DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise CrossoverError(
            f"cannot read the image {image} ({reason}): replace or remove it; images are never skipped"
        ) from None


def _fit(image: Image.Image, size: int) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of type {image.mode}, allowed are 8 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
