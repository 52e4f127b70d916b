"""Claims about the models and recipes of conf/: their names, headers and recipes, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from crossover import cli  # noqa: F401 - it says which recipe a model carries
from crossover.cli import one_line
from crossover.config import CrossoverError
from crossover.fields import ModelConfig, RecipeConfig
from crossover.training.models import build_model
from scripts.models import cost, matched
from tests.built import MODELS, VIT_ARGS, resnet, vit

CONF = Path(__file__).parents[1] / "conf"


@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_every_shipped_model_fits_each_image_size(size: int) -> None:
    adapted = [
        model for model in MODELS.values() if model.arch.startswith(("basic_resnet", "hybrid_vit", "resnet", "vit"))
    ]
    for config in adapted if size <= 64 else MODELS.values():
        with torch.device("meta"):  # shapes only
            model = build_model(config, image_size=size, classes=7)
            logits = model(torch.empty(2, 3, size, size))
        assert logits.shape == (2, 7), config.name
        if size in (32, 224):  # each model at one size of its own: what has a gradient does not depend on it
            logits.sum().backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad), config.name


@pytest.mark.parametrize(
    ("trio", "millions"),
    [(("resnet_075m", "hybrid_075m", "vit_075m"), 0.75), (("resnet_5m", "hybrid_256x6", "vit_256x6"), 5.0)],
)
def test_trios_match_in_parameters_at_32_px(trio: tuple[str, str, str], millions: float) -> None:
    costs = {name: cost(MODELS[name], 32) for name in trio}
    assert len(matched({name: MODELS[name] for name in trio}, costs)) == 3
    assert all(parameters == pytest.approx(millions * 1e6, rel=0.05) for parameters, _ in costs.values())


@pytest.mark.parametrize("name", MODELS)
def test_yaml_header_states_the_counted_parameters(name: str) -> None:
    text = (CONF / "model" / f"{name}.yaml").read_text()
    stated = re.search(r"# ([\d,]+) parameters.*? at (\d+) px", text)
    assert stated, f"conf/model/{name}.yaml states no parameters"
    parameters = int(stated[1].replace(",", ""))
    assert parameters == cost(MODELS[name], int(stated[2]))[0]


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (resnet("resnt18"), 32, ["model.arch=resnt18", "basic_resnet, vit, hybrid_vit", "did you mean resnet18"]),
        (resnet("resnetv2_50"), 32, ["resnetv2_50", "at 32 px cannot be built: up to 64 px"]),
        (ModelConfig(name="vit_x", arch="resnet18"), 32, ["model.family=vit", "of the family resnet"]),
        (vit(name="resnet_x"), 32, ["model.family=resnet", "of the family vit"]),
        (vit("hybrid_vit", name="vit_x"), 32, ["model.family=vit", "of the family hybrid"]),
        (vit(args={**VIT_ARGS, "heads": 2}), 32, ["model.args.heads", "num_heads"]),
        (vit(args={**VIT_ARGS, "stem_width": 8}), 32, ["model.args.stem_width of vit"]),
        (vit(args={"embed_dim": 32}), 32, ["lacks depth, num_heads"]),
        (vit(args={**VIT_ARGS, "num_heads": 3}), 32, ["'num_heads': 3", "divisible"]),
        (vit(args={**VIT_ARGS, "num_heads": 0}), 32, ["'num_heads': 0", "num_heads must be at least 1"]),
        (vit(args={**VIT_ARGS, "depth": "four"}), 32, ["four"]),
        (vit("vit_tiny_patch16_224", args={"num_heads": 5}), 32, ["num_heads", "divisible"]),
        (vit("vit_tiny_patch16_224", args={"pretrained": True}), 32, ["unknown model.args.pretrained"]),
        (vit(args={**VIT_ARGS, "mlp_ratio": 1e300}), 32, ["Overflow"]),
        (vit(args={**VIT_ARGS, "mlp_ratio": -1}), 32, ["negative dimension"]),
        (vit(args={**VIT_ARGS, "drop_path_rate": 2}), 32, ["drop_path_rate must lie in 0 to 1"]),
        (vit(patch_size=5), 32, ["model.patch_size=5", "data.image_size=32"]),
        (vit(patch_size=0), 32, ["model.patch_size=0"]),
        (vit("hybrid_vit", patch_size=6), 36, ["model.patch_size=6", "2, 4, 8 or 16"]),
        (vit("hybrid_vit", args={**VIT_ARGS, "stem_width": 7}), 32, ["stem_width=7", "multiple of 2"]),
        (vit(args={**VIT_ARGS, "embed_dim": 30}, position="sinusoidal"), 32, ["sinusoidal", "got 30"]),
        (resnet(widths=[16]), 32, ["lacks depths"]),
        (resnet(widths=[16, 20], depths=[1, 1]), 32, ["[16, 20]", "multiples of 8"]),
        (resnet(widths=[16, 32], depths=[1]), 32, ["'depths': [1]", "as many depths as widths"]),
        (resnet(widths=[8] * 6, depths=[1] * 6), 32, ["1 to 5"]),
        (resnet(widths=16, depths=1), 32, ["basic_resnet", "cannot be built"]),
        (vit("swin_tiny_patch4_window7_224", args={}), 128, ["Input height (128) doesn't match model (224)"]),
        (resnet("convnext_atto", in_chans=1), 128, ["cannot be built"]),
        (resnet("convnext_atto", pretrained=True), 128, ["multiple values for keyword argument 'pretrained'"]),
        (resnet("resnet18", width=2), 32, ["unknown model.args.width of resnet18"]),
        (resnet("resnet18", layers=[1, 1, 1, 1], channels=[8]), 32, ["have four numbers"]),
        (resnet("resnet18").model_copy(update={"patch_size": 4}), 32, ["model.patch_size", "ViTs and hybrids"]),
        (resnet("resnet18").model_copy(update={"position": "none"}), 32, ["model.position", "ViTs and hybrids"]),
    ],
    ids=lambda v: v.name + "-" + v.arch if isinstance(v, ModelConfig) else None,
)
def test_wrong_model_is_refused_in_one_line(config: ModelConfig, size: int, words: list[str]) -> None:
    with pytest.raises(CrossoverError) as caught:
        build_model(config, image_size=size, classes=10)
    message = str(caught.value)
    assert message == one_line(caught.value)
    for word in words:
        assert word in message


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
