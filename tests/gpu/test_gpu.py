"""What only a GPU can show: make test-gpu. Small runs, one minute in all."""

import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crossover.config import RunConfig
from crossover.record import Record
from crossover.store import freeze, read_record
from crossover.sweep.launch import slots_for
from crossover.sweep.pool import Pool
from crossover.training import run as running
from crossover.training.epochs import StoppedError
from crossover.training.module import Chunk, Classifier
from crossover.training.ranks import visible_gpus
from crossover.training.run import execute
from tests.worlds import VIT, small_run

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPUS == 0, reason="torch sees no CUDA device"),
    pytest.mark.filterwarnings("default"),  # torch gives advice there, such as on TF32; pytest lists it
]
ON_GPU: dict[str, Any] = {"precision": "fp32", "machine__device": "cuda"}
ALL = {"name": "a", "crop": 2, "flip": True, "policy": "randaugment", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "resnet": {"recipe__lr": 0.01},
    "vit": {"model": VIT},
    "bf16": {"model": VIT, "precision": "bf16"},
    "sgd": {"recipe__optimizer": "sgd", "recipe__lr": 0.5, "recipe__grad_clip": 1.0, "recipe__ema_decay": 0.9},
    "depth": {"model": VIT | {"args": VIT["args"] | {"drop_path_rate": 0.2}}},
    "strong": {"augment": ALL},
    "resized": {"augment": {"name": "a", "min_area": 0.08, "policy": "trivialaugment", "cutmix": 1.0}},
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "tune_allocator", lambda: None)


def assert_same_losses(one: Record, other: Record, *, within: float = 1e-4) -> None:
    """Noise of 1e-3 in each gradient moves a loss by up to 5e-5, a rate that stays as it was by 7e-4 or more."""
    assert [row["step"] for row in one["history"]] == [row["step"] for row in other["history"]]
    for row, same in zip(one["history"], other["history"], strict=True):
        assert row["train_loss"] == pytest.approx(same["train_loss"], rel=within)
        assert row["val_loss"] == pytest.approx(same["val_loss"], rel=within)


@pytest.mark.parametrize("engine", ["graph", "compile"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_engine_has_the_losses_of_the_eager_step(tmp_path: Path, engine: str, name: str) -> None:
    changes = ON_GPU | SETTINGS[name]
    eager, other = (execute(small_run(tmp_path / way, machine__engine=way, **changes)) for way in ("eager", engine))
    assert_same_losses(eager, other, within=1e-3 if name == "bf16" else 1e-4)
    assert (other["device_memory_bytes"] or 0) > 0


@pytest.mark.parametrize("resident", [None, 0])
@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_waits_for_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, name: str, resident: float | None
) -> None:
    train, chunks = Classifier.training_step, []

    def watched(module: Classifier, chunk: Chunk) -> None:
        strict = module.step >= 10  # before it tables are made, kernels chosen and the graph is captured
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            train(module, chunk)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        chunks.append(strict)

    monkeypatch.setattr(Classifier, "training_step", watched)
    changes = ON_GPU | SETTINGS[name] | {"machine__engine": engine, "machine__resident_gb": resident}
    execute(small_run(tmp_path, **changes))
    assert chunks.count(True) >= 2


def test_the_gpus_that_are_named_are_those_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus = visible_gpus()
    assert len(gpus) == GPUS
    assert all(gpu.startswith(("GPU-", "MIG-")) for gpu in gpus)


def test_two_runs_at_a_time_go_through_the_fork_server(tmp_path: Path) -> None:
    runs = [small_run(tmp_path, seed=seed, **ON_GPU) for seed in range(4)]
    freeze(runs)
    progress = Pool(runs, slots=slots_for([], None, 2)[:2], report=lambda _: None).run()
    assert set(progress.states.values()) == {"done"}
    records = [read_record(run.run_dir / "record.json") for run in runs]
    assert {record["device"] for record in records} == {torch.cuda.get_device_name(0)}


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    train, stop = Classifier.training_step, threading.Event()

    def train_then_stop(module: Classifier, chunk: Chunk) -> None:
        train(module, chunk)
        if module.step >= step:
            stop.set()

    monkeypatch.setattr(Classifier, "training_step", train_then_stop)
    return stop


@pytest.mark.parametrize(
    ("first", "then"), [("eager", "eager"), ("eager", "graph"), ("graph", "eager"), ("graph", "graph")]
)
@pytest.mark.parametrize("name", ["depth", "sgd"])
def test_a_stopped_run_goes_on_with_any_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, first: str, then: str
) -> None:
    changes = ON_GPU | SETTINGS[name] | {"budget": {"steps": 48, "evaluations": 3}}
    whole = execute(small_run(tmp_path / "whole", **changes))
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        execute(small_run(tmp_path / "parts", machine__engine=first, **changes), stop_at(20, patch))
    assert_same_losses(execute(small_run(tmp_path / "parts", machine__engine=then, **changes)), whole)


