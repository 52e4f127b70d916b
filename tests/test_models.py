"""Claims about the networks: what is built, what it costs, what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from crossover import cli  # noqa: F401 - it says which recipe a model carries
from crossover.config import CrossoverError
from crossover.fields import ModelConfig, RecipeConfig
from crossover.training.models import build_model, count_parameters, forward_flops, weight_decay_groups
from scripts.models import cost, costs_at, matched, shipped

CONF = Path(__file__).parents[1] / "conf"
MODELS = shipped()
VIT_ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def vit(arch: str = "vit", **changes: Any) -> ModelConfig:
    name = "hybrid_test" if arch == "hybrid_vit" else "vit_test"
    return ModelConfig(**{"name": name, "arch": arch, "args": VIT_ARGS, **changes})


def resnet(arch: str = "basic_resnet", **args: Any) -> ModelConfig:
    return ModelConfig(name="resnet_test", arch=arch, args=args)


def built(config: ModelConfig, image_size: int = 16, seed: int = 0, classes: int = 10) -> Any:
    torch.manual_seed(seed)
    return build_model(config, image_size=image_size, classes=classes)


def permute_patches(x: torch.Tensor) -> torch.Tensor:
    """Reverse the order of the 4x4 patches of 16x16 images, keeping the inside of each."""
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, 3, 4, 4, 4, 4)
    return patches.flip(2, 3).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)


@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_every_shipped_model_fits_each_image_size(size: int) -> None:
    adapted = [
        model for model in MODELS.values() if model.arch.startswith(("basic_resnet", "hybrid_vit", "resnet", "vit"))
    ]
    for config in adapted if size <= 64 else MODELS.values():
        with torch.device("meta"):  # shapes only
            model = build_model(config, image_size=size, classes=7)
            logits = model(torch.empty(2, 3, size, size))
            logits.sum().backward()
        assert logits.shape == (2, 7), config.name
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad), config.name


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


# --- cost


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


@pytest.mark.parametrize(
    ("trio", "millions"),
    [(("resnet_075m", "hybrid_075m", "vit_075m"), 0.75), (("resnet_5m", "hybrid_256x6", "vit_256x6"), 5.0)],
)
def test_trios_match_in_parameters_at_32_px(trio: tuple[str, str, str], millions: float) -> None:
    costs = {name: cost(MODELS[name], 32) for name in trio}
    assert len(matched({name: MODELS[name] for name in trio}, costs)) == 3
    assert all(parameters == pytest.approx(millions * 1e6, rel=0.05) for parameters, _ in costs.values())


def test_a_model_that_needs_larger_images_has_no_cost_at_a_small_size() -> None:
    large = ModelConfig(name="convnext_atto", family="resnet", arch="convnext_atto")
    models = {"resnet_tiny": MODELS["resnet_tiny"], "convnext_atto": large}
    assert list(costs_at(models, 16)) == ["resnet_tiny"]
    assert matched(models, costs_at(models, 16)) == []
    assert costs_at({"convnext_atto": large}, 224)["convnext_atto"][0] > 3_000_000


@pytest.mark.parametrize("name", MODELS)
def test_yaml_header_states_the_counted_parameters(name: str) -> None:
    text = (CONF / "model" / f"{name}.yaml").read_text()
    stated = re.search(r"# ([\d,]+) parameters.*? at (\d+) px", text)
    assert stated, f"conf/model/{name}.yaml states no parameters"
    parameters = int(stated[1].replace(",", ""))
    assert parameters == cost(MODELS[name], int(stated[2]))[0]


# --- ResNets


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


# --- ViTs and hybrids


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


# --- optimiser groups


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


# --- refusals


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (resnet("resnt18"), 32, ["model.arch=resnt18", "basic_resnet, vit, hybrid_vit", "did you mean resnet18"]),
        (resnet("resnetv2_50"), 32, ["resnetv2_50 at 32 px", "64 px and below"]),
        (ModelConfig(name="vit_x", arch="resnet18"), 32, ["model.family=vit", "of the family resnet"]),
        (vit(name="resnet_x"), 32, ["model.family=resnet", "of the family vit"]),
        (vit("hybrid_vit", name="vit_x"), 32, ["model.family=vit", "of the family hybrid"]),
        (vit(args={**VIT_ARGS, "heads": 2}), 32, ["model.args.heads", "num_heads"]),
        (vit(args={**VIT_ARGS, "stem_width": 8}), 32, ["model.args.stem_width of vit"]),
        (vit(args={"embed_dim": 32}), 32, ["lacks depth, num_heads"]),
        (vit(args={**VIT_ARGS, "num_heads": 3}), 32, ["num_heads=3", "embed_dim=32"]),
        (vit(args={**VIT_ARGS, "num_heads": 0}), 32, ["num_heads=0", "at least 1"]),
        (vit(args={**VIT_ARGS, "depth": "four"}), 32, ["four"]),
        (vit("vit_tiny_patch16_224", args={"num_heads": 5}), 32, ["num_heads", "divisible"]),
        (vit("vit_tiny_patch16_224", args={"pretrained": True}), 32, ["unknown model.args.pretrained"]),
        (vit(patch_size=5), 32, ["model.patch_size=5", "data.image_size=32"]),
        (vit(patch_size=0), 32, ["model.patch_size=0"]),
        (vit("hybrid_vit", patch_size=6), 36, ["model.patch_size=6", "2, 4, 8 or 16"]),
        (vit("hybrid_vit", args={**VIT_ARGS, "stem_width": 7}), 32, ["stem_width=7", "multiple of 2"]),
        (vit(args={**VIT_ARGS, "embed_dim": 30}, position="sinusoidal"), 32, ["sinusoidal", "got 30"]),
        (resnet(widths=[16]), 32, ["lacks depths"]),
        (resnet(widths=[16, 20], depths=[1, 1]), 32, ["[16, 20]", "multiples of 8"]),
        (resnet(widths=[16, 32], depths=[1]), 32, ["depths=[1]", "as many depths as widths"]),
        (resnet(widths=[8] * 6, depths=[1] * 6), 32, ["1 to 5"]),
        (resnet(widths=16, depths=1), 32, ["basic_resnet", "cannot be built"]),
        (resnet("resnet18", width=2), 32, ["unknown model.args.width of resnet18"]),
        (resnet("resnet18").model_copy(update={"patch_size": 4}), 32, ["model.patch_size", "ViTs and hybrids"]),
        (resnet("resnet18").model_copy(update={"position": "none"}), 32, ["model.position", "ViTs and hybrids"]),
    ],
    ids=lambda v: v.name + "-" + v.arch if isinstance(v, ModelConfig) else None,
)
def test_wrong_model_is_refused_in_one_line(config: ModelConfig, size: int, words: list[str]) -> None:
    with pytest.raises(CrossoverError) as caught:
        build_model(config, image_size=size, classes=10)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# --- conf/


def test_every_model_sets_the_recipe_of_its_family_and_size() -> None:
    large = ("resnet18", "resnet50", "resnet_5m", "hybrid_256x6", "vit_256x6", "vit_deit_ti", "vit_s")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name, model in MODELS.items():
            small_recipe = "adamw_resnet" if model.family == "resnet" else "adamw_vit"
            large_recipe = "sgd_resnet" if model.family == "resnet" else "adamw_vit_large"
            config = compose("train", overrides=[f"model={name}", "data=cifar10"])
            assert config.model.name == name
            assert config.recipe.name == (large_recipe if name in large else small_recipe)


@pytest.mark.parametrize("name", ["vit_tiny", "hybrid_tiny"])
def test_a_model_carries_the_recipe_that_was_searched_on_the_data(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for overrides, recipe in (
            (["data=cues"], "cues_vit"),
            (["data=tiny_imagenet"], "adamw_vit"),
            (["data=cues", "recipe=adamw_vit"], "adamw_vit"),
            (["data=cifar10", "recipe=cues_vit"], "cues_vit"),
        ):
            assert compose("train", overrides=[f"model={name}", *overrides]).recipe.name == recipe


def test_user_overrides_the_recipe_and_the_dials_of_a_model() -> None:
    dials = ["model.patch_size=2", "model.position=none", "model.position_std=0.1", "model.pool=token"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        other = compose("train", overrides=["recipe=sgd_resnet", "model=vit_tiny"])
        changed = compose("train", overrides=["model=vit_tiny", "recipe.lr=0.5", *dials])
    assert (other.model.name, other.recipe.name) == ("vit_tiny", "sgd_resnet")
    assert (changed.recipe.name, changed.recipe.lr) == ("cues_vit", 0.5)
    assert (changed.model.patch_size, changed.model.position, changed.model.pool) == (2, "none", "token")


def test_every_recipe_is_valid_and_named_after_its_file() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for path in sorted((CONF / "recipe").glob("*.yaml")):
            assert RecipeConfig(**compose("train", overrides=[f"recipe={path.stem}"]).recipe).name == path.stem


def test_every_model_is_named_after_its_file() -> None:
    assert sorted(MODELS) == sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", ["resnet18", "resnet_tiny", "vit_256x6", "hybrid_256x6", "vit_deit_ti"])
def test_every_family_takes_stochastic_depth(name: str) -> None:
    config = MODELS[name]
    config = config.model_copy(update={"args": config.args | {"drop_path_rate": 0.5}})
    torch.manual_seed(0)
    model = build_model(config, image_size=32, classes=10)
    for parameter in model.parameters():  # timm starts residual branches at zero: then nothing is lost with them
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model.train()(x), model(x))
    torch.testing.assert_close(model.eval()(x), model(x), rtol=0, atol=0)


def test_any_timm_architecture_is_a_model_of_the_family_it_is_given() -> None:
    config = ModelConfig(name="convnext_atto", family="resnet", arch="convnext_atto")
    model = build_model(config, image_size=96, classes=10)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 10)
