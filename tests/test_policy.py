"""RandAugment and TrivialAugment against torchvision, applied image by image with the same parameters."""

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from crossover.data import augment
from crossover.data.augment import BINS, GEOMETRIC, OPERATIONS, SIGNED, Draws, apply_operations, apply_policy, strengths
from crossover.fields import AugmentConfig

CPU = torch.device("cpu")
SPACES = {
    "randaugment": v2.RandAugment._AUGMENTATION_SPACE,
    "trivialaugment": v2.TrivialAugmentWide._AUGMENTATION_SPACE,
}


def pictures(count: int, height: int = 16, width: int = 16) -> Tensor:
    """Return smooth images with some noise, uint8 (count, 3, height, width), values in 25..225."""
    generator = torch.Generator().manual_seed(count)
    coarse = 150 * torch.rand((count, 3, 4, 4), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (25 + smooth + 50 * torch.rand((count, 3, height, width), generator=generator)).to(torch.uint8)


def by_torchvision(x: Tensor, name: str, strength: Tensor) -> Tensor:
    apply = v2.RandAugment()._apply_image_or_video_transform
    scale = 255.0 if name == "Solarize" else 1.0
    images = [
        apply(image, name, float(s) / scale, InterpolationMode.NEAREST, {})
        for image, s in zip(x, strength, strict=True)
    ]
    return torch.stack(images)


@pytest.mark.parametrize("policy", SPACES)
def test_strengths_and_signs_are_those_of_torchvision(policy: str) -> None:
    table = strengths(policy, 24, 40, CPU)
    assert set(OPERATIONS) == set(SPACES[policy])
    for number, name in enumerate(OPERATIONS):
        magnitudes, signed = SPACES[policy][name]
        expected = magnitudes(BINS, 24, 40)
        expected = torch.zeros(BINS) if expected is None else expected.float() * (255 if name == "Solarize" else 1)
        torch.testing.assert_close(table[number], expected, rtol=1e-6, atol=1e-6)
        assert signed == (number < SIGNED)


@pytest.mark.parametrize("policy", SPACES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(16, 16), (12, 24)])
def test_operation_equals_torchvision_on_each_image(policy: str, name: str, shape: tuple[int, int]) -> None:
    number = OPERATIONS.index(name)
    strength = strengths(policy, *shape, CPU)[number, ::3]
    strength = torch.cat([strength, -strength if number < SIGNED else strength])
    x = pictures(len(strength), *shape)
    changed = apply_operations(x, torch.full((len(x),), number), strength)
    differing = (changed != by_torchvision(x, name, strength)).float().mean()
    # geometric: a coordinate half-way between two pixels may round either way; the others are exact
    assert differing <= (0.002 if name in GEOMETRIC else 0)
    assert name == "Identity" or not torch.equal(changed, x)


def test_each_image_of_a_mixed_batch_gets_its_own_operation() -> None:
    which = torch.arange(len(OPERATIONS)).flip(0).repeat(2)
    strength = strengths("randaugment", 16, 16, CPU)[which, 20]
    x = pictures(len(which))
    changed = apply_operations(x, which, strength)
    for i, number in enumerate(which.tolist()):
        alone = apply_operations(x[i : i + 1], which[i : i + 1], strength[i : i + 1])
        torch.testing.assert_close(changed[i : i + 1], alone, rtol=0, atol=0)
        expected = by_torchvision(x[i : i + 1], OPERATIONS[number], strength[i : i + 1])
        assert (alone != expected).float().mean() <= 0.002


def test_operations_computed_for_all_images_give_what_picking_them_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    which = torch.arange(len(OPERATIONS)).repeat(4)
    strength = strengths("trivialaugment", 16, 16, CPU)[which, torch.arange(len(which)) % BINS]
    x = pictures(len(which))
    picked = apply_operations(x, which, strength)
    monkeypatch.setattr(augment, "picks", lambda x: False)
    assert torch.equal(apply_operations(x, which, strength), picked)


def drawn(x: Tensor, changed: Tensor, policy: str, levels: list[int]) -> list[tuple[int, int, int]]:
    """Return (operation, level, sign) that turns each image of x into that of `changed`; fail when there is none."""
    table = strengths(policy, *x.shape[2:], CPU)
    found: dict[int, tuple[int, int, int]] = {}
    for number in range(len(OPERATIONS)):
        dials = list(itertools.product(levels, (1, -1) if number < SIGNED else (1,)))
        strength = torch.stack([table[number, level] * sign for level, sign in dials]).repeat(len(x))
        every = x.repeat_interleave(len(dials), dim=0)
        candidates = apply_operations(every, torch.full((len(every),), number), strength)
        same = (candidates == changed.repeat_interleave(len(dials), dim=0)).flatten(1).all(dim=1)
        for hit in same.nonzero()[:, 0].tolist():
            found[hit // len(dials)] = (number, *dials[hit % len(dials)])
    assert len(found) == len(x)
    return list(found.values())


def test_randaugment_draws_operations_and_signs_uniformly_for_each_image() -> None:
    x = pictures(700)
    config = AugmentConfig(name="x", policy="randaugment", policy_ops=1, policy_magnitude=30)
    changed = apply_policy(x.permute(0, 2, 3, 1), config, Draws(torch.Generator().manual_seed(0), len(x))).permute(
        0, 3, 1, 2
    )
    found = drawn(x, changed, "randaugment", [30])
    counts = torch.tensor([o for o, _, _ in found]).bincount(minlength=len(OPERATIONS))
    assert ((counts > 25) & (counts < 80)).all()  # 50 expected, standard deviation 6.8
    signed = [s for o, _, s in found if o < SIGNED]
    assert abs(signed.count(1) / len(signed) - 0.5) < 0.08


def test_trivialaugment_draws_a_strength_for_each_image() -> None:
    x = pictures(24)
    config = AugmentConfig(name="x", policy="trivialaugment")
    changed = apply_policy(x.permute(0, 2, 3, 1), config, Draws(torch.Generator().manual_seed(0), len(x))).permute(
        0, 3, 1, 2
    )
    found = drawn(x, changed, "trivialaugment", list(range(BINS)))
    assert len({o for o, _, _ in found}) > 6
    assert len({level for _, level, _ in found}) > 6


def test_randaugment_applies_as_many_operations_as_asked() -> None:
    x = pictures(100).permute(0, 2, 3, 1)
    unchanged = []
    for ops in (1, 3):
        config = AugmentConfig(name="x", policy="randaugment", policy_ops=ops, policy_magnitude=15)
        changed = apply_policy(x, config, Draws(torch.Generator().manual_seed(0), len(x)))
        unchanged.append(int((changed == x).flatten(1).all(dim=1).sum()))
    assert unchanged[0] > unchanged[1] == 0  # one in 14 draws the identity
