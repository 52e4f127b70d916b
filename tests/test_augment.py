import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad
from torchvision.transforms import RandomErasing, RandomResizedCrop
from torchvision.transforms.functional import normalize
from torchvision.transforms.functional import resized_crop as resized

from crossover.data.augment import EACH, Draws, crop_and_flip, erase, mix, rectangles, resized_crop, strengths
from crossover.data.loader import Normaliser, augment
from crossover.fields import AugmentConfig

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
normalise = Normaliser(MEAN, STD)
ALL = {"crop": 2, "flip": True, "policy": "randaugment", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0}
SHIPPED = sorted((Path(__file__).parents[1] / "conf" / "augment").glob("*.yaml"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seeded(seed), count)


def pictures(count: int, size: int = 8) -> Tensor:
    """Return noise, uint8 (count, size, size, 3), without zeros."""
    return torch.randint(1, 256, (count, size, size, 3), generator=seeded(7)).to(torch.uint8)


def run(images: Tensor, labels: Tensor, seed: int = 0, **config: Any) -> tuple[Tensor, Tensor]:
    settings = AugmentConfig(**({"name": "test"} | config))
    return augment(images, labels, settings, classes=10, normalise=normalise, draws=draws(len(images), seed))


def test_normalise_equals_torchvision_image_by_image() -> None:
    images = pictures(5)
    expected = [normalize(image.permute(2, 0, 1) / 255, MEAN.tolist(), STD.tolist()) for image in images]
    torch.testing.assert_close(normalise(images), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True)])
def test_each_image_gets_one_of_its_crops_and_flips_all_equally_often(padding: int, flip: bool) -> None:
    images = pictures(2000)
    out = crop_and_flip(images, padding, flip, draws(len(images)))
    padded = pad(images, (0, 0, padding, padding, padding, padding))
    hits = []
    for top, left, mirror in itertools.product(range(2 * padding + 1), range(2 * padding + 1), (False, True)):
        candidate = padded[:, top : top + 8, left : left + 8]
        candidate = candidate.flip(2) if mirror else candidate
        if flip or not mirror:
            hits.append((candidate == out).flatten(1).all(dim=1))
    counts = torch.stack(hits).int()
    assert (counts.sum(dim=0) == 1).all()
    assert stats.chisquare(counts.sum(dim=1).numpy()).pvalue > 0.001


def parts_by_torchvision(images: Tensor, boxes: list[Tensor]) -> Tensor:
    size = [images.shape[1]] * 2
    parts = zip(images.permute(0, 3, 1, 2).float(), *(box.int().tolist() for box in boxes), strict=True)
    return torch.stack([resized(image, *box, size=size, antialias=True) for image, *box in parts])


def test_a_resized_crop_equals_torchvision_on_each_image() -> None:
    images = pictures(200, 24)
    top, left, tall, wide, fits = rectangles(draws(200), (24, 24), (0.08, 1), (3 / 4, 4 / 3), (24, 24))
    assert fits.all()
    expected = parts_by_torchvision(images, [top, left, tall, wide])
    out = resized_crop(images, 0.08, draws(200)).permute(0, 3, 1, 2).float()
    assert (out - expected).abs().max() <= 0.501  # rounded to whole values
    assert (out - expected).abs().mean() < 0.26


def test_an_image_without_a_fitting_crop_is_taken_whole() -> None:
    images = pictures(200, 24)
    *_, fits = rectangles(draws(200), (24, 24), (1, 1), (3 / 4, 4 / 3), (24, 24))
    assert 0 < fits.sum() < 200
    assert torch.equal(resized_crop(images, 1.0, draws(200))[~fits], images[~fits])


def test_resized_crops_are_distributed_as_in_torchvision() -> None:
    *ours, fits = rectangles(draws(3000), (24, 24), (0.08, 1), (3 / 4, 4 / 3), (24, 24))
    torch.manual_seed(0)
    image = torch.zeros(3, 24, 24)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    for column, values in enumerate(ours):
        assert stats.ks_2samp(values[fits].tolist(), [float(box[column]) for box in theirs]).pvalue > 0.001
    areas = [(ours[2] * ours[3]).numpy(), np.array([box[2] * box[3] for box in theirs])]
    assert stats.ks_2samp(areas[0], areas[1]).pvalue > 0.001


