"""Claims about runs that start from trained weights: what is taken, what is new, what is refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from crossover.config import CrossoverError
from crossover.data.cache import cache_folder, open_dataset
from crossover.data.cues import draw_patterns
from crossover.fields import ModelConfig
from crossover.sweep.launch import check_data
from crossover.training import run as running
from crossover.training.models import build_model
from crossover.training.run import execute
from crossover.training.weights import head_prefix, start_from
from tests.stopped import stopped
from tests.worlds import VIT, small_run


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "tune_allocator", lambda: None)  # once per process; the test process keeps its own


def built(seed: int, size: int = 16, classes: int = 10, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(ModelConfig(**VIT | changes), image_size=size, classes=classes)


def saved(network: nn.Module, path: Path) -> str:
    save_file(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_run_starts_from_the_backbone_of_another_with_a_head_of_its_own(tmp_path: Path, kind: str) -> None:
    model = {} if kind == "resnet" else {"model": VIT}
    source = small_run(tmp_path, **model)
    first = execute(source)
    again = small_run(tmp_path, seed=1, init_from=source.run_id, budget__steps=1, budget__evaluations=1, **model)
    plain = small_run(tmp_path, seed=1, budget__steps=1, budget__evaluations=1, **model)
    assert again.run_id != plain.run_id
    record = execute(again)
    execute(plain)
    assert first["init_hash"] is None
    assert len(record["init_hash"] or "") == 64
    weights = load_file(source.run_dir / "weights.safetensors")
    torch.manual_seed(1)
    network = build_model(source.model, image_size=16, classes=10)
    head = {name: v.clone() for name, v in network.state_dict().items() if name.startswith(head_prefix(network))}
    assert start_from(network, source.run_id, tmp_path / "outputs") == record["init_hash"]
    assert len(head) == 2
    for name, value in network.state_dict().items():
        assert torch.equal(value, head.get(name, weights[name])), name
    moved, drawn = (load_file(r.run_dir / "weights.safetensors") for r in (again, plain))
    body = next(name for name in weights if name not in head and weights[name].ndim > 1)
    step = (moved[body] - weights[body]).abs().max()  # one step from the source, far from the untrained start
    assert 0 < step < 0.2 * (drawn[body] - moved[body]).abs().max()


def test_a_folder_and_a_file_name_the_same_weights_as_a_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    source = built(0)
    saved(source, path)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "a.pth")
    found = {start_from(built(1), str(given), tmp_path) for given in (path, tmp_path, tmp_path / "a.pth")}
    assert len(found) == 1
    assert start_from(built(1), saved(built(2), path), tmp_path) not in found


def test_a_run_is_not_taken_for_one_of_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file behind init_from changes after a run that is finished, and below one that was interrupted."""
    path = tmp_path / "weights.safetensors"
    source = execute(small_run(tmp_path))["run_id"]
    (tmp_path / "outputs/runs" / source / path.name).rename(path)
    steps = {"budget__steps": 4, "budget__evaluations": 2}
    finished, half = (small_run(tmp_path, seed=seed, init_from=str(path), **steps) for seed in (1, 2))
    record = execute(finished)
    stopped(half, monkeypatch, after=0)
    assert record["init_file_hash"] == hashlib.sha256(path.read_bytes()).hexdigest()
    check_data([finished, half], Console(quiet=True))
    kept = path.read_bytes()
    saved(build_model(finished.model, image_size=16, classes=10), path)
    with pytest.raises(CrossoverError, match=rf"1 finished runs, such as .*other weights.* init_from={path} now: put"):
        check_data([finished, half], Console(quiet=True))
    with pytest.raises(CrossoverError, match=r"last\.ckpt began with other weights than init_from names now"):
        execute(half)
    path.write_bytes(kept)
    check_data([finished, half], Console(quiet=True))
    assert execute(half)["init_hash"] == record["init_hash"]
    path.unlink()
    check_data([finished, half], Console(quiet=True))  # done, and nothing is left that could differ


def test_position_embedding_is_resampled_when_the_grid_changes(tmp_path: Path) -> None:
    source = built(0)
    ramp = torch.linspace(-1, 1, 4).repeat(4)  # along x
    with torch.no_grad():
        source.pos_embed.copy_(ramp[None, :, None].expand_as(source.pos_embed))
    larger = built(1, size=32)
    start_from(larger, saved(source, tmp_path / "a.safetensors"), tmp_path)
    grid = larger.pos_embed.detach().reshape(8, 8, -1)
    assert torch.allclose(grid, grid[:1].expand_as(grid), atol=1e-5)  # the same in all rows
    assert (grid[0, 1:, 0] > grid[0, :-1, 0]).all()
    assert grid[0, :, 0].mean().abs() < 1e-5


