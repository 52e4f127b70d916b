"""Claims about Tiny-ImageNet: its public layout, and one sorted into classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.fields import ImageData
from tests.pets import SIZE, picture


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