def erased(x: Tensor) -> list[tuple[int, int, int, int] | None]:
    """Return top, left, height and width of each image's erased rectangle; fail when it is not one."""
    boxes: list[tuple[int, int, int, int] | None] = []
    for mask in (x == 0).all(dim=1):
        at = mask.nonzero()
        if len(at) == 0:
            boxes.append(None)
            continue
        (top, left), (bottom, right) = at.amin(dim=0).tolist(), at.amax(dim=0).tolist()
        assert mask[top : bottom + 1, left : right + 1].all()
        assert len(at) == (bottom - top + 1) * (right - left + 1)
        boxes.append((top, left, bottom - top + 1, right - left + 1))
    return boxes


@pytest.mark.parametrize("shape", [(32, 32), (16, 64)])
def test_erased_rectangles_are_distributed_as_in_torchvision(shape: tuple[int, int]) -> None:
    x = torch.ones(3000, 3, *shape)
    boxes = [box for box in erased(erase(x, 1.0, draws(len(x)))) if box]
    assert len(boxes) == 3000
    torch.manual_seed(0)
    reference = [RandomErasing.get_params(x[0], (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(3000)]
    for column in range(4):
        ours, theirs = ([box[column] for box in part] for part in (boxes, reference))
        assert stats.ks_2samp(ours, theirs).pvalue > 0.001
    assert stats.ks_2samp([h * w for *_, h, w in boxes], [h * w for *_, h, w in reference]).pvalue > 0.001
    assert all(0.015 < h * w / 1024 < 0.345 and 0.2 < h / w < 5 for *_, h, w in boxes)


def test_erasing_hits_the_stated_share_and_changes_nothing_else() -> None:
    x = torch.rand((2000, 3, 16, 16), generator=seeded()) + 0.1
    out = erase(x, 0.25, draws(len(x)))
    boxes = erased(out)
    assert abs(sum(box is not None for box in boxes) / 2000 - 0.25) < 0.03
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept], rtol=0, atol=0)


def test_erased_pixels_are_zero_after_normalisation() -> None:
    out, _ = run(pictures(50, 16), torch.zeros(50, dtype=torch.long), erase=1.0)
    assert len([box for box in erased(out) if box]) == 50


def own_share(targets: Tensor, labels: Tensor) -> Tensor:
    return targets.gather(1, labels[:, None])[:, 0]


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0])
def test_mixup_blends_images_and_targets_by_a_beta_of_each_image(alpha: float) -> None:
    labels = torch.arange(4000) % 10
    x = torch.rand((4000, 3, 4, 4), generator=seeded(1))
    out, targets = mix(x, labels, AugmentConfig(name="x", mixup=alpha), 10, draws(len(x)))
    ratio = own_share(targets, labels)
    weight = ratio[:, None, None, None]
    torch.testing.assert_close(out, weight * x + (1 - weight) * x.roll(1, 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own_share(targets, labels.roll(1)), 1 - ratio, rtol=0, atol=1e-6)
    assert stats.kstest(ratio.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_cutmix_pastes_a_rectangle_and_weighs_targets_by_its_area() -> None:
    size, labels = 16, torch.arange(3000) % 10
    x = torch.rand((3000, 3, size, size), generator=seeded(1))
    out, targets = mix(x, labels, AugmentConfig(name="x", cutmix=1.0), 10, draws(len(x)))
    own, pasted = ((out - source).abs().amax(dim=1) < 1e-6 for source in (x, x.roll(1, 0)))
    assert (own ^ pasted).all()
    boxes = erased(own[:, None].float())
    assert len({box for box in boxes if box}) > 500
    area = torch.tensor([0 if box is None else box[2] * box[3] for box in boxes]) / size**2
    torch.testing.assert_close(own_share(targets, labels), 1 - area, rtol=0, atol=1e-6)
    assert abs(float(area.mean()) - cutmix_reference(size)) < 0.015


def cutmix_reference(size: int) -> float:
    """Return the mean area of CutMix boxes at alpha 1, drawn one by one as torchvision does."""
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(20_000):
        half = int(size * math.sqrt(1 - rng.beta(1.0, 1.0)) / 2)
        ends = [(max(c - half, 0), min(c + half, size)) for c in rng.integers(size, size=2)]
        areas.append(math.prod(high - low for low, high in ends) / size**2)
    return float(np.mean(areas))


def test_with_both_each_image_gets_mixup_or_cutmix() -> None:
    x = torch.rand((2000, 3, 16, 16), generator=seeded(1))
    out, _ = mix(x, torch.arange(2000) % 10, AugmentConfig(name="x", mixup=0.8, cutmix=1.0), 10, draws(len(x)))
    own, pasted = ((out - source).abs().amax(dim=1) < 1e-6 for source in (x, x.roll(1, 0)))
    cut = (own | pasted).flatten(1).all(dim=1).float().mean()
    assert abs(cut - 0.5) < 0.04


@pytest.mark.parametrize("config", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 0.5}])
def test_soft_targets_are_probabilities(config: dict[str, Any]) -> None:
    labels = torch.arange(200) % 10
    _, targets = run(pictures(200), labels, **config)
    assert (targets.shape, targets.dtype) == ((200, 10), torch.float32)
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(200), rtol=0, atol=1e-6)


