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
import time
import uuid
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
from crossover.lock import HeldError, Lock
from crossover.text import Clock

CACHE_VERSION = 1
"""Increase it when the same raw data would give different arrays."""
CHUNK = 256
"""Images decoded and written at a time."""
STALE_SECONDS = 3600
"""Files not written to for this long are leftovers of a killed process."""
WAIT_SECONDS = 0.5
"""Seconds between checks of a cache that another process builds."""
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_ARRAYS = ("images", "labels", "pool", "val", "test_images", "test_labels")


@dataclass(frozen=True)
class Dataset:
    """A dataset of N training and M test images of S x S pixels."""

    name: str
    classes: tuple[str, ...]
    images: np.ndarray
    """uint8 (N, S, S, 3), memory-mapped: pool and validation together."""
    labels: np.ndarray
    """int64 (N,), positions in `classes`."""
    pool: np.ndarray
    """int64: the indices into `images` that chains are drawn from."""
    val: np.ndarray
    """int64: the indices into `images` held out for validation."""
    test_images: np.ndarray
    """uint8 (M, S, S, 3), memory-mapped."""
    test_labels: np.ndarray
    mean: np.ndarray
    """float64 (3,), of pixel values in 0..1 over the pool."""
    std: np.ndarray
    """float64 (3,), of pixel values in 0..1 over the pool; 1 for a constant channel."""
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
    while not folder.is_dir() or rebuild:
        rebuild = not _build_or_wait(config, data_dir, folder, rebuild) and rebuild
    dataset, source = _load(folder)
    if verify and source is not None and fingerprint(config, data_dir) not in (None, source):
        raise CrossoverError(
            f"the files of {config.name} have changed since {folder} was made from them; build it again:"
            f" {_rebuild(config, data_dir)} (or take another data.name beside the old one)"
        )
    return replace(dataset, order=pixel_order(config.permute, config.image_size))


def _rebuild(config: CuesData | ImageData, data_dir: Path) -> str:
    """Return the command that builds a cache again."""
    fields = config.model_dump(include={"name", "image_size", "root", "val_fraction", "parts"}, exclude_none=True)
    words = [f"data={config.kind}", f"machine.data_dir={data_dir}", *(f"data.{k}={v}" for k, v in fields.items())]
    return shlex.join([".venv/bin/python", "scripts/data.py", "rebuild=true", *words])


def cache_folder(config: CuesData | ImageData, data_dir: Path) -> Path:
    """Return the folder of a dataset's cache; its name contains a hash of all that determines its content."""
    values: dict[str, object] = config.model_dump(mode="json", exclude={"permute"}, exclude_none=True)
    values |= {"cache_version": CACHE_VERSION}
    if isinstance(config, ImageData):  # relative, so that the data folder may be moved
        values["root"] = os.path.relpath(raw_root(config, data_dir), data_dir.resolve())
    fingerprint = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]", "-", config.name)
    return data_dir / "cache" / f"{name}-{config.image_size}px-{fingerprint}"


def _load(folder: Path) -> tuple[Dataset, str | None]:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {
            key: np.load(folder / f"{key}.npy", mmap_mode="r" if "images" in key else None).view(np.ndarray)
            for key in _ARRAYS
        }
        mean, std = (np.array(meta[key]) for key in ("mean", "std"))
        name, classes, digest = meta["name"], tuple(meta["classes"]), meta["hash"]
    except (OSError, ValueError, KeyError) as error:
        raise CrossoverError(
            f"the cache {folder} is damaged ({error}): remove it (rm -r {folder}) and repeat the command"
        ) from None
    dataset = Dataset(name=name, classes=classes, mean=mean, std=std, hash=digest, folder=folder, **arrays)
    return dataset, meta.get("source")


