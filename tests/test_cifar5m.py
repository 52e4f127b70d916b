"""Claims about CIFAR-5m, on a small archive of the same layout."""

import errno
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crossover.config import CrossoverError
from crossover.data.cache import Dataset, open_dataset
from crossover.data.readers import cifar5m as parts
from crossover.fields import ImageData

COUNT = 600


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write parts 0, 1 and 5 of 600 images each: more than the 256 that are copied at a time."""
    monkeypatch.setattr(parts, "PART_IMAGES", COUNT)
    monkeypatch.setattr(parts, "TEST_IMAGES", 40)
    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "cifar5m"
    folder.mkdir(parents=True)
    for i, save in ((0, np.savez), (1, np.savez_compressed), (5, np.savez)):
        images = rng.integers(256, size=(COUNT, 32, 32, 3), dtype=np.uint8)
        save(folder / f"part{i}.npz", X=images, Y=rng.integers(10, size=COUNT))
    return folder


def opened(root: Path, count: int = 2, size: int = 32) -> Dataset:
    config = ImageData(
        kind="cifar5m", name="cifar5m", root="cifar5m", image_size=size, val_fraction=0.1, parts=count
    )  # fmt: skip
    return open_dataset(config, root.parent)


def stored(root: Path, part: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(root / f"part{part}.npz") as saved:
        return saved["X"], saved["Y"]


def test_cache_holds_the_parts_in_order_and_the_start_of_the_last(root: Path) -> None:
    dataset = opened(root)
    wanted = [stored(root, i) for i in (0, 1)]
    np.testing.assert_array_equal(dataset.images, np.concatenate([x for x, _ in wanted]))
    np.testing.assert_array_equal(dataset.labels, np.concatenate([y for _, y in wanted]))
    x, y = stored(root, 5)
    np.testing.assert_array_equal(dataset.test_images, x[:40])
    np.testing.assert_array_equal(dataset.test_labels, y[:40])
    assert len(dataset.pool) + len(dataset.val) == 2 * COUNT
    assert dataset.classes[6] == "frog"


def test_fewer_parts_are_another_dataset_and_other_sizes_are_resized(root: Path) -> None:
    one, two = opened(root, 1), opened(root)
    assert one.folder != two.folder
    assert len(one.labels) == COUNT
    np.testing.assert_array_equal(one.images, two.images[:COUNT])
    assert opened(root, 1, size=16).images.shape == (COUNT, 16, 16, 3)


def test_parts_are_mapped_and_not_read_whole(root: Path, tmp_path: Path) -> None:
    raw = parts.read(root, 2, tmp_path / "scratch")
    assert [len(part) for part in (*raw.images, *raw.test_images)] == [COUNT, COUNT, 40]
    assert all(isinstance(part, np.memmap) for part in (*raw.images, *raw.test_images))
    assert len(raw.labels) == 2 * COUNT


def test_a_missing_part_says_where_it_is(root: Path) -> None:
    (root / "part1.npz").unlink()
    with pytest.raises(CrossoverError, match=r"part1\.npz does not exist: .*fetch https.*/part1\.npz .*1 of 3 parts"):
        opened(root)
    assert len(opened(root, 1).labels) == COUNT


@pytest.mark.parametrize("how", ["cut", "flipped", "labels", "shape", "empty"])
def test_a_damaged_part_is_one_line_and_leaves_no_cache(root: Path, how: str) -> None:
    path = root / "part0.npz"
    x, y = stored(root, 0)
    if how == "cut":
        path.write_bytes(path.read_bytes()[: COUNT * 1000])
    elif how == "flipped":  # the stored checksum of the member no longer holds
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo("X.npy").header_offset
        content = bytearray(path.read_bytes())
        content[start + 5000] ^= 255
        path.write_bytes(content)
    else:
        changed = {"labels": {"X": x, "Y": y + 9}, "shape": {"X": x[:, :16], "Y": y}, "empty": {"Y": y}}[how]
        np.savez(path, **changed)  # type: ignore[arg-type]
    with pytest.raises(CrossoverError, match=r"part0\.npz is damaged \(.*fetch https.*again in its place"):
        opened(root)
    assert not list((root.parent / "cache").glob("*"))


def test_unpacking_says_how_far_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossover.text.TELL_SECONDS", -1)
    parts.read(root, 1, tmp_path / "scratch")
    lines = [line.rsplit(",", 1)[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["parts unpacked: 1 of 2", "parts unpacked: 2 of 2"]


def test_a_disk_that_fills_while_unpacking_is_no_damage_of_the_part(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extract", full)
    with pytest.raises(CrossoverError, match=r"cannot write the cache .*: No space left on device; free some space"):
        opened(root)