def test_without_mixing_labels_stay_as_they_are() -> None:
    labels = torch.arange(20) % 10
    _, targets = run(pictures(20), labels, crop=2, flip=True, policy="randaugment", erase=0.5)
    assert torch.equal(targets, labels)
    assert targets.dtype == torch.int64


def test_the_same_image_twice_in_a_batch_gets_different_draws() -> None:
    twice = pictures(1, 16).expand(40, -1, -1, -1).contiguous()
    labels = torch.zeros(40, dtype=torch.long)
    settings: list[tuple[dict[str, Any], int]] = [
        ({"crop": 4}, 25),
        ({"min_area": 0.08}, 38),
        ({"policy": "trivialaugment"}, 20),
        ({"policy": "randaugment"}, 20),
        ({"erase": 1.0}, 25),
    ]
    for config, distinct in settings:
        out, _ = run(twice, labels, **config)
        assert len(out.flatten(1).unique(dim=0)) > distinct
    _, targets = run(twice, torch.arange(40) % 10, mixup=0.8, cutmix=1.0)
    assert len(own_share(targets, torch.arange(40) % 10).unique()) > 25


def shipped(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_augmentation_is_a_function_of_the_generator_alone(path: Path) -> None:
    images, labels = pictures(32, 16), torch.arange(32) % 10
    before, state = images.clone(), torch.get_rng_state()
    config = shipped(path)
    first, again, other = (run(images, labels, seed, **config) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0], other[0]) == (path.stem == "none")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_augmentation_gives_finite_channels_last_floats(path: Path) -> None:
    out, targets = run(pictures(32, 16), torch.arange(32) % 10, **shipped(path))
    assert (out.shape, out.dtype) == ((32, 3, 16, 16), torch.float32)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.isfinite().all()
    assert targets.isfinite().all()


def test_the_order_is_crop_and_flip_then_policy_then_normalise() -> None:
    images, labels = pictures(300, 16), torch.zeros(300, dtype=torch.long)
    out, _ = run(images, labels, crop=4, flip=True)
    torch.testing.assert_close(out, normalise(crop_and_flip(images, 4, True, draws(len(images)))), rtol=0, atol=0)
    black = normalise(torch.zeros_like(images))
    solarized, _ = run(torch.zeros_like(images), labels, policy="randaugment", policy_ops=1, policy_magnitude=30)
    assert (solarized != black).any()  # the policy works on pixel values, before normalisation


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_standard_gamma", "Meta"),
    reason="this torch cannot draw a mixing weight on a fake GPU; tests/gpu has the test on a real one",
)
@pytest.mark.parametrize("config", [ALL, {"min_area": 0.08, "policy": "trivialaugment", "cutmix": 1.0}])
def test_on_a_gpu_nothing_is_read_back(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    """It would make every step wait for the device, and fail a capture; fake tensors refuse it."""

    def drawn(of: Draws, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        return draw(tuple(of.count if n == EACH else n for n in shape), device="cuda", generator=None)

    monkeypatch.setattr(Draws, "_draw", drawn)
    monkeypatch.setattr("crossover.data.augment.strengths", strengths.__wrapped__)  # keeps no fake table
    settings = AugmentConfig(**({"name": "test"} | config))
    with FakeTensorMode(), torch.device("cuda"):
        images, labels = torch.empty(4, 16, 16, 3, dtype=torch.uint8), torch.empty(4, dtype=torch.long)
        given = Normaliser(torch.ones(3), torch.ones(3))
        x, _ = augment(images, labels, settings, classes=10, normalise=given, draws=Draws(torch.Generator("cpu"), 4))
    assert x.is_cuda
    assert x.shape == (4, 3, 16, 16)
