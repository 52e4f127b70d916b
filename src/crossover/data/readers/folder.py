"""Folders of image files, one for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data.readers import Raw, walk
from crossover.text import readable, tracked

SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
NOTES = (".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".md", ".html", ".ini", ".db")
"""Files left out with a note, since annotations are often stored beside images."""
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Part of a data set: the accepted names of its folder, case-insensitive."""
Classes = dict[str, list[Path]]
"""Name of a class: its images."""


def read(root: Path, *_: object) -> Raw:
    """Return an image folder `{train,val,test}/<class>/**`; classes in the order of their names.

    `test` is the test set and `val` the validation set. Without a test set in class folders, `val` is the test set (as
    in ImageNet).
    """
    notes: list[str] = []
    folders = _part_folders(root, notes)
    parts = {part: class_files(folders[part], notes) for part in PARTS if part in folders}
    if parts.get("test") == {}:
        notes.append(f"{folders['test']} has no class folders, and so no labels: it is not the test set")
        del parts["test"]
    if "train" not in parts or len(parts) < 2:
        there = ", ".join(path.name for path in visible_folders(root)) or "none"
        state = f"lacks a train folder beside a labelled val or test folder (there is {there})"
        raise CrossoverError(
            f"{root} {state if root.is_dir() else 'does not exist'}: put the images there as"
            f" {{train,val,test}}/<class>/*{{{','.join(SUFFIXES)}}}, or give their folder: data.root=DIR"
        )
    classes = list(parts["train"])
    if len(classes) < 2:
        raise CrossoverError(
            f"{folders['train']} has {len(classes)} class folders: it needs two or more, one per class"
        )
    for part, files in parts.items():
        if differing := sorted(set(files) ^ set(classes)):
            raise CrossoverError(
                f"{folders[part]} and {folders['train']} must have the same class folders;"
                f" only one of them has {', '.join(differing[:5])}"
            )
    test = parts.get("test") or parts.pop("val")
    (images, labels), (val_images, val_labels) = (flatten(parts.get(part, {}), classes) for part in ("train", "val"))
    labels, n_val = np.concatenate([labels, val_labels]), len(val_images) or None
    return Raw(tuple(classes), images + val_images, labels, *flatten(test, classes), n_val, tuple(notes))


def _part_folders(root: Path, notes: list[str]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for path in visible_folders(root):
        part = next((part for part, names in PARTS.items() if path.name.lower() in names), None)
        if part is None:
            notes.append(f"{path} is not read: it is no train, val or test folder by its name")
            continue
        if part in folders:
            raise CrossoverError(f"{folders[part]} and {path} are both the {part} folder; rename one of them")
        folders[part] = path
        if path.name != part:
            notes.append(f"{path} is read as the {part} folder")
    return folders


def visible_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def class_files(folder: Path, notes: list[str]) -> Classes:
    """Return the images of a folder that has one for each class; `notes` gets what the user should know of them."""
    classes: dict[str, Path] = {}
    for path in visible_folders(folder):
        # bytes that are no UTF-8 are read as Latin-1
        name = readable(path.name.translate({0xDC00 + byte: byte for byte in range(0x80, 0x100)}))
        if not name or name in classes:
            raise CrossoverError(
                f"{folder} has the folder {path.name!a}, whose name cannot be read or told apart from that of another;"
                " name it by its class"
            )
        classes[name] = path
    loose = sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if loose:
        notes.append(
            f"images directly in {folder} have no class and are left out ({len(loose)}, such as {loose[0].name})"
        )
    names = tracked(sorted(classes), f"classes of {folder} listed", len(classes))
    return {name: images_in(classes[name], notes) for name in names}


def images_in(folder: Path, notes: list[str]) -> list[Path]:
    """Return the images of one class, including subfolders, in the order of their paths."""
    files = list(walk(folder, onerror=_raise))
    images = [path for path in files if path.name.lower().endswith(SUFFIXES)]
    others = [path for path in files if not path.name.lower().endswith(SUFFIXES)]
    if strays := [path for path in others if path.suffix.lower() not in NOTES]:
        raise CrossoverError(
            f"{strays[0]} is not an image of the allowed types {', '.join(SUFFIXES)}: convert it, or move it out of the"
            " folders of images"
        )
    if not images:
        raise CrossoverError(f"{folder} holds no image: put some there (one folder is one class)")
    if others:
        notes.append(f"files in {folder} that are no images are left out ({len(others)}, such as {others[0].name})")
    return images


def _raise(error: OSError) -> None:
    raise error


def flatten(files: Classes, classes: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Return all images and their labels, positions in `classes`."""
    counts = [len(files.get(name, [])) for name in classes]
    return [path for name in classes for path in files.get(name, [])], np.repeat(np.arange(len(classes)), counts)
