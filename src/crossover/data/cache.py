"""The cache of a dataset: one uint8 array with labels, decoded once and memory-mapped.

It records names, sizes and times of the files it was built from, so that images changed since then are noticed.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from crossover.config import CrossoverError
from crossover.data.readers import Images, Raw, fingerprint, raw_root, read_raw
from crossover.data.subsets import pixel_order, stratified_holdout
from crossover.fields import CuesData, ImageData
from crossover.lock import HeldError, Lock, is_held
from crossover.text import Clock

CACHE_VERSION = 1
"""Increase it when the same raw data would give different arrays."""
CHUNK = 256
"""Images decoded and written at a time."""
WAIT_SECONDS = 0.5
"""Seconds between checks of a cache that another process builds."""
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_ARRAYS = ("images", "labels", "pool", "val", "test_images", "test_labels")


@dataclass(frozen=True)
class Dataset:
    """A dataset of N training images, in the pool or held out for validation, and M test images of S x S pixels."""

    name: str
    classes: tuple[str, ...]
    images: np.ndarray
    """uint8 (N, S, S, 3), memory-mapped like `test_images`."""
    labels: np.ndarray
    """int64 (N,), positions in `classes`."""
    pool: np.ndarray
    """int64 indices into `images`, like `val`."""
    val: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray
    """float64 (3,), of pixel values in 0..1 over the pool, like `std`, which is 1 for a constant channel."""
    std: np.ndarray
    hash: str
    """SHA-256 over images, labels and the split."""
    folder: Path
    """The folder of its cache."""
    order: np.ndarray | None = None
    """int64 (S * S,): the fixed permutation of pixels, applied to batches; None for none."""


def open_dataset(
    config: CuesData | ImageData, data_dir: Path, *, verify: bool = False, rebuild: bool = False
) -> Dataset:
    """Return a dataset from its cache; a missing cache is built, which for image files takes about 0.2 ms per image.

    `verify` compares the raw files with those it was built from; `rebuild` builds again. If several processes ask for
    the same cache, one builds it and the others wait; if that one dies, the next starts over.
    """
    folder = cache_folder(config, data_dir)
    while rebuild or not folder.is_dir():
        lock = Lock(folder.with_name(f".{folder.name}.lock"), exit_when_lost=False)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with lock:
                if rebuild or not folder.is_dir():
                    _build(config, data_dir, folder)
            rebuild = False
        except HeldError:
            time.sleep(WAIT_SECONDS)
        except (CrossoverError, OSError) as error:
            if lock.lost:  # we were suspended so long that another process took over and removed our files
                continue
            if isinstance(error, CrossoverError):
                raise
            raise CrossoverError(
                f"cannot write the cache {folder}: {error.strerror or error}; free some space, make it writable, or"
                " choose another place with machine.data_dir=DIR"
            ) from None
    dataset, source = _load(folder)
    if verify and source is not None and fingerprint(config, data_dir) not in (None, source):
        fields = config.model_dump(include={"name", "image_size", "root", "val_fraction", "parts"}, exclude_none=True)
        words = [f"data={config.kind}", f"machine.data_dir={data_dir}", *(f"data.{k}={v}" for k, v in fields.items())]
        raise CrossoverError(
            f"the files of {config.name} have changed since {folder} was made from them; build it again:"
            f" {shlex.join(['.venv/bin/python', 'scripts/data.py', 'rebuild=true', *words])}"
            " (or take another data.name beside the old one)"
        )
    return replace(dataset, order=pixel_order(config.permute, config.image_size))


def cache_folder(config: CuesData | ImageData, data_dir: Path) -> Path:
    """Return the folder of a dataset's cache; its name contains a hash of all that determines its content."""
    values = config.model_dump(mode="json", exclude={"permute"}, exclude_none=True) | {"cache_version": CACHE_VERSION}
    if isinstance(config, ImageData):  # relative, so that the data folder may be moved
        values["root"] = os.path.relpath(raw_root(config, data_dir), data_dir.resolve())
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]", "-", config.name)
    return data_dir / "cache" / f"{name}-{config.image_size}px-{digest}"


def _load(folder: Path) -> tuple[Dataset, str | None]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            key: np.load(folder / f"{key}.npy", mmap_mode="r" if "images" in key else None).view(np.ndarray)
            for key in _ARRAYS
        }
        arrays |= {key: np.array(meta[key]) for key in ("mean", "std")}
        classes = tuple(meta["classes"])
        return Dataset(meta["name"], classes, hash=meta["hash"], folder=folder, **arrays), meta.get("source")
    except (OSError, ValueError, KeyError) as error:
        raise CrossoverError(
            f"the cache {folder} is damaged ({error}): remove it (rm -r {folder}) and repeat the command"
        ) from None


