"""Claims about models: they fit their images, cost what is known, and begin as they should."""

from typing import Any

import pytest
import torch
from torch import nn

from crossover.fields import ModelConfig
from crossover.training.models import build_model, forward_flops
from crossover.training.module import weight_decay_groups
from scripts.models import cost, costs_at, matched
from tests.built import MODELS, built, resnet, vit


@pytest.mark.parametrize("name", ["resnet_tiny", "hybrid_tiny", "vit_tiny"])
def test_tiny_models_learn_ten_images(name: str) -> None:
    model = built(MODELS[name], 16)
    x, labels = torch.randn(10, 3, 16, 16), torch.arange(10)
    optimizer = torch.optim.AdamW(weight_decay_groups(model, 0.05), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3, abs=0.3)  # log 10: the first guess is uniform
    assert losses[-1] < 0.5


def test_same_seed_same_weights() -> None:
    for name in ("resnet_tiny", "hybrid_tiny", "vit_tiny"):
        first, again, other = (built(MODELS[name], seed=s).state_dict() for s in (0, 0, 1))
        assert all(torch.equal(first[k], again[k]) for k in first)
        assert not all(torch.equal(first[k], other[k]) for k in first)


def test_channels_last_changes_no_logit() -> None:
    x = torch.randn(4, 3, 16, 16)
    for name in ("resnet_tiny", "hybrid_tiny", "vit_tiny"):
        model = built(MODELS[name]).eval()
        expected = model(x)
        actual = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_resnet18_has_the_known_parameters_and_flops() -> None:
    parameters, flops = cost(MODELS["resnet18"], 32)
    assert parameters == 11_173_962
    assert 3 * flops == pytest.approx(3.33e9, rel=2e-3)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_vit_flops_are_two_per_multiply_add_with_attention(pool: str) -> None:
    config = vit(args={"embed_dim": 256, "depth": 6, "num_heads": 4, "mlp_ratio": 4}, pool=pool)
    patches, tokens, dim, depth = 64, 64 + (pool == "token"), 256, 6
    block = 2 * tokens * 12 * dim**2 + 2 * 2 * tokens**2 * dim  # weights; queries x keys and attention x values
    assert forward_flops(built(config, 32), 32) == 2 * patches * 48 * dim + depth * block + 2 * dim * 10


def test_counting_flops_leaves_model_and_generator_untouched() -> None:
    model = built(MODELS["resnet_tiny"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    assert forward_flops(model, 16) == forward_flops(model, 16) == cost(MODELS["resnet_tiny"], 16)[1]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_needs_larger_images_has_no_cost_at_a_small_size() -> None:
    large = ModelConfig(name="convnext_atto", family="resnet", arch="convnext_atto")
    models = {"resnet_tiny": MODELS["resnet_tiny"], "convnext_atto": large}
    assert list(costs_at(models, 16)) == ["resnet_tiny"]
    assert matched(models, costs_at(models, 16)) == []
    assert costs_at({"convnext_atto": large}, 224)["convnext_atto"][0] > 3_000_000


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet18d"])
def test_stem_keeps_resolution_up_to_64_px_only(arch: str) -> None:
    sides = {}
    for size in (16, 32, 64, 96):
        with torch.device("meta"):
            model: Any = build_model(resnet(arch), image_size=size, classes=10)
            sides[size] = model.forward_features(torch.empty(1, 3, size, size)).shape[-1]
        if size <= 64:
            assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (1, 1))
            assert isinstance(model.maxpool, nn.Identity)
            assert [f["reduction"] for f in model.feature_info] == [1, 1, 2, 4, 8]
    assert sides == {16: 2, 32: 4, 64: 8, 96: 3}  # output stride 8, and the stock 32 above 64 px


def test_new_stem_is_drawn_like_the_other_convolutions() -> None:
    stem = built(resnet("resnet18"), 32).conv1.weight
    assert stem.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


def test_basic_resnet_halves_the_sides_at_every_stage_but_the_first() -> None:
    model = built(resnet(widths=[8, 16, 16, 24, 24], depths=[1, 2, 1, 1, 1]), 32)
    sides, channels, x = [], [], model.stem(torch.randn(2, 3, 32, 32))
    assert x.shape == (2, 8, 32, 32)
    for stage in model.stages:
        x = stage(x)
        sides.append(x.shape[-1])
        channels.append(x.shape[1])
    assert sides == [32, 16, 8, 4, 2]
    assert channels == [8, 16, 16, 24, 24]
    assert model.feature_info[-1]["reduction"] == 16
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    assert model.stages[1][0].shortcut.conv.kernel_size == (1, 1)
    assert model.stages[0][0].conv2_kxk.bn.weight.eq(0).all()  # timm's start: a residual branch adds nothing


@pytest.mark.parametrize(
    "config",
    [
        MODELS["resnet_tiny"],
        resnet("resnet18"),
        vit(pool="token"),
        vit(position="sinusoidal"),
        vit("hybrid_vit"),
        vit("vit_tiny_patch16_224", args={"depth": 1}, pool="token"),
    ],
    ids=lambda c: f"{c.arch}-{c.position}-{c.pool}",
)
def test_weight_decay_spares_biases_norms_and_tokens(config: ModelConfig) -> None:
    model = built(config)
    groups = weight_decay_groups(model, 0.05)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    expected = {
        name: 0.0 if p.ndim == 1 or name in ("pos_embed", "cls_token") else 0.05
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert sum(len(group["params"]) for group in groups) == len(expected)
    assert {n: decay[id(p)] for n, p in model.named_parameters() if p.requires_grad} == expected
    assert set(expected.values()) == {0.0, 0.05}