def _build_or_wait(config: CuesData | ImageData, data_dir: Path, folder: Path, rebuild: bool) -> bool:
    """Build the cache and return True, or wait a moment if another process is building it."""
    lock = Lock(folder.with_name(f".{folder.name}.lock"), exit_when_lost=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            if rebuild or not folder.is_dir():
                _build(config, data_dir, folder)
        return True
    except HeldError:
        time.sleep(WAIT_SECONDS)
    except CrossoverError:
        if not lock.lost:  # otherwise we were suspended so long that another process took over and removed our files
            raise
    except OSError as error:
        raise _unwritable(folder, error) from None
    return False


def _build(config: CuesData | ImageData, data_dir: Path, folder: Path) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    scratch = temporary.with_name(f"{temporary.name[:-4]}.raw.tmp")
    size = 0
    try:
        _remove_leftovers(folder)
        source = fingerprint(config, data_dir)
        raw = read_raw(config, data_dir, scratch)
        print(f"making the cache {folder}", file=sys.stderr, flush=True)
        for note in raw.notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        size = (len(raw.labels) + len(raw.test_labels)) * config.image_size**2 * 3
        if (free := shutil.disk_usage(folder.parent).free) < size:  # before hours of decoding
            raise OSError(f"{free / 1e9:.1f} GB are free")
        temporary.mkdir()
        _write(raw, config, temporary, source)
        if folder.is_dir():  # to be rebuilt; processes that have it open keep the old files
            folder.rename(temporary.with_name(f"{temporary.name[:-4]}.old.tmp"))
        temporary.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error, f"it takes {size / 1e9:.1f} GB: " if size else "") from None
    finally:
        for left in folder.parent.glob(f"{temporary.name[:-4]}*"):
            shutil.rmtree(left, ignore_errors=True)


def _unwritable(folder: Path, error: OSError, size: str = "") -> CrossoverError:
    return CrossoverError(
        f"cannot write the cache {folder}: {error.strerror or error}; {size}free some space, make it writable, or"
        " choose another place with machine.data_dir=DIR"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove leftovers of killed builders: all for this cache, and old ones for others."""
    for pattern in (".*.tmp", ".lock.*", ".clock.*"):
        for path in folder.parent.glob(pattern):
            if path.name.startswith(f".{folder.name}.") or time.time() - _last_write(path) > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _last_write(path: Path) -> float:
    try:
        return max(each.stat().st_mtime for each in (path, *(path.iterdir() if path.is_dir() else ())))
    except FileNotFoundError:
        return time.time()


def _write(raw: Raw, config: CuesData | ImageData, folder: Path, source: str | None) -> None:
    if raw.n_val is None and isinstance(config, ImageData):
        pool, val = stratified_holdout(raw.labels, config.val_fraction, raw.classes)
    else:
        pool, val = np.split(np.arange(len(raw.labels)), [len(raw.labels) - (raw.n_val or 0)])
    in_pool = np.zeros(len(raw.labels), bool)
    in_pool[pool] = True
    digest, counts = hashlib.sha256(), np.zeros((3, 256), np.int64)
    for key, images in (("images", raw.images), ("test_images", raw.test_images)):
        count = len(raw.labels if key == "images" else raw.test_labels)
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, config.image_size, config.image_size, 3)}
        clock = Clock(f"{config.name}, {key.replace('_', ' ')}:", count)
        with (folder / f"{key}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start, chunk in _decoded(images, config.image_size):
                file.write(chunk.data)  # not through a memory map: on a full disk that ends in SIGBUS, not in an error
                digest.update(chunk.data)
                clock.tell(start + len(chunk))
                if key == "images":
                    counts += _histogram(chunk[in_pool[start : start + len(chunk)]])
    arrays = {"labels": raw.labels, "pool": pool, "val": val, "test_labels": raw.test_labels}
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array.astype(np.int64))
        digest.update(f"{key} {len(array)}".encode() + array.astype("<i8").tobytes())
    mean, std = _moments(counts)
    meta: dict[str, object] = {"name": config.name, "hash": digest.hexdigest(), "mean": mean, "std": std}
    meta |= {"classes": raw.classes, "source": source, "config": config.model_dump(mode="json", exclude={"permute"})}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _decoded(images: Images, size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the position of the first image and the images, C-contiguous uint8 (n, size, size, 3)."""
    first = 0
    with ThreadPoolExecutor() as threads:  # Pillow decodes outside the interpreter's lock
        for array in images if isinstance(images, tuple) else (images,):
            ready = isinstance(array, np.ndarray) and array.shape[1:] == (size, size, 3)
            for start in range(0, len(array), CHUNK):
                part = array[start : start + CHUNK]
                chunk = part if ready else np.stack(list(threads.map(lambda image: decode(image, size), part)))
                yield first + start, np.ascontiguousarray(chunk)
            first += len(array)


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
            return _fit(opened, size)
    except _DECODE_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise CrossoverError(
            f"cannot read the image {image} ({reason}): replace it with a whole one; images are never skipped"
        ) from None


def _fit(image: Image.Image, size: int) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        raise CrossoverError(
            f"cannot read the image {image.filename}: its pixels are of type {image.mode}; convert it to 8 bits a"  # type: ignore[attr-defined]
            " channel"
        )
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
