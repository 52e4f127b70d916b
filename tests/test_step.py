"""The step of every engine is the arithmetic of a plain PyTorch loop."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import Images, TrainBatches
from crossover.data.subsets import subset
from crossover.training import run as running
from crossover.training.machine import resolve_engine
from crossover.training.models import build_model
from crossover.training.module import weight_decay_groups
from crossover.training.run import execute
from crossover.training.step import WARM_UP, Captured, Engine, Function, with_engine
from tests.worlds import VIT, results, small_run

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "tune_allocator", lambda: None)


def plain_losses(run: RunConfig, *, bf16: bool) -> list[float]:
    """Return the loss of each step of a loop that shares only data, augmentation and network with ours."""
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    batches = TrainBatches(
        Images(dataset, indices, CPU, 1),
        run.augment,
        batch_size=run.recipe.batch_size,
        seed=run.seed,
    )
    torch.manual_seed(run.seed)
    network = build_model(run.model, image_size=16, classes=10).to(memory_format=torch.channels_last)
    groups = weight_decay_groups(network, run.recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=1, betas=run.recipe.betas, fused=True)
    steps = run.budget.steps or 0
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:  # no warm-up: one step of it, then a cosine
            progress = 0.0 if step == 0 else (step - 1) / (steps - 1)
            group["lr"] = (
                run.recipe.lr * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi, dtype=torch.float64)).item())
            )
        x, target = batches.at(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=run.recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [None, VIT])
def test_a_run_has_the_losses_of_a_plain_loop(tmp_path: Path, model: dict[str, Any] | None, precision: str) -> None:
    changes: dict[str, Any] = {"augment": {"name": "crop_flip", "crop": 2, "flip": True}, "precision": precision}
    if model:
        changes["model"] = model
    run = small_run(tmp_path, **changes)
    expected = plain_losses(run, bf16=precision == "bf16")
    record = execute(run)
    means = [sum(expected[start : start + 6]) / 6 for start in range(0, 24, 6)]
    assert [row["train_loss"] for row in record["history"]] == pytest.approx(means, abs=1e-6)


def test_chunks_do_not_change_a_bf16_run_with_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: dict[str, Any] = {"precision": "bf16", "model": VIT | {"args": VIT["args"] | {"proj_drop_rate": 0.2}}}
    whole = execute(small_run(tmp_path / "a", **changes))
    monkeypatch.setattr("crossover.training.epochs.CHUNK", 1)
    assert results(execute(small_run(tmp_path / "b", **changes))) == results(whole)


class Recorded(Captured):
    """A CUDA graph on a CPU: keeps the function that is captured, and runs it at each replay."""

    def __init__(self, function: Function) -> None:
        self._function, self._calls, self._graph = function, 0, cast(Any, self)
        self.log: list[str] = []

    def warm_up(self, *given: Tensor) -> None:
        self.log.append("eager")
        self._function(*given)

    def capture(self) -> None:
        self.log.append("capture")

    def replay(self) -> None:
        self.log.append("replay")
        self._function(*self._inputs)


def test_a_captured_function_sees_every_input_once() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    captured = Recorded(lambda a, b: seen.append((a.clone(), b.clone())))
    inputs = [(torch.full((4,), float(i)), torch.full((4,), i)) for i in range(WARM_UP + 3)]
    for first, second in inputs:
        captured(first, second)
    torch.testing.assert_close(seen, inputs, rtol=0, atol=0)
    assert captured.log == ["eager"] * WARM_UP + ["capture"] + ["replay"] * 3


def test_steps_before_the_capture_do_not_warn_that_they_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """They did, once a run; in tests a warning is an error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # asked by torch 2.11
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda: MagicMock(is_capturing=lambda: False))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    optimizer = torch.optim.AdamW([torch.zeros(1)], capturable=True)
    seen: list[tuple[Tensor, ...]] = []

    def step(*given: Tensor) -> None:
        optimizer._accelerator_graph_capture_health_check()
        seen.append(given)

    Captured(step, torch.Generator())(torch.zeros(1))
    assert len(seen) == 1


def test_a_graph_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match="needs a CUDA device; use eager or compile"):
        resolve_engine(small_run(tmp_path, machine__engine="graph"), CPU)


def test_what_is_captured_is_for_one_gpu(tmp_path: Path) -> None:
    run, gpu = small_run(tmp_path, trainer={"devices": 2}, machine__engine="compile"), torch.device("cuda", 0)
    with pytest.raises(CrossoverError, match="engine=compile is for one CUDA device; use eager for several"):
        resolve_engine(run, gpu)
    assert resolve_engine(run, CPU) == "compile"


@pytest.mark.slow
def test_a_compiled_network_has_the_draws_of_the_eager_one() -> None:
    batches = cast(Any, SimpleNamespace(augment=lambda *batch: batch, images=SimpleNamespace(device=CPU)))
    network, x, outputs = torch.nn.Dropout(0.2), torch.ones(64), list[Tensor]()
    engines: tuple[Engine, ...] = ("eager", "compile")
    for engine in engines:
        torch.manual_seed(0)
        with_engine(lambda net, x, _: outputs.append(net(x)), network, batches, engine)(x, x)
    assert torch.equal(*outputs)


@pytest.mark.slow
@pytest.mark.parametrize("model", [None, VIT])
def test_compiled_and_eager_runs_agree(tmp_path: Path, model: dict[str, Any] | None) -> None:
    changes: dict[str, Any] = {"model": model} if model else {}
    eager, compiled = (
        execute(small_run(tmp_path / engine, machine__engine=engine, **changes)) for engine in ("eager", "compile")
    )
    for one, other in zip(eager["history"], compiled["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
