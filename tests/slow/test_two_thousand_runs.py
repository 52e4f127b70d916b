"""The time that planning, status and report take on a sweep of 2,000 runs, with records in the shape of a real one."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crossover.record import Record, identify
from crossover.store import read_frozen
from crossover.training.run import execute
from tests.worlds import small_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SIZES = [round(n) for n in np.geomspace(64, 65_536, 20)]
CHAINS, TEST = 50, 5_000
LAWS = {"resnet": (0.18, 6.0, 0.55), "vit": (0.10, 12.0, 0.55)}
"""Family to e_inf, B, c of its error e_inf + B n^-c: a crossing near 5,000 images."""


def timed(*command: str) -> tuple[float, str]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, done.stdout


def invent_records(outputs: Path, real: Record) -> None:
    """Give every frozen run a record and predictions, with 3 % of noise between chains."""
    labels = np.random.default_rng(0).integers(10, size=TEST).astype(np.int16)
    for number, folder in enumerate(sorted((outputs / "runs").iterdir())):
        rng, run = np.random.default_rng(number), read_frozen(folder)
        low, scale, exponent = LAWS[run.model.family]
        error = min(0.9, (low + scale * run.n_train**-exponent) * np.exp(0.03 * rng.standard_normal()))
        wrong = rng.random(TEST) < error
        predictions = np.where(wrong, (labels + rng.integers(1, 10, size=TEST)) % 10, labels).astype(np.int16)
        np.savez_compressed(folder / "predictions.npz", labels=labels, predictions=predictions)
        errors = {f"{part}_error": float(wrong.mean()) for part in ("test", "val", "train")}
        by_class = [float(wrong[labels == label].mean()) for label in range(10)]
        own = {"test_error_by_class": by_class, "n_test": TEST, "config": run.model_dump(mode="json")}
        (folder / "record.json").write_text(json.dumps(dict(real) | identify(run) | errors | own))


def test_commands_on_two_thousand_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = execute(small_run(tmp_path / "real"))
    fixed = f"data:cues,data.n_pool:65536,data.n_test:{TEST},budget:steps,budget.steps:640"
    plan = [
        "scripts/sweep.py",
        "sweep.name=thousands",
        f"++sweep.fixed={{{fixed}}}",
        f"sweep.axes.n_train={SIZES}".replace(" ", ""),
        f"sweep.axes.chain={list(range(CHAINS))}".replace(" ", ""),
        f'set=["machine.data_dir={tmp_path}/data","logger=none"]',
        f"outputs={tmp_path}/outputs",
        "commands=8",
    ]
    seconds = {"plan, with the data": timed(*plan)[0], "plan again": timed(*plan)[0]}
    invent_records(tmp_path / "outputs", real)
    seconds["status"], shown = timed("scripts/status.py", str(tmp_path / "outputs"))
    assert "2000" in shown
    (name,) = [path.name for path in (tmp_path / "outputs" / "sweeps").iterdir()]
    for command in ("report", "report again"):
        seconds[command], shown = timed("scripts/report.py", f'name="{name}"', f"outputs={tmp_path}/outputs")
    found = json.loads((tmp_path / "outputs" / "sweeps" / name / "crossover.json").read_text())
    assert found["studies"][0]["pairs"][0]["verdict"] == "crossover"
    with capsys.disabled():
        print("\n2,000 runs: " + ", ".join(f"{command} {value:.1f} s" for command, value in seconds.items()))
