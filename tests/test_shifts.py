"""Every probe of moved or shuffled images on a case whose answer is known."""

import math

import pytest
import torch
from torch import nn

from crossover.config import CrossoverError
from crossover.studies.probes.equivariance import (
    equivariance,
    lie_derivative,
    patch_shuffle,
    relative_error,
    shift_consistency,
    translate,
)
from crossover.studies.probes.networks import logits_of
from tests.networks import Stack, images, table_of, tiny


def smooth_images() -> torch.Tensor:
    """Return images without frequencies above 0.3 cycles per pixel."""
    frequencies = torch.fft.fftfreq(16).square()
    keep = (frequencies[:, None] + frequencies).sqrt() <= 0.3
    return torch.fft.ifft2(torch.fft.fft2(images()) * keep).real


def test_circular_convolution_of_stride_one_commutes_with_every_shift() -> None:
    table = table_of(equivariance(Stack(1, 1), images(), shifts=(1, 2, 3, 5)))
    assert table["value"].max() <= 1e-12
    assert table["analytic"].min() > 0.1


def test_stride_two_is_exact_at_multiples_of_two_only() -> None:
    table = table_of(equivariance(Stack(1, 2), images(), shifts=(1, 2, 3, 4))).xs("layers.1", level="layer")["value"]
    assert table[["equivariance_2px", "equivariance_4px"]].max() <= 1e-12
    assert table[["equivariance_1px", "equivariance_3px"]].min() > 0.01


def test_patches_are_equivariant_to_whole_patches_without_position_embedding_only() -> None:
    free = table_of(equivariance(tiny(position="none"), images(), shifts=(1, 4)))["value"]
    assert free["equivariance_4px"].max() <= 1e-12
    assert free["equivariance_1px", "patch_embed"] > 0.1
    bound = table_of(equivariance(tiny(), images(), shifts=(4,)))["value"]["equivariance_4px"]
    assert bound["patch_embed"] <= 1e-12
    assert bound["blocks.1"] > 0.01


def test_fractional_shifts_add_up_and_are_real_for_smooth_images() -> None:
    x = smooth_images().double()
    torch.testing.assert_close(translate(translate(x, 0.25, 0), 0.75, 0), translate(x, 1, 0), atol=1e-6, rtol=0)


def test_global_pooling_of_a_circular_network_is_invariant_and_a_position_bound_network_is_not() -> None:
    labels = torch.zeros(8, dtype=torch.long)
    invariant = table_of(shift_consistency(Stack(1, 1), images(), labels))
    assert invariant["value"]["consistency", ""] == 1
    bound = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
    value, chance = table_of(shift_consistency(bound, images(64), labels.new_zeros(64))).loc[("consistency", "")]
    assert value < 0.5
    assert 0.1 <= chance < 0.5


def test_lie_derivative_of_an_invariant_function_is_zero_and_of_a_known_one_is_known() -> None:
    smooth = smooth_images()

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    assert lie_derivative(Mean(), smooth).value < 1e-9

    class Wave(nn.Module):  # cos and sin of the place of a wave: changes by 2 pi / 16 of its size per pixel
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            place = torch.arange(16, dtype=x.dtype) * (2 * math.pi / 16)
            rows = x[:, 0].mean(2)
            return torch.stack([rows @ place.cos(), rows @ place.sin()], 1)

    phase = torch.arange(64)[:, None] * (2 * math.pi / 64)
    wave = torch.cos(torch.arange(16) * (2 * math.pi / 16) + phase)
    x = wave[:, None, :, None].expand(-1, 3, -1, 16)
    assert lie_derivative(Wave(), x).value == pytest.approx(math.pi / 16, rel=1e-3), "of two axes, one changes it"


def test_shuffling_keeps_the_patches_and_moves_them() -> None:
    x = images()
    shuffled = patch_shuffle(x, 4)
    torch.testing.assert_close(x.flatten(1).sort(1).values, shuffled.flatten(1).sort(1).values)
    assert not torch.equal(x, shuffled)
    bag = tiny(position="none")
    torch.testing.assert_close(logits_of(bag, x), logits_of(bag, shuffled), atol=1e-5, rtol=1e-4)
    with pytest.raises(CrossoverError, match="3 x 3 patches do not divide"):
        patch_shuffle(x, 3)


def test_relative_error_of_nothing_is_zero() -> None:
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0
