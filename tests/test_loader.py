from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossover.data import loader
from crossover.data.cache import open_dataset
from crossover.data.loader import EvalBatches, Images, TrainBatches, index_stream
from crossover.fields import AugmentConfig
from tests.worlds import small_run

CPU = torch.device("cpu")


def test_each_pass_of_the_stream_holds_every_image_once() -> None:
    stream = index_stream(seed=0, n=10, start=0, count=30)
    for start in (0, 10, 20):
        assert sorted(stream[start : start + 10]) == list(range(10))
    assert list(stream[:10]) != list(stream[10:20])


def test_stream_depends_on_seed_and_position_alone() -> None:
    whole = index_stream(seed=3, n=7, start=0, count=100)
    np.testing.assert_array_equal(index_stream(seed=3, n=7, start=41, count=20), whole[41:61])
    assert (index_stream(seed=4, n=7, start=0, count=100) != whole).any()


def test_the_stream_is_one_permutation_after_another() -> None:
    passes = [np.random.default_rng([5, 0, number]).permutation(9) for number in range(4)]
    whole = np.concatenate(passes)
    for start, count in ((0, 3), (7, 4), (8, 1), (9, 9), (4, 31)):
        np.testing.assert_array_equal(index_stream(5, 9, start, count), whole[start : start + count])


def test_a_batch_larger_than_the_subset_repeats_it() -> None:
    assert np.bincount(index_stream(seed=0, n=3, start=0, count=64)).tolist() in (
        [22, 21, 21],
        [21, 22, 21],
        [21, 21, 22],
    )


def test_resident_and_streamed_batches_are_equal(tmp_path: Path) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    indices = dataset.pool[::3]
    batches = []
    for limit in (1e9, 0):
        images = Images(dataset, indices, CPU, limit)
        assert images.resident == (limit > 0)
        config = AugmentConfig(name="crop_flip", crop=2, flip=True)
        batches.append(TrainBatches(images, config, batch_size=32, seed=1).at(17))
    for one, other in zip(*batches, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_batch_has_the_right_images_normalised_and_channels_last(tmp_path: Path) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    images = Images(dataset, dataset.pool, CPU, 1)
    x, labels = TrainBatches(images, AugmentConfig(name="none"), batch_size=8, seed=0).at(5)
    picked = index_stream(0, len(dataset.pool), 40, 8)
    expected = (dataset.images[picked] / 255 - dataset.mean) / dataset.std
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)
    np.testing.assert_array_equal(labels.numpy(), dataset.labels[picked])
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_goes_through_all_images_in_order_and_again(tmp_path: Path) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    batches = EvalBatches(Images(dataset, dataset.val, CPU, 1), batch_size=33)
    for _ in range(2):
        labels = torch.cat([labels for _, labels in batches])
        np.testing.assert_array_equal(labels.numpy(), dataset.labels[dataset.val])
    assert len(batches) == 4


def test_images_stream_when_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    size = len(dataset.pool) * 16 * 16 * 3
    for free, resident in ((3.9 * size, False), (4.1 * size, True)):
        monkeypatch.setattr(loader, "free_bytes", lambda device, free=free: free)
        assert Images(dataset, dataset.pool, CPU, 1).resident == resident


def test_free_memory_is_read_from_the_machine() -> None:
    assert 1e7 < loader.free_bytes(CPU) < 1e14


@pytest.mark.parametrize(
    "config",
    [
        {"crop": 2, "flip": True, "mixup": 0.8},
        {"min_area": 0.1, "policy": "trivialaugment", "erase": 0.5, "mixup": 0.2, "cutmix": 1.0},
        {"crop": 2, "policy": "randaugment"},
    ],
)
def test_processes_that_share_a_run_see_every_row_and_every_image_once(tmp_path: Path, config: dict[str, Any]) -> None:
    dataset = open_dataset(small_run(tmp_path).data, tmp_path)
    images = Images(dataset, dataset.pool, CPU, 1)
    augment = AugmentConfig(name="a", **config)
    whole = TrainBatches(images, augment, batch_size=12, seed=0).at(3)
    rows = [slice(0, 4), slice(4, 8), slice(8, 12)]
    shares = [TrainBatches(images, augment, batch_size=12, seed=0, rows=r) for r in rows]
    for one, other in zip(whole, map(torch.cat, zip(*(share.at(3) for share in shares), strict=True)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert {len(share.raw(3)[1]) for share in shares} == {4 + augment.mixes}  # and the neighbour it is mixed with
    val = Images(dataset, dataset.val, CPU, 1)
    parts = [EvalBatches(val, batch_size=33, share=(rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    assert sum(len(labels) for part in parts for _, labels in part) == len(dataset.val)
