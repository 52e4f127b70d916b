"""Readers of raw data: CIFAR-10 from its archive, CIFAR-5m from its npz files, and the choice of the reader.

CIFAR-5m (Nakkiran, Neyshabur, Sedghi 2020, "The deep bootstrap framework", https://github.com/preetum/cifar5m) are
samples of a diffusion model that was trained on the training set of CIFAR-10, labelled by a network of 98.5 % accuracy.
"""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossover.config import CrossoverError
from crossover.data import cues
from crossover.data.folders import read_folder, read_tiny_imagenet
from crossover.data.raw import Raw
from crossover.fields import CuesData, ImageData

CIFAR5M_URL = "https://storage.googleapis.com/gresearch/cifar5m/part{}.npz"
PART_IMAGES = 1_000_448
"""Images in each of the parts; the repository gives no checksums, but every npz carries the CRC-32 of its members."""
PARTS = 6
"""The last one is the test part."""
TEST_IMAGES = 10_000
"""As many as CIFAR-10 has, from the test part."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TORN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)


def raw_root(config: ImageData, data_dir: Path) -> Path:
    """Return the absolute folder of the raw data."""
    return (data_dir / Path(config.root).expanduser()).resolve()


def read_raw(config: CuesData | ImageData, data_dir: Path, scratch: Path) -> Raw:
    """Return the raw images; image files are listed, not opened. Raise CrossoverError if any are missing.

    `scratch` is a folder that exists until the images have been read.
    """
    if isinstance(config, CuesData):
        images, labels, test_images, test_labels = cues.generate(config)
        names = tuple(str(i) for i in range(config.classes))
        return Raw(names, images, labels, test_images, test_labels, config.n_val)
    root = raw_root(config, data_dir)
    if config.kind not in READERS:
        raise CrossoverError(f"data.kind={config.kind} has no reader; there is cues, {', '.join(READERS)}")
    try:
        return READERS[config.kind](root, config.parts, scratch)
    except OSError as error:
        raise CrossoverError(f"cannot read {error.filename or root}: {error.strerror or error}") from None


def fingerprint(config: CuesData | ImageData, data_dir: Path) -> str | None:
    """Return a hash of names, sizes and times of the raw files: cheap, and enough to notice changed images.

    None for images that are generated or verified by checksums, and if there are no raw files any more.
    """
    if isinstance(config, CuesData) or config.kind == "cifar10" or not raw_root(config, data_dir).is_dir():
        return None
    root, found = raw_root(config, data_dir), hashlib.sha256()
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "cache")
        for name in sorted(name for name in names if not name.startswith(".")):
            state = Path(parent, name).stat()
            place = os.path.relpath(Path(parent, name), root)
            found.update(os.fsencode(f"{place} {state.st_size} {state.st_mtime_ns}\n"))
    return found.hexdigest()


def read_cifar10(root: Path, *_: object) -> Raw:
    """Return CIFAR-10 from its original archive in `root`; it is downloaded if missing, and verified by checksum."""
    from torchvision.datasets import CIFAR10  # slow to import, and needed only by this dataset

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
    """Return what torchvision reads in `root`; it verifies the checksums and unpacks an archive there."""
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
    """Download next to `archive`, verify and rename, so that concurrent runs never see a partial file."""
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


def read_cifar5m(root: Path, parts: int | None, scratch: Path) -> Raw:
    """Return CIFAR-5m: the first `parts` parts, all for None, and TEST_IMAGES of the last one.

    Images are memory-mapped from members that are extracted into `scratch`, which compares their checksums.
    """
    paths = [root / f"part{i}.npz" for i in (*range(parts or PARTS - 1), PARTS - 1)]
    if missing := [path for path in paths if not path.exists()]:
        raise CrossoverError(
            f"{missing[0]} does not exist: CIFAR-5m is 3 GB a part; fetch {CIFAR5M_URL.format(missing[0].stem[4:])} to"
            f" there ({len(missing)} of {len(paths)} parts are missing), or ask for fewer with data.parts=1"
        )
    images, labels = zip(*(_read_part(path, scratch) for path in paths), strict=True)
    test = (images[-1][:TEST_IMAGES],), labels[-1][:TEST_IMAGES]
    return Raw(CLASSES, images[:-1], np.concatenate(labels[:-1]), *test)


def _read_part(path: Path, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            folder = scratch / path.stem
            arrays = [np.load(archive.extract(f"{name}.npy", folder), mmap_mode="r") for name in ("X", "Y")]
        images, labels = arrays
        if images.dtype != np.uint8 or images.shape != (PART_IMAGES, 32, 32, 3):
            raise ValueError(f"X is {images.dtype} {images.shape}, not uint8 {(PART_IMAGES, 32, 32, 3)}")
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (PART_IMAGES,):
            raise ValueError(f"Y is {labels.dtype} {labels.shape}, not whole numbers {(PART_IMAGES,)}")
        if labels.min() < 0 or labels.max() >= len(CLASSES):
            raise ValueError(f"labels from {labels.min()} to {labels.max()}")
    except _TORN as error:
        raise CrossoverError(
            f"{path} is damaged ({error}): fetch {CIFAR5M_URL.format(path.stem[4:])} again in its place"
        ) from None
    return images, labels.astype(np.int64)


READERS: dict[str, Callable[[Path, int | None, Path], Raw]] = {
    "cifar10": read_cifar10,
    "cifar5m": read_cifar5m,
    "folder": read_folder,
    "tiny_imagenet": read_tiny_imagenet,
}
"""What `data.kind` names, besides cues: a function of the folder of the raw data, `data.parts` and a folder that is
there until the images have been read."""
