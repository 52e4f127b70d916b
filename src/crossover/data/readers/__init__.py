"""The raw images of a dataset, as the module of this folder reads them that `data.kind` names.

Its function `read` takes the folder of the raw data, `data.parts`, and a folder that exists until the images are read.
"""

import errno
import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data import cues
from crossover.fields import CuesData, ImageData
from crossover.text import Clock

Images = Sequence[Path] | np.ndarray | tuple[np.ndarray, ...]
"""Image files, or uint8 (N, H, W, 3), in one array or one after another."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The errors of a disk without space."""


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


def raw_root(config: ImageData, data_dir: Path) -> Path:
    """Return the absolute folder of the raw data."""
    return (data_dir / Path(config.root).expanduser()).resolve()


def read_raw(config: CuesData | ImageData, data_dir: Path, scratch: Path) -> Raw:
    """Return the raw images; image files are listed, not opened. Raise CrossoverError if any are missing."""
    if isinstance(config, CuesData):
        images, labels, test_images, test_labels = cues.generate(config)
        return Raw(tuple(map(str, range(config.classes))), images, labels, test_images, test_labels, config.n_val)
    root = raw_root(config, data_dir)
    try:
        return importlib.import_module(f"{__name__}.{config.kind}").read(root, config.parts, scratch)
    except OSError as error:
        if error.errno in FULL:  # what could not be written is in `scratch`
            raise
        raise CrossoverError(f"cannot read {error.filename or root}: {error.strerror or error}") from None


def fingerprint(config: CuesData | ImageData, data_dir: Path) -> str | None:
    """Return a hash of names, sizes and times of the raw files: cheap, and enough to notice changed images.

    None for images that are generated or verified by checksums, and if there are no raw files any more.
    """
    if isinstance(config, CuesData) or config.kind == "cifar10" or not raw_root(config, data_dir).is_dir():
        return None
    root, found = raw_root(config, data_dir), hashlib.sha256()
    clock = Clock(f"files of {root} compared with the cache:", None)
    for count, path in enumerate(walk(root, leave=root / "cache"), 1):  # the data folder itself holds our caches
        try:
            state = path.stat()
        except OSError:  # a link to nothing: whoever reads it says so
            state = path.lstat()
        found.update(os.fsencode(f"{os.path.relpath(path, root)} {state.st_size} {state.st_mtime_ns}\n"))
        clock.tell(count)
    return found.hexdigest()


def walk(
    folder: Path, *, leave: Path | None = None, onerror: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """Yield the files below a folder in the order of their paths, but for hidden ones and those in `leave`.

    Links to folders are followed, each folder once.
    """
    seen = set() if leave is None else {os.path.realpath(leave)}
    for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
