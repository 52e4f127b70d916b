"""Every probe of layers, attention and positions on a case whose answer is known, and on small timm networks."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.studies.probes import networks as load
from crossover.studies.probes.equivariance import (
    equivariance,
)
from crossover.studies.probes.networks import Found, feature_maps, layer_strides, logits_of
from crossover.studies.probes.representation import (
    attention,
    attention_weights,
    cka_ends,
    first_filters,
    linear_probe,
    low_frequency_share,
    position_grid,
    position_loss,
    position_nearness,
    receptive_field,
    token_distances,
    unbiased_hsic,
)
from crossover.training.weights import find_weights
from tests.networks import Stack, images, table_of, tiny, tiny_resnet
from tests.reported import record
from tests.worlds import VIT, small_run


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


def test_cka_of_equal_layers_is_one_and_of_unrelated_data_near_zero() -> None:
    same = Stack(1, 1, linear=True)
    nn.init.dirac_(same.layers[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(same.layers[1].bias)  # type: ignore[arg-type]
    assert cka_ends(same, images(64)).value == pytest.approx(1)
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
    assert abs(cka_ends(model, x[:5]).value) <= 1
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
    known = record("vit_test", 100, 3, 0.5) | {"classes": [*"0123456789"], "dataset_hash": images}
    (run.run_dir / "record.json").write_text(json.dumps(known))
    save_file(tiny(seed=9).state_dict(), run.run_dir / "weights.safetensors")
    return run.run_dir


def test_a_checkpoint_comes_with_its_own_start(tmp_path: Path) -> None:
    run, model, untrained = load.load_run(_finished(tmp_path))
    x = images()
    torch.testing.assert_close(model(x), tiny(seed=9)(x))
    torch.testing.assert_close(untrained(x), tiny(seed=3)(x))
    batch, labels = load.probe_images(run, 50)
    assert batch.shape == (50, 3, 16, 16)
    assert labels.shape == (50,)
    assert abs(float(batch.mean())) < 0.05


def test_a_run_is_not_probed_on_other_images_than_its_own(tmp_path: Path) -> None:
    path = _finished(tmp_path) / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset_hash": "of others"}))
    with pytest.raises(CrossoverError, match="were done with other images than those in"):
        load.probe_images(load.load_run(path.parent)[0], 50)


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


def test_published_weights_that_cannot_be_fetched_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to\n'https://example.org'")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(CrossoverError, match=r"timm:resnet18.a1_in1k cannot be fetched .*HF_HOME") as caught:
        find_weights("timm:resnet18.a1_in1k", tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CrossoverError, match="timm has no model resnet1800"):
        find_weights("timm:resnet1800", tmp_path)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: nn.Linear(2, 3))
    assert list(find_weights("timm:resnet18.a1_in1k", tmp_path)) == ["weight", "bias"]
