"""What a fixed permutation of the patches is, and what it cannot do: a ViT with learned positions learns as before.

Its positions are all that knows of places, and at the start they are drawn alike. So a run on permuted images is, up to
rounding, the run on plain images whose start has its positions permuted alike, and that start is as likely as its own.
Over the seeds, every number of a run has the same distribution; tests/slow/test_permutation_slow.py has whole runs.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import cache_folder, open_dataset
from crossover.data.loader import EvalBatches, Images, Normaliser, TrainBatches
from crossover.data.subsets import pixel_order
from crossover.fields import ModelConfig, PermuteConfig
from crossover.training.models import build_model
from crossover.training.module import Classifier
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
    expected = Normaliser(torch.ones(3), torch.ones(3), torch.from_numpy(pixel_order(permuted.data.permute, 16)))
    augment = plain.augment.model_copy(update={"crop": 2})
    batches = []
    for dataset in datasets:
        images = Images(dataset, dataset.pool, CPU, 1)
        train = TrainBatches(images, augment, batch_size=8, seed=0).at(3)[0]
        batches.append((train, next(iter(EvalBatches(images, batch_size=8)))[0]))
    for before, after in zip(*batches, strict=True):
        torch.testing.assert_close(after, expected.permute(before), rtol=0, atol=0)
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
    with pytest.raises(CrossoverError, match=r"data.permute.patch=5 must divide data.image_size=16"):
        small_run(tmp_path, data__permute={"kind": "patches", "patch": 5})


def build(run: RunConfig, seed: int = 0) -> Any:
    """Return the network of a run, untrained."""
    torch.manual_seed(seed)
    return build_model(run.model, image_size=16, classes=10)


def losses(run: RunConfig, network: Any, folder: Path, steps: int = 12) -> np.ndarray:
    """Return the summed loss after each of some steps of a run, and then the validation loss, computed in float64."""
    dataset = open_dataset(run.data, folder)
    images = Images(dataset, dataset.pool[: run.n_train], CPU, 1)
    batches = TrainBatches(images, run.augment, batch_size=run.recipe.batch_size, seed=run.seed)
    module = Classifier(network.double(), run.recipe, batches, total_steps=steps)
    module.configure_optimizers()
    module._train = torch.zeros(3, dtype=torch.float64)
    module.manual_backward = Tensor.backward  # type: ignore[method-assign]
    found = []
    for step in range(steps):
        x, target = batches.at(step)
        module.update(network, x.double(), target)
        found.append(float(module._train[0]))
    held_out = Images(dataset, dataset.val, CPU, 1)
    with torch.no_grad():
        for x, target in EvalBatches(held_out, batch_size=100):
            found.append(float(cross_entropy(network.eval()(x.double()), target)))
    return np.array(found)


def pair(folder: Path, **changes: Any) -> tuple[RunConfig, RunConfig]:
    """Return a run on plain and one on permuted images, with all that a step may have: crops, flips, decay, a clip."""
    recipe = {"name": "t", "optimizer": "adamw", "lr": 0.01, "batch_size": 16, "weight_decay": 0.5, "grad_clip": 1.0}
    changes |= {"recipe": recipe, "augment": {"name": "crop_flip", "crop": 4, "flip": True}}
    return small_run(folder, **changes), small_run(folder, **changes, data__permute={"kind": "patches"})


def test_a_vit_learns_permuted_images_like_plain_ones_when_its_positions_start_permuted_alike(tmp_path: Path) -> None:
    plain, permuted = pair(tmp_path, model=VIT)
    order = pixel_order(permuted.data.permute, 16)
    assert order is not None
    corner = order.reshape(4, 4, 4, 4)[:, 0, :, 0].reshape(-1)  # the pixel that each patch's first is filled from
    source = torch.from_numpy(corner // 16 // 4 * 4 + corner % 16 // 4)
    network = build(permuted)
    with torch.no_grad():
        network.pos_embed[:] = network.pos_embed[:, source]
    found = losses(plain, build(plain), tmp_path)
    np.testing.assert_allclose(losses(permuted, network, tmp_path), found, rtol=0, atol=1e-9)
    assert np.abs(losses(permuted, build(permuted), tmp_path) - found).max() > 1e-4, "the permutation is felt"


def test_a_resnet_learns_permuted_images_otherwise(tmp_path: Path) -> None:
    plain, permuted = pair(tmp_path)
    difference = losses(permuted, build(permuted), tmp_path) - losses(plain, build(plain), tmp_path)
    assert np.abs(difference).max() > 0.01


def test_only_the_positions_of_a_vit_know_places_and_they_start_alike() -> None:
    config = ModelConfig.model_validate(VIT)
    small, large = (dict(build_model(config, image_size=s, classes=10).named_parameters()) for s in (16, 32))
    assert [name for name in small if small[name].shape != large[name].shape] == ["pos_embed"]
    torch.manual_seed(0)
    networks: list[Any] = [build_model(config, image_size=16, classes=10) for _ in range(200)]
    drawn = torch.stack([network.pos_embed[0].detach() for network in networks])
    values = drawn.transpose(0, 1).flatten(1)  # (places, 200 x 16), four standard errors of a mean are 0.035
    torch.testing.assert_close(values.mean(1), torch.zeros(16), atol=0.036, rtol=0)
    torch.testing.assert_close(values.std(1), torch.full((16,), 0.5), atol=0.025, rtol=0)
    between = torch.corrcoef(values)
    assert (between - torch.eye(16)).abs().max() < 0.08, "independent of each other"
