import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from crossover import lock
from crossover.config import CrossoverError
from crossover.data import cache as images
from crossover.data.cache import Dataset, cache_folder, decode, open_dataset
from crossover.fields import ImageData
from tests.worlds import small_run

SIZE = 12
CLASSES = ("cat", "dog", "emu")
CONFIG = ImageData(kind="folder", name="pets", root="pets", image_size=SIZE, val_fraction=0.25)
Part = Literal["train", "val", "test"]


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def write_pets(data_dir: Path, **counts: int) -> None:
    """Write PNG images, so many per class and part; image i of a class c has the pixels of picture(100 c + i)."""
    for offset, (part, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = data_dir / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(picture(1000 * offset + 100 * label + i)).save(folder / f"{i:03}.png")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_pets(tmp_path, train=8, test=3)
    return tmp_path


def same(a: Dataset, b: Dataset) -> bool:
    return a.hash == b.hash and np.array_equal(a.images, b.images) and np.array_equal(a.pool, b.pool)


def leftovers(data_dir: Path) -> list[str]:
    return [p.name for p in (data_dir / "cache").glob(".*")] if (data_dir / "cache").exists() else []


def test_image_folder_becomes_arrays_in_the_order_of_class_and_file_names(data_dir: Path) -> None:
    dataset = open_dataset(CONFIG, data_dir)
    assert dataset.classes == CLASSES
    assert [x.dtype.name for x in (dataset.images, dataset.labels, dataset.pool)] == ["uint8", "int64", "int64"]
    np.testing.assert_array_equal(dataset.images, [picture(100 * c + i) for c in range(3) for i in range(8)])
    np.testing.assert_array_equal(dataset.labels, np.repeat([0, 1, 2], 8))
    np.testing.assert_array_equal(
        dataset.test_images, [picture(1000 + 100 * c + i) for c in range(3) for i in range(3)]
    )
    np.testing.assert_array_equal(dataset.test_labels, np.repeat([0, 1, 2], 3))


def test_validation_is_held_out_of_train_by_class(data_dir: Path) -> None:
    dataset = open_dataset(CONFIG, data_dir)
    assert np.bincount(dataset.labels[dataset.val]).tolist() == [2, 2, 2]
    assert sorted([*dataset.pool, *dataset.val]) == list(range(24))


def test_long_looks_at_files_say_how_far_they_are(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossover.progress.TELL_SECONDS", -1)
    open_dataset(CONFIG, data_dir, verify=True)
    lines = capsys.readouterr().err.splitlines()
    root = data_dir / "pets"
    assert f"classes of {root / 'train'} listed: 3 of 3, 0 s left" in lines
    assert lines[-1] == f"files of {root} compared with the cache: 33"


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


def test_with_all_three_parts_val_is_the_validation_set(tmp_path: Path) -> None:
    write_pets(tmp_path, train=4, test=2, val=3)
    dataset = open_dataset(CONFIG, tmp_path)
    assert len(dataset.pool) == 12
    np.testing.assert_array_equal(dataset.images[dataset.val[0]], picture(2000))
    np.testing.assert_array_equal(dataset.test_images[0], picture(1000))
    np.testing.assert_array_equal(dataset.labels[dataset.val], np.repeat([0, 1, 2], 3))


def test_without_a_test_part_val_is_the_test_set(tmp_path: Path) -> None:
    write_pets(tmp_path, train=4, val=3)
    dataset = open_dataset(CONFIG, tmp_path)
    np.testing.assert_array_equal(dataset.test_images[0], picture(1000))
    assert np.bincount(dataset.labels[dataset.val]).tolist() == [1, 1, 1]


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


def test_resize_takes_the_central_square() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = (10, 200, 30)
    for image in (wide, wide.transpose(1, 0, 2).copy()):
        small = decode(image, 10)
        assert (small[2:-2, 2:-2] == (10, 200, 30)).all()
        assert abs(small.astype(int) - (10, 200, 30)).max() <= 20  # the bicubic kernel reaches over the edge


def test_resize_averages_rather_than_picks_pixels() -> None:
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::2] = 200
    assert abs(decode(stripes, 10)[2:-2, 2:-2].astype(int) - 100).max() <= 3


@pytest.mark.filterwarnings("error")
def test_every_mode_becomes_rgb(tmp_path: Path) -> None:
    colour = (200, 100, 50)
    rgb = Image.new("RGB", (SIZE, SIZE), colour)
    palette = rgb.quantize(4)
    clear = rgb.quantize(4)
    clear.info["transparency"] = bytes([128] * 4)
    alpha = Image.new("RGBA", (SIZE, SIZE), (*colour, 7))
    for image in (rgb, palette, clear, alpha):
        image.save(tmp_path / "x.png")
        assert (decode(tmp_path / "x.png", SIZE) == colour).all()
    Image.new("L", (SIZE, SIZE), 77).save(tmp_path / "grey.jpg")
    assert (decode(tmp_path / "grey.jpg", SIZE) == 77).all()
    rgb.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert abs(decode(tmp_path / "print.jpg", SIZE).astype(int) - colour).max() <= 6


def cut_file(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_byte(path: Path) -> None:
    Image.fromarray(picture(0)).save(path, compress_level=0)  # so that only the checksum tells
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(bytes(content))


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 40_000, np.uint16)).save(path)