def test_a_killed_run_goes_on_from_its_last_validation(tmp_path: Path) -> None:
    changes = ON_GPU | {"budget": {"steps": 1000, "evaluations": 100}, "recipe__lr": 1e-4}
    run = small_run(tmp_path, **changes)
    process = multiprocessing.get_context("spawn").Process(target=execute, args=(run,), daemon=True)
    process.start()
    while process.is_alive() and not (run.run_dir / "last.ckpt").exists():
        process.join(0.05)
    process.kill()
    process.join()
    assert not (run.run_dir / "record.json").exists()
    step = torch.load(run.run_dir / "last.ckpt", weights_only=True, map_location="cpu")["crossover"]["step"]
    assert 0 < step < 1000
    assert execute(run)["history"][-1]["step"] == 1000


@pytest.fixture
def hog() -> Iterator[list[torch.Tensor]]:
    """A list for tensors that take memory from the runs of a test."""
    held: list[torch.Tensor] = []
    yield held
    held.clear()
    torch.cuda.empty_cache()


def test_a_run_that_does_not_fit_beside_another_is_done_after_it(tmp_path: Path, hog: list[torch.Tensor]) -> None:
    # hardly a convolution: cuDNN takes as much memory as there is to try its kernels
    wide = VIT | {"args": VIT["args"] | {"embed_dim": 256, "depth": 6}}
    changes = ON_GPU | {"model": wide, "recipe__batch_size": 4096, "budget": {"steps": 120, "evaluations": 1}}

    def pooled(runs: list[RunConfig], at_once: int) -> list[str]:
        freeze(runs)
        progress = Pool(runs, slots=slots_for([], None, at_once)[:at_once], report=lambda _: None).run()
        assert set(progress.states.values()) == {"done"}
        return progress.notes

    alone = small_run(tmp_path, seed=0, **changes)
    assert pooled([alone], 1) == []
    used = read_record(alone.run_dir / "record.json")["device_memory_bytes"]
    need = (used or 0) + 1e9  # a process has a context as well
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    hog.append(torch.empty(int(free - 1.4 * need), dtype=torch.uint8, device="cuda"))
    notes = pooled([small_run(tmp_path, seed=seed, **changes) for seed in (1, 2)], 2)
    assert [note.split(":")[0] for note in notes] == [f"out of memory with 2 runs on GPU {visible_gpus()[0]}"]


@pytest.mark.skipif(GPUS < 2, reason=f"NCCL joins two GPUs or more; there are {GPUS}")
@pytest.mark.parametrize("name", ["vit", "strong", "depth"])
def test_two_gpus_train_as_one(tmp_path: Path, name: str) -> None:
    changes = ON_GPU | SETTINGS[name]
    one = execute(small_run(tmp_path / "one", **changes))
    two = execute(small_run(tmp_path / "two", trainer={"devices": 2}, **changes))
    if name != "depth":  # each process draws its own stochastic depth
        assert_same_losses(one, two)
    assert two["history"][-1]["step"] == one["history"][-1]["step"]
