"""Claims about the cache of a data set: what it holds, when it is made anew, and what a fault leaves."""

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossover import lock
from crossover.config import CrossoverError
from crossover.data import cache as images
from crossover.data.cache import Dataset, cache_folder, open_dataset
from tests.pets import CONFIG, picture
from tests.worlds import small_run


def same(a: Dataset, b: Dataset) -> bool:
    return a.hash == b.hash and np.array_equal(a.images, b.images) and np.array_equal(a.pool, b.pool)


def leftovers(data_dir: Path) -> list[str]:
    return [p.name for p in (data_dir / "cache").glob(".*")] if (data_dir / "cache").exists() else []


def test_mean_and_std_are_those_of_the_pool_alone(data_dir: Path) -> None:
    dataset = open_dataset(CONFIG, data_dir)
    pixels = dataset.images[dataset.pool] / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_has_unit_std() -> None:
    counts = np.zeros((3, 256), np.int64)
    counts[:, 51] = 10
    mean, std = images._moments(counts)
    np.testing.assert_allclose(mean, 0.2, rtol=1e-12)
    assert std == [1.0, 1.0, 1.0]


def test_second_opening_reads_the_cache_alone_and_maps_it(data_dir: Path) -> None:
    first = open_dataset(CONFIG, data_dir)
    shutil.rmtree(data_dir / "pets")
    second = open_dataset(CONFIG, data_dir)
    assert same(first, second)
    assert isinstance(second.images.base, np.memmap)
    assert not second.images.flags.writeable


