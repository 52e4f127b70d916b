from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossover.config import CrossoverError, PermuteConfig
from crossover.data.augment import permute
from crossover.data.images import cache_folder, open_dataset
from crossover.data.loader import EvalBatches, Images, TrainBatches
from crossover.data.permute import pixel_order
from tests.worlds import VIT, small_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "side"), [("patches", 4), ("pixels", 1)])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_share_of_patches_moves_whole_and_the_rest_stays(kind: str, side: int, share: float) -> None:
    order = pixel_order(PermuteConfig(kind=kind, share=share), 16)  # type: ignore[arg-type]
    assert order is not None
    assert sorted(order) == list(range(256))
    moved = (order != np.arange(256)).reshape(16 // side, side, 16 // side, side).swapaxes(1, 2).reshape(-1, side**2)
    assert set(moved.mean(1)) <= {0.0, 1.0}
    assert moved.any(1).mean() == share
    columns = (order.reshape(16, 16) % side).reshape(-1, side)
    assert (columns == np.arange(side)).all(), "the inside of a patch keeps its order"


def test_a_larger_share_moves_what_a_smaller_one_moves_and_seeds_differ() -> None:
    orders = [pixel_order(PermuteConfig(kind="patches", share=s), 16) for s in (0.5, 1.0)]
    small, large = ({*np.flatnonzero(o != np.arange(256))} for o in orders if o is not None)
    assert small < large
    orders = [pixel_order(PermuteConfig(kind="pixels", seed=seed), 16) for seed in (0, 0, 1)]
    first, again, other = (order.tolist() for order in orders if order is not None)
    assert first == again != other
    assert pixel_order(PermuteConfig(), 16) is None


def test_batches_are_the_plain_ones_permuted_after_augmentation_and_the_cache_is_shared(tmp_path: Path) -> None:
    plain, permuted = small_run(tmp_path), small_run(tmp_path, data__permute={"kind": "patches"})
    assert cache_folder(plain.data, tmp_path) == cache_folder(permuted.data, tmp_path)
    datasets = [open_dataset(run.data, tmp_path) for run in (plain, permuted)]
    order = torch.from_numpy(pixel_order(permuted.data.permute, 16))
    augment = plain.augment.model_copy(update={"crop": 2})
    batches = []
    for dataset in datasets:
        images = Images(dataset.images, dataset.labels, dataset.pool, CPU, 1e9)
        train = TrainBatches(images, dataset, augment, batch_size=8, seed=0).at(3)[0]
        batches.append((train, next(iter(EvalBatches(images, dataset, batch_size=8)))[0]))
    for before, after in zip(*batches, strict=True):
        torch.testing.assert_close(after, permute(before, order), rtol=0, atol=0)
        assert not torch.equal(after, before)
        assert after.is_contiguous(memory_format=torch.channels_last)
    assert replace(datasets[1], order=None).order is datasets[0].order


def test_permuted_images_are_another_dataset_with_other_runs(tmp_path: Path) -> None:
    runs = [small_run(tmp_path, model=VIT, data__permute=p) for p in ({}, {"kind": "pixels"}, {"kind": "none"})]
    assert runs[0].run_id == runs[2].run_id == small_run(tmp_path, model=VIT).run_id
    assert runs[0].run_id != runs[1].run_id
    assert runs[1].dataset == "cues-pixels"
    assert small_run(tmp_path, data__permute={"kind": "patches", "share": 0.5}).dataset == "cues-patches0.5"


def test_patches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match=r"data.permute.patch=5 does not divide data.image_size=16"):
        small_run(tmp_path, data__permute={"kind": "patches", "patch": 5})
