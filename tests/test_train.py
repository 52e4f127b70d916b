"""scripts/train.py: what it says, and how it ends when it is interrupted, repeated or given several runs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from crossover.training.epochs import stop_on_signals

ROOT = Path(__file__).parents[1]
SMALL = (
    *("data.n_pool=1200", "data.n_val=100", "data.n_test=200", "n_train=100", "recipe.batch_size=16"),
    *("model.args.widths=[8,8]", "model.args.depths=[1,1]", "logger=none", "machine.device=cpu"),
)


def command(folder: Path, *overrides: str) -> list[str]:
    places = (f"machine.outputs={folder}/outputs", f"machine.data_dir={folder}/data")
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *SMALL, *places, *overrides]


def trained(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *overrides), capture_output=True, text=True, cwd=folder)


def test_a_run_tells_how_far_it_is_and_a_finished_one_that_it_is_done(tmp_path: Path) -> None:
    first = trained(tmp_path, "budget.steps=20", "budget.evaluations=2")
    assert first.returncode == 0, first.stderr
    assert "step 10 of 20, loss " in first.stdout
    assert "validation error" in first.stdout
    assert "LeafSpec" not in first.stderr
    assert first.stdout.splitlines()[-1].endswith("record.json")
    second = trained(tmp_path, "budget.steps=20", "budget.evaluations=2")
    assert second.returncode == 0
    assert "is done already" in second.stdout
    assert "test error" in second.stdout
    (weights,) = tmp_path.glob("outputs/runs/*/weights.safetensors")
    assert weights.stat().st_mode == weights.with_name("record.json").stat().st_mode
    with safe_open(weights, "pt") as file:
        assert file.metadata()["run_id"] == weights.parent.name
        assert '"arch":"basic_resnet"' in file.metadata()["model"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_interrupted_run_saves_and_says_so(tmp_path: Path, number: signal.Signals, status: int) -> None:
    long = command(tmp_path, "budget.steps=100000", "budget.evaluations=10000")
    usual = ["env", "--default-signal=INT,HUP,TERM"]  # `nohup make test &` ignores some of them
    with subprocess.Popen(
        [*usual, *long], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("step ") for line in process.stdout)
        process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == status, errors
    assert "is saved, and the same command continues it" in errors
    (checkpoint,) = tmp_path.glob("outputs/runs/*/last.ckpt")
    assert torch.load(checkpoint, weights_only=True)["crossover"]["step"] > 0


def test_a_second_ctrl_c_ends_at_once() -> None:
    """Lightning would catch a KeyboardInterrupt, and end with status 1."""
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(signal.SIGINT) as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.is_set(), stop.number) == (True, signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_a_bad_run_of_several_does_not_stop_the_others(tmp_path: Path) -> None:
    done = trained(tmp_path, "-m", "recipe.lr=-1,0.001", "budget.steps=4")
    assert done.returncode == 1
    assert "error: run 1: bad configuration: recipe.lr" in done.stderr
    assert "1 runs failed: run 1" in done.stderr
    assert len(list(tmp_path.glob("outputs/runs/*/record.json"))) == 1
