"""CIFAR-10 from an archive in the original format, served on the loopback; small, with its own checksums."""

import contextlib
import copy
import functools
import hashlib
import http.server
import multiprocessing
import os
import pickle
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from crossover.config import CrossoverError
from crossover.data.cache import Dataset, open_dataset
from crossover.fields import ImageData

CONFIG = ImageData(kind="cifar10", name="cifar10", root=".", image_size=32, val_fraction=0.1)
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH = 20


class OldNumpyDtype:
    """Pickles to the call by which the numpy of 2009 made a dtype, with integers for truth values."""

    def __reduce__(self) -> tuple[type, tuple[str, int, int]]:
        return np.dtype, ("u1", 0, 1)


def pixels(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (BATCH, 3, 32, 32), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_batches(folder: Path) -> dict[str, str]:
    """Write the batches and return their checksums."""
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    contents: dict[str, object] = {"batches.meta": {"label_names": NAMES}}
    for number, name in enumerate(names):
        labels = [(i + number) % 10 for i in range(BATCH)]
        contents[name] = {"data": pixels(number).reshape(BATCH, -1), "labels": labels, "kind": OldNumpyDtype()}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return {name: md5(folder / name) for name in contents}


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A web server with the archive; yields its folder."""
    folder = tmp_path / "web"
    sums = write_batches(folder / CIFAR10.base_folder)
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_address[1]}/{archive.name}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(web: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:9/{CIFAR10.filename}")
    return web


def check(dataset: Dataset) -> None:
    assert dataset.classes == tuple(NAMES)
    expected = np.concatenate([pixels(i) for i in range(5)]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(dataset.images, expected)
    np.testing.assert_array_equal(dataset.labels, [(i + number) % 10 for number in range(5) for i in range(BATCH)])
    np.testing.assert_array_equal(dataset.test_images, pixels(5).transpose(0, 2, 3, 1))
    assert (len(dataset.pool), len(dataset.val)) == (90, 10)


def test_absent_archive_is_downloaded_verified_and_kept(web: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    check(open_dataset(CONFIG, data_dir))
    assert sorted(path.name for path in data_dir.iterdir()) == ["cache", CIFAR10.filename]


def test_archive_put_there_by_hand_needs_no_network(offline: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(offline / CIFAR10.filename, data_dir)
    check(open_dataset(CONFIG, data_dir))
    assert sorted(path.name for path in data_dir.iterdir()) == ["cache", CIFAR10.filename]


def test_what_a_killed_process_was_unpacking_is_removed_by_the_next(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(offline / CIFAR10.filename, data_dir)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", lambda *_: os._exit(9))
        killed = multiprocessing.get_context("fork").Process(target=open_dataset, args=(CONFIG, data_dir))
        killed.start()
        killed.join()
    assert killed.exitcode == 9
    assert [path.is_dir() for path in (data_dir / "cache").iterdir()].count(True) == 1
    dataset = open_dataset(CONFIG, data_dir)
    assert list((data_dir / "cache").iterdir()) == [dataset.folder]


def test_archive_unpacked_by_torchvision_is_used(offline: Path, tmp_path: Path) -> None:
    shutil.copytree(offline / CIFAR10.base_folder, tmp_path / "data" / CIFAR10.base_folder)
    check(open_dataset(CONFIG, tmp_path / "data"))


def test_other_sizes_are_resized(web: Path, tmp_path: Path) -> None:
    dataset = open_dataset(CONFIG.model_copy(update={"image_size": 16}), tmp_path / "data")
    assert dataset.images.shape == (100, 16, 16, 3)
    assert abs(dataset.images[0].mean() - pixels(0)[0].mean()) < 3


def test_no_network_names_the_address_and_the_ways_without(offline: Path, tmp_path: Path) -> None:
    message = (
        rf"cannot download CIFAR-10 from {CIFAR10.url} \(.*refused.*\); without a network, put {CIFAR10.filename} into"
        r" .*/data, or use an image folder: data=cifar10_folder data.root=DIR"
    )
    with pytest.raises(CrossoverError, match=message) as caught:
        open_dataset(CONFIG, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "data").rglob("*")) == [tmp_path / "data" / "cache"]


def test_a_page_that_is_gone_is_no_archive(web: Path, tmp_path: Path) -> None:
    (web / CIFAR10.filename).unlink()
    with pytest.raises(CrossoverError, match=r"cannot download CIFAR-10 .*\(HTTP Error 404: File not found\)"):
        open_dataset(CONFIG, tmp_path / "data")


def test_a_download_with_another_checksum_is_never_used(web: Path, tmp_path: Path) -> None:
    archive = web / CIFAR10.filename
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(CrossoverError, match=r"cannot download CIFAR-10 .*File not found or corrupted"):
        open_dataset(CONFIG, tmp_path / "data")
    assert list((tmp_path / "data").rglob("*")) == [tmp_path / "data" / "cache"]


def test_a_damaged_archive_is_named_and_left_alone(web: Path, tmp_path: Path) -> None:
    archive = tmp_path / "data" / CIFAR10.filename
    archive.parent.mkdir()
    archive.write_bytes((web / CIFAR10.filename).read_bytes()[:-100])
    content = archive.read_bytes()
    with pytest.raises(CrossoverError, match=rf"{archive} is damaged: .*; move it away and"):
        open_dataset(CONFIG, tmp_path / "data")
    assert archive.read_bytes() == content


def test_a_damaged_unpacked_batch_is_never_used(web: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / CIFAR10.base_folder
    shutil.copytree(web / CIFAR10.base_folder, folder)
    (folder / "data_batch_3").write_bytes(b"x")
    with pytest.raises(CrossoverError, match=rf"{folder} is damaged: a checksum .*; move it away and"):
        open_dataset(CONFIG, tmp_path / "data")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("{outside}/evil")],
        [member("link", tarfile.SYMTYPE, "{outside}"), member("link/evil")],
        [member("link", tarfile.SYMTYPE, "../..")],
        [member("link", tarfile.LNKTYPE, "{outside}/known")],
        [member("device", tarfile.CHRTYPE)],
        [member("pipe", tarfile.FIFOTYPE)],
    ],
    ids=["dots", "absolute", "through a link", "link out", "hard link out", "device", "pipe"],
)
def test_no_member_of_an_archive_gets_out_of_its_folder(
    web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: list[tarfile.TarInfo]
) -> None:
    outside, archive = tmp_path / "outside", tmp_path / "data" / CIFAR10.filename
    for folder in (outside, archive.parent):
        folder.mkdir()
    (outside / "known").write_text("as it was")
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")  # 350 MB may not fit there
    with tarfile.open(archive, "w:gz") as tar:
        for info in members:
            named = copy.copy(info)
            named.name, named.linkname = (s.format(outside=outside) for s in (info.name, info.linkname))
            tar.addfile(named)
        tar.add(web / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))  # as if the archive itself were trusted
    absolute = members[0].name.startswith("{")  # loses its first slash, and lies in the folder then
    refused = pytest.raises(CrossoverError, match=r"is damaged: .* does not unpack; move it away and")
    with contextlib.nullcontext() if absolute else refused:
        open_dataset(CONFIG, tmp_path / "data")
    assert [path for path in archive.parent.rglob("*.tmp") if path.is_dir()] == []
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("known", "as it was")]


class Payload:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_without_the_right_checksum_is_never_loaded(web: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / CIFAR10.base_folder
    shutil.copytree(web / CIFAR10.base_folder, folder)
    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(CrossoverError, match="is damaged: a checksum"):
        open_dataset(CONFIG, tmp_path / "data")
    assert not (tmp_path / "ran").exists()
    pickle.loads((folder / "data_batch_1").read_bytes())
    assert (tmp_path / "ran").exists()  # so it would have run


def test_an_archive_with_other_batches_is_never_used(
    web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", "0" * 32]])
    with pytest.raises(CrossoverError, match=rf"{CIFAR10.filename} is damaged: .* does not unpack; move it"):
        open_dataset(CONFIG, tmp_path / "data")


def test_downloads_that_start_together_do_not_disturb_each_other(web: Path, tmp_path: Path) -> None:
    results: list[Dataset] = []
    threads = [
        threading.Thread(target=lambda: results.append(open_dataset(CONFIG, tmp_path / "data"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for dataset in results:
        check(dataset)
