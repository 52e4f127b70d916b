"""Claims about an image folder: what is read from it, in which order, and what is refused."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from crossover.config import CrossoverError
from crossover.data.cache import decode, open_dataset
from tests.pets import CLASSES, CONFIG, SIZE, picture, write_pets

Part = Literal["train", "val", "test"]


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
    monkeypatch.setattr("crossover.text.TELL_SECONDS", -1)
    open_dataset(CONFIG, data_dir, verify=True)
    lines = capsys.readouterr().err.splitlines()
    root = data_dir / "pets"
    assert f"classes of {root / 'train'} listed: 3 of 3, 0 s left" in lines
    assert lines[-1] == f"files of {root} compared with the cache: 33"


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
        (
            no_test,
            r"pets lacks a train folder beside a labelled val or test folder \(there is train\): .*data.root=DIR",
        ),
        (no_class, r"pets/test and .*pets/train must have the same class folders; only one of them has dog"),
        (empty_class, r"train/dog holds no image: put some there"),
        (
            stray_file,
            r"photo.heic is not an image of the allowed types .jpeg, .*: convert it, or move it out",
        ),
        (one_class, r"train has 1 class folders: it needs two"),
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


def test_an_unreadable_raw_folder_is_one_line(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refuse_cats(path: str | Path | int = ".") -> Any:
        if not isinstance(path, int) and Path(path).name == "cat":  # a number: of the folder that is removed
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse_cats)
    with pytest.raises(CrossoverError, match=r"cannot read .*train/cat: Permission denied"):
        open_dataset(CONFIG, data_dir)


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


def test_pixels_of_16_bits_are_to_be_converted(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "x.png")
    with pytest.raises(CrossoverError, match=r"x\.png \(its pixels are of type I;16, not of 8 bits a channel\)"):
        decode(tmp_path / "x.png", 16)
