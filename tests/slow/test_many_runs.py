"""Planning, status and report of 2,000 runs take less than ten seconds each."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossover.training.run import execute
from tests.worlds import small_run

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "scripts"
LIMIT_SECONDS = 10
AXES = {
    "model": ["resnet_tiny", "vit_tiny"],
    "n_train": [round(20 * 1.1**i) for i in range(50)],
    "chain": list(range(20)),
}
FIXED = {"data": "cues", "data.n_pool": 4000, "data.n_val": 100, "data.n_test": 200, "logger": "none"}


def cpu_seconds(folder: Path, script: str, *arguments: str) -> float:
    """Run a script to its end and return the processor time it took: other work on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command: list[str | Path] = [sys.executable, SCRIPTS / script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{script}: {seconds:.1f} s of processor time, {time.perf_counter() - started:.1f} s")
    return seconds


def make_records(outputs: Path, template: dict[str, Any]) -> None:
    """Write for each frozen run a record with an error that falls with n_train, and its predictions."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200).astype(np.int16)
    for folder in (outputs / "runs").iterdir():
        config = json.loads((folder / "config.yaml").read_text())
        family = config["model"]["name"].split("_")[0]
        error = 0.9 * (config["n_train"] / 20) ** (-0.2 if family == "resnet" else -0.3) + (family != "resnet") * 0.1
        wrong = rng.random(200) < error
        predictions = np.where(wrong, (labels + 1) % 10, labels).astype(np.int16)
        changed = {"run_id": folder.name, "model": config["model"]["name"], "family": family, "config": config}
        changed |= {name: config[name] for name in ("n_train", "chain", "seed")} | {"test_error": float(wrong.mean())}
        (folder / "record.json").write_text(json.dumps(template | changed, indent=1))
        np.savez_compressed(folder / "predictions.npz", labels=labels, predictions=predictions)


def test_2000_runs_are_planned_listed_and_reported_in_seconds(tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "sweep"
    conf.mkdir(parents=True)
    (conf / "many.yaml").write_text(json.dumps({"name": "many", "fixed": FIXED, "axes": AXES}))
    sweep = ["--config-dir", str(conf.parent), "sweep=many", "commands=8"]
    cpu_seconds(tmp_path, "sweep.py", *sweep, "sweep.axes.chain=[0]")  # builds the cache of the data
    planning = cpu_seconds(tmp_path, "sweep.py", *sweep)
    assert len(os.listdir(tmp_path / "outputs" / "runs")) == 2000  # noqa: PTH208
    make_records(tmp_path / "outputs", execute(small_run(tmp_path / "template")))
    again = cpu_seconds(tmp_path, "sweep.py", *sweep)
    status = cpu_seconds(tmp_path, "status.py")
    report = min(cpu_seconds(tmp_path, "report.py", "name=many") for _ in range(2))  # a busy machine slows it too
    assert max(planning, again, status, report) < LIMIT_SECONDS, (planning, again, status, report)
