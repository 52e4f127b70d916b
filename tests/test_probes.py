"""Every probe on a case whose answer is known, and on small timm networks."""

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.fields import ModelConfig
from crossover.studies.probes import networks as load
from crossover.studies.probes.equivariance import (
    equivariance,
    high_pass,
    lie_derivative,
    low_pass,
    patch_shuffle,
    relative_error,
    robustness,
    shift_consistency,
    translate,
)
from crossover.studies.probes.networks import Found, feature_maps, layer_strides, logits_of
from crossover.studies.probes.representation import cka, linear_probe, receptive_field, unbiased_hsic
from crossover.studies.probes.tokens import (
    attention,
    attention_weights,
    first_filters,
    low_frequency_share,
    position_grid,
    position_loss,
    position_nearness,
    token_distances,
)
from crossover.training.models import build_model
from crossover.training.weights import load_timm
from tests.worlds import VIT, small_run


class Stack(nn.Module):
    """Convolutions of known padding and stride, listed as timm lists its stages."""

    def __init__(
        self, *strides: int, padding_mode: Literal["zeros", "circular"] = "circular", linear: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        total = 1
        self.feature_info = []
        for i, stride in enumerate(strides):
            conv = nn.Conv2d(3, 3, 3, stride=stride, padding=1, padding_mode=padding_mode)
            self.layers.append(conv if linear else nn.Sequential(conv, nn.ReLU()))
            total *= stride
            self.feature_info.append({"module": f"layers.{i}", "reduction": total, "num_chs": 3})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


def images(count: int = 8, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tiny(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(ModelConfig(**(VIT | changes)), image_size=16, classes=10).eval()


def tiny_resnet(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(name="resnet_test", arch="basic_resnet", args={"widths": [8, 16], "depths": [1, 1]})
    return build_model(config, image_size=16, classes=10).eval()


def table_of(found: Iterable[Found]) -> Any:
    """Return the numbers of a probe, by its name and layer."""
    return pd.DataFrame(list(found), columns=Found._fields).set_index(["probe", "layer"])


# --- translation


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
    x = low_pass(images(), 0.3).double()
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
    smooth = low_pass(images(), 0.3)

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


# --- attention


@pytest.mark.parametrize(("side", "tokens"), [(8, 4.137), (14, 7.281), (16, 8.326)])
def test_uniform_attention_has_the_known_distance(side: int, tokens: float) -> None:
    cells = list(itertools.product(range(side), repeat=2))
    exact = sum(math.dist(a, b) for a in cells for b in cells) / len(cells) ** 2
    assert float(token_distances(side, side).mean()) == pytest.approx(exact)
    assert exact == pytest.approx(tokens, abs=1e-3)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_uniform_attention_is_measured_as_uniform(pool: str) -> None:
    model = tiny(pool=pool)
    for block in model.blocks:
        nn.init.zeros_(block.attn.qkv.weight)
    table = table_of(attention(model, images()))
    far = table.loc["attention_distance"]
    assert far["value"].to_numpy() == pytest.approx(far["analytic"].to_numpy())
    value = table["value"]
    assert value["attention_beyond"].to_numpy() == pytest.approx(1)
    assert value["attention_adaptive"].max() < 1e-6
    assert value["attention_local"].max() == 0


def test_attention_that_is_written_out_reproduces_the_fused_output() -> None:
    model = tiny(pool="token")
    block = model.blocks[0].attn
    fed: list[torch.Tensor] = []
    handle = block.register_forward_hook(lambda _m, inputs, out: fed.extend([inputs[0], out]))
    model(images())
    handle.remove()
    x, fused = fed
    weights = attention_weights(model, images())[0]
    values = block.qkv(x).reshape(8, 17, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
    again = block.proj((weights @ values).transpose(1, 2).reshape(8, 17, 16))
    torch.testing.assert_close(again, fused, atol=1e-6, rtol=1e-5)
    assert all(b.attn.fused_attn for b in model.blocks), "fused attention must be back"


def test_rows_of_attention_sum_to_one() -> None:
    for rows in attention_weights(tiny(pool="token"), images()):
        torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows.sum(-1)))


# --- embeddings


def test_sinusoidal_positions_are_similar_where_near_and_shuffled_ones_are_not() -> None:
    ordered = tiny(position="sinusoidal", args=VIT["args"] | {"embed_dim": 64})
    _, _, value, chance = position_nearness(ordered)
    assert value > 0.6
    assert chance is not None
    assert 0 < chance < 0.2
    _, _, value, chance = position_nearness(tiny())
    assert chance is not None
    assert abs(value) < 1.5 * chance
    assert position_grid(ordered).diagonal() == pytest.approx(1)


def test_removing_positions_changes_nothing_in_a_model_that_has_equal_ones() -> None:
    model, x = tiny(), images(64)
    with torch.no_grad():  # at its usual scale an untrained network answers the same to every image
        for parameter in model.parameters():
            parameter *= 10 if parameter.ndim > 1 else 1
    labels = logits_of(model, x).argmax(1)
    assert position_loss(model, x, labels).value > 0
    with torch.no_grad():
        model.pos_embed[:] = model.pos_embed[:, :1]
    labels = logits_of(model, x).argmax(1)
    assert position_loss(model, x, labels).value == 0


def test_random_filters_are_white_and_flat_filters_are_low() -> None:
    four, low = first_filters(tiny(args=VIT["args"] | {"embed_dim": 256, "num_heads": 2}))
    assert four.value < 0.25
    assert low.value == pytest.approx(low.analytic, abs=0.03)
    assert low.analytic == pytest.approx(9 / 16)
    assert low_frequency_share(torch.ones(2, 3, 4, 4)) == pytest.approx(1)
    checker = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2).expand(2, 3, 4, 4)
    assert low_frequency_share(checker) == pytest.approx(0)


# --- representation


def test_cka_of_equal_layers_is_one_and_of_unrelated_data_near_zero() -> None:
    same = Stack(1, 1, linear=True)
    nn.init.dirac_(same.layers[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(same.layers[1].bias)  # type: ignore[arg-type]
    assert [(found.probe, found.layer) for found in cka(same, images(64))] == [
        ("cka", "layers.0~layers.1"),
        ("cka_ends", ""),
    ]
    assert [found.value for found in cka(same, images(64))] == pytest.approx([1, 1])
    draw = torch.Generator().manual_seed(0)
    grams = [(x @ x.T).double() for x in torch.randn(2, 400, 50, generator=draw)]
    value = unbiased_hsic(*grams) / math.sqrt(unbiased_hsic(grams[0], grams[0]) * unbiased_hsic(grams[1], grams[1]))
    assert abs(value) < 0.02


def test_linear_probe_finds_what_is_there_and_nothing_else() -> None:
    labels = torch.arange(400) // 2 % 4
    x = 0.1 * images(400)
    x[:, :, :8, :8] += labels.double().cos()[:, None, None, None].float()
    x[:, :, 8:, 8:] += labels.double().sin()[:, None, None, None].float()
    pixels, _ = linear_probe(Stack(1), x, labels)
    assert pixels == Found("linear_probe", "pixels", 1, 0.25)
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    assert max(found.value for found in linear_probe(Stack(1), images(400), shuffled)) < 0.4


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_receptive_field_of_equal_3x3_filters_is_known(depth: int) -> None:
    model = Stack(*[1] * depth, linear=True)
    for conv in model.layers:
        nn.init.ones_(conv.weight)  # type: ignore[arg-type]
    *_, support, spread = receptive_field(model, images(2))
    assert support.value == 2 * depth + 1
    assert spread.value == pytest.approx(math.sqrt(2 * depth * 2 / 3))  # each layer adds a variance of 2/3 per axis
    assert spread.analytic == pytest.approx(math.sqrt(2 * (16**2 - 1) / 12))


# --- robustness


def test_shuffling_keeps_the_patches_and_moves_them() -> None:
    x = images()
    shuffled = patch_shuffle(x, 4)
    torch.testing.assert_close(x.flatten(1).sort(1).values, shuffled.flatten(1).sort(1).values)
    assert not torch.equal(x, shuffled)
    bag = tiny(position="none")
    torch.testing.assert_close(logits_of(bag, x), logits_of(bag, shuffled), atol=1e-5, rtol=1e-4)
    with pytest.raises(CrossoverError, match="3 x 3 patches do not divide"):
        patch_shuffle(x, 3)


def test_low_and_high_pass_share_an_image_between_them() -> None:
    x = images().double()
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(low_pass(x, 0.25) + high_pass(x, 0.25) - mean, x)
    flat = torch.ones(1, 3, 16, 16)
    torch.testing.assert_close(low_pass(flat, 0.1), flat)
    torch.testing.assert_close(high_pass(flat, 0.1), flat)
    wave = torch.cos(torch.arange(16) * math.pi / 2).expand(1, 3, 16, 16)  # 0.25 cycles per pixel
    assert float(low_pass(wave, 0.24).abs().max()) < 1e-6
    torch.testing.assert_close(low_pass(wave, 0.25), wave)


def test_robustness_of_a_constant_network_is_its_accuracy() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.eye(2)[0].expand(len(x), -1)

    table = table_of(robustness(Constant(), images(), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])))
    assert {name.rsplit("_", 1)[0] for name, _ in table.index} == {"patch_shuffle", "low_pass", "high_pass"}
    assert (table == 0.75).all(axis=None)


# --- timm's networks and our checkpoints


@pytest.mark.parametrize(("arch", "size"), [("resnet10t", 64), ("test_vit", 64), ("test_vit2", 64)])
def test_probes_accept_networks_of_timm(arch: str, size: int) -> None:
    torch.manual_seed(0)
    changes: Any = {"img_size": size} if "vit" in arch else {}
    model: Any = timm.create_model(arch, num_classes=10, **changes).eval()
    x, labels = images(6, size), torch.arange(6)
    strides = layer_strides(model)
    maps = feature_maps(model, x)
    assert {name: size // m.shape[-1] for name, m in maps.items()} == strides
    assert table_of(equivariance(model, x[:2]))["value"].between(0, 3).all()
    assert table_of(linear_probe(model, x, labels))["value"].between(0, 1).all()
    assert table_of(cka(model, x[:5]))["value"].between(-1, 1).all()
    if "vit" in arch:
        assert len(list(attention(model, x[:2]))) == 4 * len(model.blocks) + 1
        assert abs(position_nearness(model, permutations=50).value) <= 1


def test_a_probe_of_attention_refuses_a_resnet_in_one_line() -> None:
    with pytest.raises(CrossoverError, match="ByobNet has no tokens"):
        next(attention(tiny_resnet(), images()))
    with pytest.raises(CrossoverError, match="no position embedding"):
        position_nearness(tiny(position="none"))


def _finished(folder: Path) -> Path:
    """Write what a finished run leaves: config, weights, record, and the cache of its images."""
    run = small_run(folder, model=VIT, seed=3)
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "config.yaml").write_text(json.dumps(run.model_dump(mode="json")))
    images = open_dataset(run.data, Path(run.machine.data_dir)).hash
    record = {"schema": 1, "classes": list(range(10)), "dataset_hash": images}
    (run.run_dir / "record.json").write_text(json.dumps(record))
    save_file(tiny(seed=9).state_dict(), run.run_dir / "weights.safetensors")
    return run.run_dir


def test_a_checkpoint_comes_with_its_own_start(tmp_path: Path) -> None:
    checkpoint = load.load_run(_finished(tmp_path))
    x = images()
    torch.testing.assert_close(checkpoint.model(x), tiny(seed=9)(x))
    torch.testing.assert_close(checkpoint.untrained(x), tiny(seed=3)(x))
    batch, labels = load.probe_images(checkpoint.run, 50)
    assert batch.shape == (50, 3, 16, 16)
    assert labels.shape == (50,)
    assert abs(float(batch.mean())) < 0.05


def test_a_run_is_not_probed_on_other_images_than_its_own(tmp_path: Path) -> None:
    path = _finished(tmp_path) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset_hash": "of others"}))
    with pytest.raises(CrossoverError, match="were done with other images than those in"):
        load.probe_images(load.load_run(path.parent).run, 50)


def test_images_that_come_class_by_class_are_mixed_and_others_stay_as_they_are() -> None:
    by_class = np.repeat(np.arange(10), 100)
    order = load.mixed_order(by_class)
    assert sorted(order) == list(range(1000))
    for part in (by_class[order[:200:2]], by_class[order[1:200:2]]):
        assert np.bincount(part, minlength=10).min() >= 4
    np.testing.assert_array_equal(load.mixed_order(np.array([0, 2, 1])), [0, 1, 2])


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    folder = _finished(tmp_path)
    (folder / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CrossoverError, match=r"weights\.safetensors cannot be read"):
        load.load_run(folder)
    save_file(tiny_resnet().state_dict(), folder / "weights.safetensors")
    with pytest.raises(CrossoverError, match="does not fit its config"):
        load.load_run(folder)


def test_published_weights_that_cannot_be_fetched_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to\n'https://example.org'")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(CrossoverError, match=r"timm:resnet18.a1_in1k cannot be fetched .*HF_HOME") as caught:
        load_timm("timm:resnet18.a1_in1k")
    assert "\n" not in str(caught.value)
    for bad, said in (("resnet18", "give timm:<tag>"), ("timm:resnet1800", "timm has no model resnet1800")):
        with pytest.raises(CrossoverError, match=said):
            load_timm(bad)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Identity())
    assert isinstance(load_timm("timm:resnet18.a1_in1k"), nn.Identity)


def test_relative_error_of_nothing_is_zero() -> None:
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0
