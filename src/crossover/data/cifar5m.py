"""What is in CIFAR-5m? Six npz files of a million images each, read as a stream: no part is ever wholly in memory.

Nakkiran, Neyshabur, Sedghi 2020, "The deep bootstrap framework", https://github.com/preetum/cifar5m: samples of a
diffusion model that was trained on the training set of CIFAR-10, labelled by a network of 98.5 % accuracy.
"""

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from crossover.config import CrossoverError

URL = "https://storage.googleapis.com/gresearch/cifar5m/part{}.npz"
PART_IMAGES = 1_000_448
"""Images in each of the parts; the repository gives no checksums, but every npz carries the CRC-32 of its members."""
PARTS = 6
"""The last one is the test part."""
TEST_IMAGES = 10_000
"""Of the test part, as many as CIFAR-10 has."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TORN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError)


class PartImages:
    """Images uint8 (N, 32, 32, 3) of several npz files, to be read once, in order, by slices that follow each other."""

    def __init__(self, paths: list[Path], counts: list[int]) -> None:
        self.shape = (sum(counts), 32, 32, 3)
        self._left = list(zip(paths, counts, strict=True))
        self._file: IO[bytes] | None = None
        self._position = self._in_part = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        if part.start != self._position:
            raise RuntimeError(f"images {part.start} after {self._position}: a stream is read in order")
        taken: list[np.ndarray] = []
        missing = min(part.stop, len(self)) - part.start
        while missing:
            taken.append(self._read(missing))
            missing -= len(taken[-1])
        self._position += sum(map(len, taken))
        return np.concatenate(taken)

    def _read(self, most: int) -> np.ndarray:
        """Return at most so many images, from one file."""
        path, count = self._left[0]
        size = int(np.prod(self.shape[1:]))
        try:
            if self._file is None:
                self._file, found = open_member(path, "X")
                _check(path, "X", found, (count, *self.shape[1:]), at_least=True)
            images = min(most, count - self._in_part)
            data = self._file.read(images * size)
            if len(data) < images * size:
                raise EOFError("it ends early")
            self._in_part += images
            if self._in_part == count:
                while count == PART_IMAGES and self._file.read(2**20):  # to its end: there the checksum is compared
                    pass
                self._file.close()
                self._file, self._in_part = None, 0
                self._left.pop(0)
        except _TORN as error:
            raise _damaged(path, error) from None
        return np.frombuffer(data, np.uint8).reshape(images, *self.shape[1:])


def open_member(path: Path, name: str) -> tuple[IO[bytes], tuple[tuple[int, ...], np.dtype]]:
    """Return an array of an npz file as a stream behind its header, with its shape and type."""
    stream = zipfile.ZipFile(path).open(f"{name}.npy")  # noqa: SIM115 - read on by the caller
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if fortran:
        raise ValueError(f"{name} is in Fortran order")
    return stream, (shape, dtype)


def read_cifar5m(root: Path, parts: int) -> tuple[PartImages, np.ndarray, PartImages, np.ndarray]:
    """Return images and labels of the first `parts` parts, and TEST_IMAGES of the last one."""
    paths = [root / f"part{i}.npz" for i in (*range(parts), PARTS - 1)]
    if missing := [path for path in paths if not path.exists()]:
        raise CrossoverError(
            f"{missing[0]} does not exist: CIFAR-5m is 3 GB a part; fetch {URL.format(missing[0].stem[4:])} to there"
            f" ({len(missing)} of {len(paths)} parts are missing), or ask for fewer with data.parts=1"
        )
    labels = [_labels(path) for path in paths]
    test = min(TEST_IMAGES, PART_IMAGES)
    train = PartImages(paths[:-1], [PART_IMAGES] * parts)
    return train, np.concatenate(labels[:-1]), PartImages(paths[-1:], [test]), labels[-1][:test]


def _labels(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as part:
            labels = part["Y"]
    except _TORN as error:
        raise _damaged(path, error) from None
    _check(path, "Y", (labels.shape, labels.dtype), (PART_IMAGES,))
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise _damaged(path, ValueError(f"labels from {labels.min()} to {labels.max()}"))
    return labels.astype(np.int64)


def _check(
    path: Path, name: str, found: tuple[tuple[int, ...], np.dtype], shape: tuple[int, ...], *, at_least: bool = False
) -> None:
    kind = np.integer if name == "Y" else np.uint8
    enough = found[0] == shape or (at_least and found[0][1:] == shape[1:] and found[0][0] >= shape[0])
    if not enough or not np.issubdtype(found[1], kind):
        raise _damaged(path, ValueError(f"{name} is {found[1]} {found[0]}, not {shape}"))


def _damaged(path: Path, error: Exception) -> CrossoverError:
    return CrossoverError(f"{path} is damaged ({error}): delete it and fetch {URL.format(path.stem[4:])} again")
