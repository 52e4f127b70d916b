"""Claims about the folders of an image folder: their names, links, and what else lies in them."""

import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from tests.pets import CONFIG, picture, write_pets

Part = Literal["train", "val", "test"]


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
    assert "(1, such as boxes.txt)" in (told := capsys.readouterr().err)
    assert "boxes.txt" in told


def test_a_test_folder_without_labels_gives_way_to_val(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pets(tmp_path, train=4, val=3)
    (tmp_path / "pets/test").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "pets/test/unknown.png")
    dataset = open_dataset(CONFIG, tmp_path)
    np.testing.assert_array_equal(dataset.test_images[0], picture(1000))
    assert "no labels" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "pets/val")
    with pytest.raises(CrossoverError, match=r"lacks a train folder beside a labelled val .*is test, train\)"):
        open_dataset(CONFIG.model_copy(update={"name": "other"}), tmp_path)


@pytest.mark.parametrize("name", ["valid", "Validation", "dev"])
def test_the_usual_names_of_the_parts_are_read_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write_pets(tmp_path, train=4, test=2, val=3)
    (tmp_path / "pets/val").rename(tmp_path / f"pets/{name}")
    assert len(open_dataset(CONFIG, tmp_path).val) == 9
    assert f"{name} is read as the val folder" in capsys.readouterr().err


def test_other_folders_and_two_folders_for_a_part_are_told(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_dir / "pets/tests").mkdir()
    open_dataset(CONFIG, data_dir)
    assert "tests is not read: it is no train, val or test folder by its name" in capsys.readouterr().err
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
    with pytest.raises(CrossoverError, match=r"has the folder 'caf\\xe9', whose name cannot be read or told apart"):
        open_dataset(CONFIG.model_copy(update={"name": "other"}), tmp_path)


def test_a_class_of_one_image_is_named(data_dir: Path) -> None:
    for path in sorted((data_dir / "pets/train/dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(CrossoverError, match="class dog has 1 training image: two are needed"):
        open_dataset(CONFIG, data_dir)


def test_linked_folders_are_read_once_and_watched_for_changes(data_dir: Path) -> None:
    """A linked class, linked images in a class, and a link that leads back to its own folder."""
    root, elsewhere = data_dir / "pets" / "train", data_dir / "elsewhere"
    (root / "dog").rename(elsewhere)
    (root / "dog").symlink_to(elsewhere)
    (data_dir / "more").mkdir()
    Image.fromarray(picture(7)).save(data_dir / "more" / "x.png")
    (root / "cat" / "more").symlink_to(data_dir / "more")
    (root / "cat" / "again").symlink_to(root / "cat")
    dataset = open_dataset(CONFIG, data_dir)
    assert np.bincount(dataset.labels).tolist() == [9, 8, 8]
    Image.fromarray(picture(8)).save(elsewhere / "000.png", compress_level=0)
    with pytest.raises(CrossoverError, match="the files of pets have changed since"):
        open_dataset(CONFIG, data_dir, verify=True)


def test_a_linked_cache_within_the_data_folder_is_not_part_of_the_data(tmp_path: Path) -> None:
    write_pets(tmp_path, train=4, test=2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "pets" / "cache").symlink_to(elsewhere)
    config = CONFIG.model_copy(update={"root": "."})
    open_dataset(config, tmp_path / "pets")
    assert list(elsewhere.iterdir())
    open_dataset(config, tmp_path / "pets", verify=True)  # nothing has changed


@pytest.mark.parametrize("target", ["nowhere.png", "x.png"], ids=["to nothing", "to itself"])
def test_a_link_without_an_image_is_named(data_dir: Path, target: str) -> None:
    (data_dir / "pets/train/cat/x.png").symlink_to(target)
    with pytest.raises(CrossoverError, match=r"cannot read the image .*cat/x\.png"):
        open_dataset(CONFIG, data_dir)


def test_a_named_pipe_is_not_waited_for(data_dir: Path) -> None:
    os.mkfifo(data_dir / "pets/train/cat/x.png")
    with pytest.raises(CrossoverError, match=r"cannot read the image .*cat/x\.png \(a named pipe\)"):
        open_dataset(CONFIG, data_dir)


def test_images_beside_the_folders_of_classes_are_told(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(7)).save(data_dir / "pets/train/loose.png")
    open_dataset(CONFIG, data_dir)
    said = f"note: images directly in {data_dir}/pets/train have no class and are left out (1, such as loose.png)"
    assert said in capsys.readouterr().err.splitlines()


def test_names_of_classes_can_be_read_and_told_apart(data_dir: Path) -> None:
    for part in ("train", "test"):
        (data_dir / "pets" / part / "emu").rename(data_dir / "pets" / part / "e\u202em\nu ")
    assert open_dataset(CONFIG, data_dir).classes == ("cat", "dog", "em u")
    (data_dir / "pets/train/cat ").mkdir()
    with pytest.raises(CrossoverError, match=r"has the folder 'cat ', whose name cannot be read or told apart"):
        open_dataset(CONFIG.model_copy(update={"name": "a"}), data_dir)
    (data_dir / "pets/train/cat ").rename(data_dir / "pets/train/ ")
    with pytest.raises(CrossoverError, match=r"has the folder ' ', whose name cannot be read or told apart"):
        open_dataset(CONFIG.model_copy(update={"name": "a"}), data_dir)


def test_a_misspelt_train_folder_is_told(data_dir: Path) -> None:
    (data_dir / "pets/train").rename(data_dir / "pets/trian")
    with pytest.raises(CrossoverError, match=r"lacks a train folder beside .* \(there is test, trian\)"):
        open_dataset(CONFIG, data_dir)
