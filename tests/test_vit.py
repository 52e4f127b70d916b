"""Claims about Vision Transformers and hybrids: patches, positions, tokens and stems."""

from typing import Any

import pytest
import torch
from torch import nn

from crossover.training.models import build_model, count_parameters
from tests.built import VIT_ARGS, built, vit


def permute_patches(x: torch.Tensor) -> torch.Tensor:
    """Reverse the order of the 4x4 patches of 16x16 images, keeping the inside of each."""
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, 3, 4, 4, 4, 4)
    return patches.flip(2, 3).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


@pytest.mark.parametrize(("size", "tokens"), [(16, 16), (32, 64), (44, 121), (48, 36), (64, 64), (128, 64), (224, 196)])
@pytest.mark.parametrize("arch", ["vit", "hybrid_vit"])
def test_patch_size_follows_image_size(arch: str, size: int, tokens: int) -> None:
    with torch.device("meta"):
        model: Any = build_model(vit(arch), image_size=size, classes=10)
    assert model.patch_embed.num_patches == tokens
    assert model.pos_embed.shape == (1, tokens, 32)


def test_given_patch_size_wins() -> None:
    assert built(vit(patch_size=8)).patch_embed.num_patches == 4
    assert built(vit("vit_tiny_patch16_224", args={"depth": 1}, patch_size=2), 16).patch_embed.num_patches == 64


@pytest.mark.parametrize("std", [0.02, 0.5])
@pytest.mark.parametrize("arch", ["vit", "hybrid_vit", "vit_tiny_patch16_224"])
def test_learned_position_is_drawn_with_its_own_std(arch: str, std: float) -> None:
    changes = {"args": {"depth": 1}} if arch.startswith("vit_") else {}
    position = built(vit(arch, position_std=std, **changes), 32).pos_embed
    assert position.requires_grad
    assert position.std().item() == pytest.approx(std, rel=0.06)


@pytest.mark.parametrize("arch", ["vit", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "none"])
def test_only_a_position_embedding_tells_the_order_of_patches(arch: str, position: str) -> None:
    args = VIT_ARGS if arch == "vit" else {"depth": 1}
    model = built(vit(arch, args=args, position=position, position_std=0.5)).eval()
    nn.init.normal_(model.head.weight)
    x = torch.randn(4, 3, 16, 16)
    difference = (model(permute_patches(x)) - model(x)).abs().max().item()
    assert (difference < 1e-5) == (position == "none")


def test_sinusoidal_position_is_fixed_and_spares_the_class_token() -> None:
    model = built(vit(position="sinusoidal", pool="token"))
    position = model.pos_embed
    assert position.shape == (1, 17, 32)
    assert not position.requires_grad
    assert position[0, 0].eq(0).all()
    origin = position[0, 1].reshape(2, 2, 8)  # sine and cosine; row and column; frequency
    assert torch.equal(origin[0], torch.zeros(2, 8))
    assert torch.equal(origin[1], torch.ones(2, 8))
    frequencies = 10_000.0 ** (-torch.arange(8) / 8)
    row_two_column_three = position[0, 1 + 2 * 4 + 3].reshape(2, 2, 8)
    for at, place in ((0, 2), (1, 3)):
        torch.testing.assert_close(row_two_column_three[0, at], torch.sin(place * frequencies))
        torch.testing.assert_close(row_two_column_three[1, at], torch.cos(place * frequencies))
    learned = built(vit(pool="token"))
    assert count_parameters(learned) - count_parameters(model) == 17 * 32


def test_pooling_sets_the_class_token() -> None:
    for arch in ("vit", "hybrid_vit"):
        assert built(vit(arch)).cls_token is None
        assert built(vit(arch, pool="token")).cls_token.shape == (1, 1, 32)
        assert built(vit(arch, pool="token", position="none")).pos_embed is None


def test_hybrid_stem_is_stride_two_convolutions_and_a_projection() -> None:
    model = built(vit("hybrid_vit", args={**VIT_ARGS, "stem_width": 24}), 64)
    convolutions = [m for m in model.patch_embed.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (6, 3, 2),
        (12, 3, 2),
        (24, 3, 2),
        (32, 1, 1),
    ]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 3
    assert model.patch_embed.grid_size == built(vit(), 64).patch_embed.grid_size == (8, 8)