def test_a_moved_data_folder_keeps_its_cache(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = open_dataset(CONFIG, data_dir)
    moved = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(data_dir / "cache", moved / "cache")
    assert same(first, open_dataset(CONFIG, moved))


def test_caches_of_other_settings_stand_apart(data_dir: Path) -> None:
    changes: list[dict[str, Any]] = [{"root": "other"}, {"image_size": 16}, {"val_fraction": 0.5}, {"name": "a/b"}]
    folders = {cache_folder(CONFIG.model_copy(update=change), data_dir) for change in [{}, *changes]}
    assert len(folders) == 5
    assert {folder.parent for folder in folders} == {data_dir / "cache"}


def test_content_and_hash_do_not_depend_on_the_chunks(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_dataset(CONFIG, data_dir)
    shutil.rmtree(data_dir / "cache")
    monkeypatch.setattr(images, "CHUNK", 5)
    assert same(first, open_dataset(CONFIG, data_dir))


def test_one_changed_pixel_or_label_changes_the_hash(data_dir: Path) -> None:
    hashes = {open_dataset(CONFIG, data_dir).hash}
    changed = picture(0)
    changed[3, 4, 1] ^= 1
    Image.fromarray(changed).save(data_dir / "pets/train/cat/000.png")
    shutil.rmtree(data_dir / "cache")
    hashes.add(open_dataset(CONFIG, data_dir).hash)
    hashes.add(open_dataset(CONFIG.model_copy(update={"val_fraction": 0.5}), data_dir).hash)
    assert len(hashes) == 3


def test_cues_hold_the_pool_and_then_validation(tmp_path: Path) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    np.testing.assert_array_equal(dataset.pool, np.arange(1200))
    np.testing.assert_array_equal(dataset.val, np.arange(1200, 1300))
    assert dataset.classes == tuple("0123456789")
    assert dataset.test_images.shape == (200, 16, 16, 3)


def test_a_builder_that_lost_its_lock_while_it_was_stopped_begins_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    write, calls = images._write, []

    def lose_once(raw: Any, config: Any, folder: Path, source: str | None) -> None:
        calls.append(folder)
        if len(calls) == 1:
            (held,) = folder.parents[1].glob(".*.lock")
            held.write_text('{"host": "elsewhere", "pid": 1, "token": "x"}')
            while any(thread.name.startswith("heartbeat") for thread in threading.enumerate()):  # until it is noticed
                time.sleep(0.01)
            os.utime(held, (0, 0))  # the other one died as well
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        write(raw, config, folder, source)

    monkeypatch.setattr(images, "_write", lose_once)
    assert len(open_dataset(CONFIG, data_dir).labels) == 24
    assert len(calls) == 2
    assert leftovers(data_dir) == []


def test_leftovers_of_killed_builders_go_and_what_another_builds_stays(data_dir: Path) -> None:
    cache = data_dir / "cache"
    for name in ("old", "other"):
        (cache / f".{name}-12px.x.tmp" / "built").mkdir(parents=True)
        (cache / f".{name}-12px.x.tmp" / "built" / "images.npy").write_bytes(b"x")
    with lock.Lock(cache / ".other-12px.lock"):
        open_dataset(CONFIG, data_dir)
        assert sorted(leftovers(data_dir)) == [".other-12px.lock", ".other-12px.x.tmp"]


def test_a_full_disk_is_seen_before_drawing(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match=r"GB are free; it takes 768000"):
        open_dataset(small_run(tmp_path, data__n_pool=10**12).data, tmp_path)


def test_a_full_disk_is_seen_before_decoding(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(CrossoverError, match=r"cannot write the cache .*: 0.0 GB are free; it takes .*data_dir=DIR"):
        open_dataset(CONFIG, data_dir)
    assert leftovers(data_dir) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failing_write_is_one_line_and_leaves_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(images, "_histogram", fail)
    with pytest.raises(
        CrossoverError, match=rf"cannot write the cache .*: {os.strerror(code)}; .*machine.data_dir=DIR"
    ):
        open_dataset(CONFIG, data_dir)
    assert list((data_dir / "cache").iterdir()) == []


def test_a_cache_place_that_is_no_folder_is_one_line(data_dir: Path) -> None:
    (data_dir / "cache").write_text("in the way")
    with pytest.raises(CrossoverError, match=r"cannot write the cache .*File exists; .*machine.data_dir=DIR"):
        open_dataset(CONFIG, data_dir)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json"])
def test_a_damaged_cache_says_how_to_mend_it(data_dir: Path, name: str) -> None:
    path = open_dataset(CONFIG, data_dir).folder / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        CrossoverError, match=rf"the cache {path.parent} is damaged .*remove it \(rm -r {path.parent}\)"
    ):
        open_dataset(CONFIG, data_dir)


def test_reading_images_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import crossover.data.cache"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_that_changed_are_noticed_and_made_anew(data_dir: Path) -> None:
    """A label that is corrected, an image that is added or replaced."""
    first = open_dataset(CONFIG, data_dir, verify=True)
    dog, cat = data_dir / "pets/train/dog", data_dir / "pets/train/cat"
    for change in (
        lambda: (dog / "003.png").rename(cat / "moved.png"),
        lambda: Image.fromarray(picture(7)).save(cat / "new.png"),
        lambda: Image.fromarray(picture(8)).save(dog / "000.png"),
    ):
        change()
        assert same(open_dataset(CONFIG, data_dir), first)  # a run that began with them goes on
        with pytest.raises(CrossoverError, match=r"files of pets have changed .* again: (.*) \(or take") as refused:
            open_dataset(CONFIG, data_dir, verify=True)
        words = shlex.split(str(refused.value).split("again: ")[1].split(" (or")[0])
        assert words[1:4] == ["scripts/data.py", "rebuild=true", "data=folder"]
        assert {
            f"machine.data_dir={data_dir}",
            f"data.root={CONFIG.root}",
            f"data.image_size={CONFIG.image_size}",
        } <= set(words)
        changed = open_dataset(CONFIG, data_dir, rebuild=True)
        assert changed.hash != first.hash
        first = open_dataset(CONFIG, data_dir, verify=True)
        assert same(first, changed)
    assert leftovers(data_dir) == []


def test_a_cache_without_a_fingerprint_is_still_read(data_dir: Path) -> None:
    folder = open_dataset(CONFIG, data_dir).folder
    meta = json.loads((folder / "meta.json").read_text())
    del meta["source"]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert len(open_dataset(CONFIG, data_dir, verify=True).labels) == 24