@pytest.mark.parametrize("damage", [cut_file, empty_file, flip_a_byte, sixteen_bits])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_image_is_named_and_leaves_no_cache(
    data_dir: Path, damage: Callable[[Path], None], part: Part
) -> None:
    path = data_dir / "pets" / part / "dog" / "001.png"
    damage(path)
    with pytest.raises(CrossoverError, match=rf"cannot read the image {path} \(.*never skipped") as caught:
        open_dataset(CONFIG, data_dir)
    assert "\n" not in str(caught.value)
    assert list((data_dir / "cache").iterdir()) == []


def test_a_cut_jpeg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(picture(0)).resize((64, 64)).save(path)
    for missing in (2, 100, len(path.read_bytes()) // 2):
        (tmp_path / "cut.jpg").write_bytes(path.read_bytes()[:-missing])
        with pytest.raises(CrossoverError, match=r"cut\.jpg \(.*[Tt]runcated"):
            decode(tmp_path / "cut.jpg", 64)


def no_root(pets: Path) -> None:
    shutil.rmtree(pets)


def no_test(pets: Path) -> None:
    shutil.rmtree(pets / "test")


def no_class(pets: Path) -> None:
    shutil.rmtree(pets / "test" / "dog")


def empty_class(pets: Path) -> None:
    shutil.rmtree(pets / "train" / "dog")
    (pets / "train" / "dog").mkdir()


def stray_file(pets: Path) -> None:
    (pets / "train" / "dog" / "photo.heic").write_text("x")


def one_class(pets: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            shutil.rmtree(pets / part / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_root, r"pets does not exist: put the images there as \{train,val,test\}/<class>/\*\{.jpeg,.*data.root=DIR"),
        (no_test, r"pets has no train folder beside a val or test folder: .*data.root=DIR"),
        (no_class, r"pets/test and .*pets/train must have the same class folders; only one of them has dog"),
        (empty_class, r"train/dog holds no image: put some there"),
        (
            stray_file,
            r"photo.heic is not an image of the allowed types .jpeg, .*: convert it, or move it out",
        ),
        (one_class, r"train has 1 class folders: at least two are needed"),
    ],
)
def test_a_wrong_image_folder_says_what_to_do(data_dir: Path, change: Callable[[Path], None], message: str) -> None:
    change(data_dir / "pets")
    with pytest.raises(CrossoverError, match=message):
        open_dataset(CONFIG, data_dir)


def test_hidden_files_are_no_images(data_dir: Path) -> None:
    (data_dir / "pets/train/dog/.DS_Store").write_text("x")
    (data_dir / "pets/train/.cache").mkdir()
    assert len(open_dataset(CONFIG, data_dir).labels) == 24


def write_tiny(root: Path) -> ImageData:
    """Write two classes of Tiny-ImageNet's layout; their ids are not in order in wnids.txt, as in the archive."""
    for number, wnid in enumerate(("n02", "n01")):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text("x")
        for i in range(4):
            Image.fromarray(picture(100 * number + i)).save(folder / f"{wnid}_{i}.JPEG", quality=95)
    (root / "val" / "images").mkdir(parents=True)
    for i in range(3):
        Image.new("L", (SIZE, SIZE), 10 * i).save(root / "val" / "images" / f"val_{i}.JPEG")
    (root / "val/val_annotations.txt").write_text(
        "".join(f"val_{i}.JPEG\tn0{1 + i % 2}\t0\t0\t5\t5\n" for i in range(3))
    )
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\ttabby\n")
    return ImageData(kind="tiny_imagenet", name="tiny", root=str(root), image_size=SIZE, val_fraction=0.25)


def test_tiny_imagenet_reads_the_public_layout_with_val_as_test_set(tmp_path: Path) -> None:
    dataset = open_dataset(write_tiny(tmp_path / "tiny"), tmp_path)
    assert dataset.classes == ("goldfish", "tabby")
    np.testing.assert_array_equal(dataset.labels, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(dataset.test_labels, [0, 1, 0])
    assert [int(image.mean()) for image in dataset.test_images] == [0, 10, 20]
    assert (len(dataset.pool), len(dataset.val)) == (6, 2)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (".", r"wnids.txt does not exist: unpack the public archive tiny-imagenet-200.zip there"),
        ("val/val_annotations.txt", r"val_annotations.txt does not exist: unpack"),
        ("val/images/val_1.JPEG", r"cannot read the image .*val_1.JPEG"),
        ("train/n02/images", r"train/n02 holds no image"),
    ],
)
def test_incomplete_tiny_imagenet_names_what_is_missing(tmp_path: Path, missing: str, message: str) -> None:
    config = write_tiny(tmp_path / "tiny")
    path = tmp_path / "tiny" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CrossoverError, match=message):
        open_dataset(config, tmp_path)


