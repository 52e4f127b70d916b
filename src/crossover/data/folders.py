"""Image folders and Tiny-ImageNet: the class of every file, and the decoding of image files."""

import difflib
import os
import struct
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossover.config import CrossoverError
from crossover.data.raw import Raw

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
NOTES = (".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".md", ".html", ".ini", ".db")
"""Files left out with a note, since annotations are often stored beside images."""
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Part of a data set: the accepted names of its folder, case-insensitive."""
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
Classes = dict[str, list[Path]]
"""Name of a class: its images."""


def read_folder(root: Path, *_: object) -> Raw:
    """Return an image folder `{train,val,test}/<class>/**`; classes in the order of their names.

    `test` is the test set and `val` the validation set. Without a test set in class folders, `val` is the test set (as
    in ImageNet).
    """
    folders, notes = _part_folders(root)
    test = folders.get("test")
    if test is not None and not _class_folders(test):
        if "val" not in folders:
            raise CrossoverError(
                f"{test} has no class folders, and so no labels; sort it, or add a labelled val folder"
            )
        notes.append(f"{test} has no class folders, and so no labels: {folders['val']} is the test set")
        del folders["test"]
    if "train" not in folders or len(folders) < 2:
        layout = f"{{train,val,test}}/<class>/*{{{','.join(SUFFIXES)}}}, of which train and one more are needed"
        state = "has no train folder beside a val or test folder" if root.is_dir() else "does not exist"
        raise CrossoverError(f"{root} {state}: put the images there as {layout}, or give their folder: data.root=DIR")
    parts = {part: class_files(folder, notes) for part, folder in folders.items()}
    classes = list(parts["train"])
    if len(classes) < 2:
        raise CrossoverError(
            f"{folders['train']} has {len(classes)} class folders: at least two are needed, one per class"
        )
    for part, files in parts.items():
        if differing := sorted(set(files) ^ set(classes)):
            raise CrossoverError(
                f"{folders[part]} and {folders['train']} must have the same class folders;"
                f" only one of them has {', '.join(differing[:5])}"
            )
    images, labels = _flatten(parts["train"], classes)
    test_images, test_labels = _flatten(parts["test" if "test" in parts else "val"], classes)
    if len(parts) < 3:
        return Raw(tuple(classes), images, labels, test_images, test_labels, notes=tuple(notes))
    val_images, val_labels = _flatten(parts["val"], classes)
    labels = np.concatenate([labels, val_labels])
    return Raw(
        tuple(classes), images + val_images, labels, test_images, test_labels, len(val_images), notes=tuple(notes)
    )


def read_tiny_imagenet(root: Path, *_: object) -> Raw:
    """Return Tiny-ImageNet. Its labelled `val` is the test set, as published or sorted into classes; `test` has no
    labels."""
    annotations = root / "val" / "val_annotations.txt"
    is_sorted = not annotations.exists() and bool(_class_folders(root / "val") - {"images"})
    needed = ("wnids.txt", "train", "val" if is_sorted else "val/val_annotations.txt")
    if missing := [part for part in needed if not (root / part).exists()]:
        raise CrossoverError(
            f"{root / missing[0]} does not exist: unpack the public archive tiny-imagenet-200.zip there,"
            " or give its folder: data.root=DIR"
        )
    ids = sorted((root / "wnids.txt").read_text().split())
    lines = (root / "words.txt").read_text().splitlines() if (root / "words.txt").exists() else []
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    short = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    names = tuple(name if short.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(short, ids, strict=True))
    images, labels = _flatten({wnid: _images(root / "train" / wnid, []) for wnid in ids}, ids)
    if is_sorted:
        found = {wnid: _images(root / "val" / wnid, []) for wnid in ids if (root / "val" / wnid).is_dir()}
        return Raw(names, images, labels, *_flatten(found, ids))
    rows = [line.split("\t")[:2] for line in annotations.read_text().splitlines()]
    if unknown := [row for row in rows if len(row) < 2 or row[1] not in ids]:
        raise CrossoverError(f"{annotations}: no class of wnids.txt in the line {unknown[0]}")
    test_labels = np.array([ids.index(wnid) for _, wnid in rows], np.int64)
    return Raw(names, images, labels, [root / "val" / "images" / name for name, _ in rows], test_labels)


def as_text(name: str) -> str:
    """Return the name of a folder as text: composed characters (NFC), and bytes that are no UTF-8 read as Latin-1."""
    try:
        return unicodedata.normalize("NFC", os.fsencode(name).decode())
    except UnicodeDecodeError:
        return os.fsencode(name).decode("latin-1")


def _part_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the folders of the parts, and notes about names that nearly match."""
    folders: dict[str, Path] = {}
    notes = []
    for path in _visible_folders(root):
        part = next((part for part, names in PARTS.items() if path.name.lower() in names), None)
        if part is None:
            if near := difflib.get_close_matches(path.name.lower(), PARTS, 1, 0.7):
                notes.append(f"{path} is not read; rename it if it is the {near[0]} folder")
        elif part in folders:
            raise CrossoverError(f"{folders[part]} and {path} are both the {part} folder; rename one of them")
        else:
            folders[part] = path
            if path.name != part:
                notes.append(f"{path} is read as the {part} folder")
    return {part: folders[part] for part in PARTS if part in folders}, notes


def _visible_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> set[str]:
    return {path.name for path in _visible_folders(folder)}


def class_files(folder: Path, notes: list[str]) -> Classes:
    """Return the images of a folder that has one for each class; `notes` gets what the user should know of them."""
    classes: dict[str, Path] = {}
    for path in _visible_folders(folder):
        name = as_text(path.name)
        if name in classes:
            raise CrossoverError(
                f"{folder} has two folders for the class {name}, spelled with other bytes"
                f" ({classes[name].name!a} and {path.name!a}); put their images into one"
            )
        classes[name] = path
    return {name: _images(classes[name], notes) for name in sorted(classes)}


def _images(folder: Path, notes: list[str]) -> list[Path]:
    """Return the images of one class, including subfolders, in the order of their paths."""
    images: list[Path] = []
    others: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            (images if name.lower().endswith(SUFFIXES) else others).append(Path(parent, name))
    if strays := [path for path in others if path.suffix.lower() not in NOTES]:
        raise CrossoverError(
            f"{strays[0]} is not an image of the allowed types {', '.join(SUFFIXES)}: convert it, or move it out of the"
            " folders of images"
        )
    if not images:
        raise CrossoverError(f"{folder} holds no image: put some there (one folder is one class)")
    if others:
        notes.append(f"{len(others)} files in {folder} are no images and are left out, such as {others[0].name}")
    return images


def _raise(error: OSError) -> None:
    raise error


def _flatten(files: Classes, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Return all images and their labels, positions in `classes`."""
    counts = [len(files.get(name, [])) for name in classes]
    return [path for name in classes for path in files.get(name, [])], np.repeat(np.arange(len(classes)), counts)


def decode(image: Path | np.ndarray, size: int) -> np.ndarray:
    """Return the central square of an image, resized to uint8 (size, size, 3); images of that size stay untouched.

    Resizing is bicubic with antialiasing. Grey, palette and CMYK become RGB, alpha is dropped; the pixels are taken as
    stored, without EXIF rotation, as torchvision does. Raise CrossoverError for a file that is not a complete image.
    """
    if isinstance(image, np.ndarray):
        return _fit(Image.fromarray(image), size)
    try:
        with Image.open(image) as opened:
            return _fit(opened, size)
    except _DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise CrossoverError(
            f"cannot read the image {image} ({reason}): put a whole one in its place; images are never skipped"
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