def _build(config: CuesData | ImageData, data_dir: Path, folder: Path) -> None:
    for left in folder.parent.glob(".*.tmp"):  # by a killed process
        builder = left.with_name(f"{left.name.rsplit('.', 2)[0]}.lock")
        if builder.stem == f".{folder.name}" or not is_held(builder):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent, ignore_cleanup_errors=True
    ) as place:
        source = fingerprint(config, data_dir)
        if isinstance(config, CuesData):
            _check_room(place, config, config.n_pool + config.n_val + config.n_test)  # before hours of drawing
        raw = read_raw(config, data_dir, Path(place))
        _check_room(place, config, len(raw.labels) + len(raw.test_labels))  # before hours of decoding
        for note in (f"making the cache {folder}", *(f"note: {note}" for note in raw.notes)):
            print(note, file=sys.stderr, flush=True)
        built = Path(place, "built")
        built.mkdir()
        _write(raw, config, built, source)
        if folder.is_dir():  # to be rebuilt; processes that have it open keep the old files
            folder.rename(Path(place, "old"))
        built.rename(folder)


def _check_room(place: str, config: CuesData | ImageData, images: int) -> None:
    size, free = images * config.image_size**2 * 3, shutil.disk_usage(place).free
    if free < size:
        raise OSError(f"{free / 1e9:.1f} GB are free; it takes {size / 1e9:.1f} GB")


def _write(raw: Raw, config: CuesData | ImageData, folder: Path, source: str | None) -> None:
    count = len(raw.labels)
    if raw.n_val is None and isinstance(config, ImageData):
        pool, val = stratified_holdout(raw.labels, config.val_fraction, raw.classes)
    else:
        pool, val = np.split(np.arange(count), [count - (raw.n_val or 0)])
    in_pool = np.isin(np.arange(count), pool)
    digest, counts = hashlib.sha256(), np.zeros((3, 256), np.int64)
    labels = {"labels": raw.labels, "pool": pool, "val": val, "test_labels": raw.test_labels}
    for key, images, total in (("images", raw.images, count), ("test_images", raw.test_images, len(raw.test_labels))):
        header = {"descr": "|u1", "fortran_order": False, "shape": (total, config.image_size, config.image_size, 3)}
        clock, done = Clock(f"{config.name}, {key.replace('_', ' ')}:", total), 0
        with (folder / f"{key}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in _decoded(images, config.image_size):
                file.write(chunk.data)  # not through a memory map: on a full disk that ends in SIGBUS, not in an error
                digest.update(chunk.data)
                if key == "images":
                    counts += _histogram(chunk[in_pool[done : done + len(chunk)]])
                done += len(chunk)
                clock.tell(done)
    for key, array in labels.items():
        np.save(folder / f"{key}.npy", array.astype(np.int64))
        digest.update(f"{key} {len(array)}".encode() + array.astype("<i8").tobytes())
    mean, std = _moments(counts)
    meta: dict[str, object] = {"name": config.name, "hash": digest.hexdigest(), "mean": mean, "std": std}
    meta |= {"classes": raw.classes, "source": source, "config": config.model_dump(mode="json", exclude={"permute"})}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _decoded(images: Images, size: int) -> Iterator[np.ndarray]:
    """Yield the images in order, C-contiguous uint8 (n, size, size, 3)."""
    with ThreadPoolExecutor() as threads:  # Pillow decodes outside the interpreter's lock
        for array in images if isinstance(images, tuple) else (images,):
            ready = isinstance(array, np.ndarray) and array.shape[1:] == (size, size, 3)
            for start in range(0, len(array), CHUNK):
                part = array[start : start + CHUNK]
                chunk = part if ready else np.stack(list(threads.map(lambda image: decode(image, size), part)))
                yield np.ascontiguousarray(chunk)


def decode(image: Path | np.ndarray, size: int) -> np.ndarray:
    """Return the central square of an image, resized (bicubic, antialiased) to uint8 (size, size, 3).

    Grey, palette and CMYK become RGB, alpha is dropped; without EXIF rotation, as torchvision does.
    """
    if isinstance(image, np.ndarray):
        return _fit(Image.fromarray(image), size)
    try:
        if image.is_fifo():  # opening it would wait for ever
            raise OSError("a named pipe")
        with Image.open(image) as opened:
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of type {opened.mode}, not of 8 bits a channel")
            return _fit(opened, size)
    except _DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise CrossoverError(
            f"cannot read the image {image} ({reason}): replace it with a whole one; images are never skipped"
        ) from None


def _fit(image: Image.Image, size: int) -> np.ndarray:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _histogram(images: np.ndarray) -> np.ndarray:
    if len(images) == 0:
        return np.zeros((3, 256), np.int64)
    return np.array(Image.fromarray(images.reshape(-1, images.shape[2], 3)).histogram()).reshape(3, 256)


def _moments(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of values in 0..1, exact from their counts."""
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt(np.sum(counts * (values - mean[:, None]) ** 2, axis=1) / counts.sum(axis=1))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