def test_a_builder_that_lost_its_lock_while_it_was_stopped_begins_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    write, calls = images._write, []

    def lose_once(raw: Any, config: Any, folder: Path, source: str | None) -> None:
        calls.append(folder)
        if len(calls) == 1:
            (held,) = folder.parent.glob(".*.lock")
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


def test_leftovers_of_killed_builders_go_when_stale(data_dir: Path) -> None:
    cache = data_dir / "cache"
    for name, age in (("old", images.STALE_SECONDS + 60), ("new", 0)):
        folder = cache / f".{name}.tmp"
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"x")
        for path in (folder / "images.npy", folder):
            os.utime(path, (time.time() - age,) * 2)
    open_dataset(CONFIG, data_dir)
    assert leftovers(data_dir) == [".new.tmp"]


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


def test_an_unreadable_raw_folder_is_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse_cats(path: str | Path = ".") -> Any:
        if Path(path).name == "cat":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_cats)
    with pytest.raises(CrossoverError, match=r"cannot read .*train/cat: Permission denied"):
        open_dataset(CONFIG, data_dir)


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


@pytest.mark.parametrize(("suffix", "exact"), [("webp", False), ("bmp", True), ("tiff", True), ("PNG", True)])
def test_images_of_the_usual_types_are_read(tmp_path: Path, suffix: str, exact: bool) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(CLASSES):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(picture(10 * label + i)).save(tmp_path / "pets" / part / name / f"{i}.{suffix}")
    dataset = open_dataset(CONFIG, tmp_path)
    assert dataset.images.shape == (6, SIZE, SIZE, 3)
    assert not exact or np.array_equal(dataset.images[3], picture(11))


def test_nested_folders_belong_to_their_class_and_other_files_are_told(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_dir / "pets/train/dog"
    (folder / "images").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "images" / path.name)
    (folder / "boxes.txt").write_text("1 2 3 4")
    dataset = open_dataset(CONFIG, data_dir)
    np.testing.assert_array_equal(dataset.images[8:16], [picture(100 + i) for i in range(8)])
    assert "1 files in" in (told := capsys.readouterr().err)
    assert "boxes.txt" in told


def test_a_test_folder_without_labels_gives_way_to_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pets(tmp_path, train=4, val=3)
    (tmp_path / "pets/test").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "pets/test/unknown.png")
    dataset = open_dataset(CONFIG, tmp_path)
    np.testing.assert_array_equal(dataset.test_images[0], picture(1000))
    assert "no labels" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "pets/val")
    with pytest.raises(CrossoverError, match="has no class folders, and so no labels; sort it, or add a labelled val"):
        open_dataset(CONFIG.model_copy(update={"name": "other"}), tmp_path)


@pytest.mark.parametrize("name", ["valid", "Validation", "dev"])
def test_the_usual_names_of_the_parts_are_read_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_pets(tmp_path, train=4, test=2, val=3)
    (tmp_path / "pets/val").rename(tmp_path / f"pets/{name}")
    assert len(open_dataset(CONFIG, tmp_path).val) == 9
    assert f"{name} is read as the val folder" in capsys.readouterr().err


def test_names_that_nearly_match_and_two_folders_for_a_part_are_told(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "pets/tests").mkdir()
    open_dataset(CONFIG, data_dir)
    assert "tests is not read; rename it if it is the test folder" in capsys.readouterr().err
    (data_dir / "pets/testing").mkdir()
    with pytest.raises(CrossoverError, match=r"pets/test and .*pets/testing are both the test folder"):
        open_dataset(CONFIG.model_copy(update={"name": "other"}), data_dir)


def test_class_names_are_text_however_they_are_spelled(tmp_path: Path) -> None:
    composed, parted, latin = "caf\u00e9", "cafe\u0301", os.fsdecode(b"th\xe9")
    for part, name in (("train", composed), ("test", parted)):
        for folder in (name, latin, "a"):
            (tmp_path / "pets" / part / folder).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(picture(i)).save(tmp_path / "pets" / part / folder / f"{i}.png")
    dataset = open_dataset(CONFIG, tmp_path)
    assert dataset.classes == ("a", composed, "th\u00e9")
    (tmp_path / "pets/train" / parted).mkdir()
    with pytest.raises(CrossoverError, match=r"two folders for the class caf\u00e9.*'cafe\\u0301' and 'caf\\xe9'"):
        open_dataset(CONFIG.model_copy(update={"name": "other"}), tmp_path)


def test_a_class_of_one_image_is_named(data_dir: Path) -> None:
    for path in sorted((data_dir / "pets/train/dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(CrossoverError, match="class dog has 1 training image: two are needed"):
        open_dataset(CONFIG, data_dir)


def test_tiny_imagenet_with_val_sorted_into_classes_is_read(tmp_path: Path) -> None:
    config = write_tiny(tmp_path / "tiny")
    val = tmp_path / "tiny/val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (val / wnid / "images").mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(val / wnid / "images" / name)
    (val / "val_annotations.txt").unlink()
    dataset = open_dataset(config, tmp_path)
    np.testing.assert_array_equal(dataset.test_labels, [0, 0, 1])
    assert [int(image.mean()) for image in dataset.test_images] == [0, 20, 10]