def test_class_token_is_dropped_where_the_model_averages(tmp_path: Path) -> None:
    source = built(0, pool="token", args=VIT["args"] | {"fix_init": False})
    weights = {name.replace("norm.", "fc_norm.", 1) if name.startswith("norm.") else name: v
               for name, v in source.state_dict().items()}  # fmt: skip
    save_file(weights, tmp_path / "a.safetensors")
    target = built(1)
    start_from(target, str(tmp_path / "a.safetensors"), tmp_path)
    assert torch.equal(target.pos_embed, source.pos_embed[:, 1:])
    with pytest.raises(CrossoverError, match=r"has 0 class and register tokens, the model 1: set model\.pool"):
        start_from(built(1, pool="token"), saved(built(2), tmp_path / "b.safetensors"), tmp_path)


def test_another_number_of_classes_is_no_obstacle(tmp_path: Path) -> None:
    target = built(1, classes=200)
    before = target.head.weight.clone()
    start_from(target, saved(built(0), tmp_path / "a.safetensors"), tmp_path)
    assert torch.equal(target.head.weight, before)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(built(0, args=VIT["args"] | {"depth": 1}), tmp_path / "a.safetensors")
    with pytest.raises(
        CrossoverError, match=r"of another network: its blocks\.1\..* is missing, not .* more differences; choose"
    ):
        start_from(built(1), path, tmp_path)
    path = saved(built(0), tmp_path / "a.safetensors")
    with pytest.raises(CrossoverError, match=r"patch_embed\.proj\.weight is .*, not .*patch_size"):
        start_from(built(1, patch_size=8), path, tmp_path)


class Code:
    """An object that a careless load would build."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_what_is_no_weights_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Code()}, tmp_path / "code.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    (tmp_path / "weights.npz").write_bytes(b"torn")
    said = {
        "code.pt": r"cannot be read .*holds more than weights, and that can run code",
        "empty.pt": "cannot be read .*no state_dict",
        "torn.safetensors": "cannot be read",
        "torn.pth": "cannot be read",
        "weights.npz": "cannot be read",
        "nowhere": r"there is no .*runs/nowhere and no .*; give a run id",
    }
    for name, message in said.items():
        given = name if name == "nowhere" else str(tmp_path / name)
        with pytest.raises(CrossoverError, match=message) as caught:
            start_from(built(0), given, tmp_path)
        assert "\n" not in str(caught.value)
    assert "run" not in capsys.readouterr().out
    (tmp_path / "runs" / "cues-a").mkdir(parents=True)
    with pytest.raises(CrossoverError, match=r"weights\.safetensors does not exist; .*finish the run it names first"):
        start_from(built(0), "cues-a", tmp_path)


def test_timm_weights_are_a_start_and_no_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = "timm:vit_tiny_patch16_224.augreg_in21k"
    config = ModelConfig(name="vit_ti", arch="vit_tiny_patch16_224", patch_size=16, pool="token", args={"depth": 1})
    network: Any = build_model(config, image_size=96, classes=10)
    create = timm.create_model

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(CrossoverError, match=r"in21k cannot be fetched \(no network\).*HF_HOME"):
        start_from(network, tag, tmp_path)

    published: Any = create("vit_tiny_patch16_224", depth=1)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: published)
    start_from(network, tag, tmp_path)
    assert torch.equal(network.blocks[0].attn.qkv.weight, published.blocks[0].attn.qkv.weight)
    assert torch.equal(network.pos_embed[:, :1], published.pos_embed[:, :1])
    assert network.pos_embed.shape[1] == 1 + 36


def test_another_image_seed_gives_other_images_of_the_same_world(tmp_path: Path) -> None:
    one, two = small_run(tmp_path).data, small_run(tmp_path, data__image_seed=0).data
    a, b = (open_dataset(data, tmp_path / "data") for data in (one, two))
    assert cache_folder(one, tmp_path) != cache_folder(two, tmp_path)
    assert (draw_patterns(one)[0] == draw_patterns(two)[0]).all()  # type: ignore[arg-type]
    rows = {image.tobytes() for image in a.images} | {image.tobytes() for image in a.test_images}
    assert len(rows) == len(a.images) + len(a.test_images)
    assert not any(image.tobytes() in rows for part in (b.images, b.test_images) for image in part)
