"""scripts/train.py: what it says, and how it ends when it is interrupted, repeated or given several runs."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open

from crossover.training.epochs import ResumePoint, stop_on_signals
from tests.conftest import Called

ROOT = Path(__file__).parents[1]
SMALL = (
    *("data.n_pool=1200", "data.n_val=100", "data.n_test=200", "n_train=100", "recipe.batch_size=16"),
    *("model.args.widths=[8,8]", "model.args.depths=[1,1]", "logger=none", "machine.device=cpu"),
)


def arguments(folder: Path, *overrides: str) -> list[str]:
    return [*SMALL, f"machine.outputs={folder}/outputs", f"machine.data_dir={folder}/data", *overrides]


@pytest.mark.usefixtures("untuned")
def test_a_run_tells_how_far_it_is_and_a_finished_one_that_it_is_done(tmp_path: Path, call: Called) -> None:
    given = arguments(tmp_path, "budget.steps=20", "budget.evaluations=2")
    first = call("train.py", *given)
    assert first.returncode == 0, first.stderr
    assert "step 10 of 20, loss " in first.stdout
    assert "validation error" in first.stdout
    assert first.stdout.splitlines()[-1].endswith("record.json")
    second = call("train.py", *given)
    assert second.returncode == 0
    assert "is done already" in second.stdout
    assert "test error" in second.stdout
    (weights,) = tmp_path.glob("outputs/runs/*/weights.safetensors")
    assert weights.stat().st_mode == weights.with_name("record.json").stat().st_mode
    with safe_open(weights, "pt") as file:
        assert file.metadata()["run_id"] == weights.parent.name
        assert '"arch":"basic_resnet"' in file.metadata()["model"]


def saved_step(folder: Path) -> int:
    (checkpoint,) = folder.glob("outputs/runs/*/last.ckpt")
    return torch.load(checkpoint, weights_only=True)["crossover"]["step"]


def test_an_interrupted_run_saves_and_says_so(tmp_path: Path) -> None:
    long = arguments(tmp_path, "budget.steps=100000", "budget.evaluations=10000")
    usual = ["env", "--default-signal=INT,HUP,TERM"]  # `nohup make test &` ignores some of them
    command = [*usual, sys.executable, str(ROOT / "scripts" / "train.py"), *long]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert any(line.startswith("step ") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate()[1]
    assert process.returncode == 143, errors
    assert "LeafSpec" not in errors
    assert "is saved, and the same command continues it" in errors
    assert saved_step(tmp_path) > 0


@pytest.mark.usefixtures("untuned")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_ctrl_c_and_a_closed_terminal_save_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Called, number: signal.Signals, status: int
) -> None:
    at_batch_end, asked = ResumePoint.on_train_batch_end, list[int]()

    def interrupt(point: ResumePoint, trainer: pl.Trainer, module: Any, *more: Any) -> None:
        if not asked:  # a second signal would end the process
            asked.append(module.step)
            signal.raise_signal(number)
        at_batch_end(point, trainer, module, *more)

    monkeypatch.setattr(ResumePoint, "on_train_batch_end", interrupt)
    signal.signal(number, signal.default_int_handler)  # `nohup make test &` ignores some signals
    done = call("train.py", *arguments(tmp_path, "budget.steps=20", "budget.evaluations=10"))
    assert done.returncode == status, done.stderr
    assert "is saved, and the same command continues it" in done.stderr
    assert [saved_step(tmp_path)] == asked


def test_a_second_ctrl_c_ends_at_once() -> None:
    """Lightning would catch a KeyboardInterrupt, and end with status 1."""
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(signal.SIGINT) as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.is_set(), stop.number) == (True, signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("untuned")
def test_too_little_memory_is_said_in_one_line(tmp_path: Path, call: Called) -> None:
    done = call("train.py", *arguments(tmp_path, "recipe.batch_size=9999999999999"))
    assert (done.returncode, done.stderr.count("\n")) == (2, done.stderr.count("making") + 1)
    assert "error: out of device memory (Unable to allocate" in done.stderr
    assert "lower recipe.batch_size" in done.stderr


@pytest.mark.usefixtures("untuned")
def test_a_bad_run_of_several_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Called
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("train.py", *arguments(tmp_path, "-m", "recipe.lr=-1,0.001", "budget.steps=4"))
    assert done.returncode == 1
    assert "error: run 1: bad configuration: recipe.lr" in done.stderr
    assert "1 runs failed: run 1" in done.stderr
    assert len(list(tmp_path.glob("outputs/runs/*/record.json"))) == 1
