"""A sweep on a real Slurm: right records, distinct devices, the throttle, and nothing that torch is needed for."""

import itertools
import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import SCRIPTS, Cluster, records, runs, starts, until

pytestmark = pytest.mark.cluster

AXES = {"model": ["resnet_tiny", "vit_tiny"], "n_train": [64, 128, 256], "chain": [0, 1, 2, 3]}
SWEEP = {"axes": AXES, "fixed": {"budget.steps": 40, "budget.evaluations": 4}}
SLURM = ["launcher.gpus=1", "launcher.cpus=1", "launcher.runs_per_job=4", "launcher.max_parallel=3"]


def test_24_runs_on_two_nodes_have_the_records_of_a_local_sweep(cluster: Cluster, tmp_path: Path) -> None:
    cluster.sweep(tmp_path / "local", SWEEP, launcher="local")
    folder = tmp_path / "slurm"
    said = cluster.sweep(folder, SWEEP, *SLURM)
    assert "submitted 24 runs in 6 tasks" in said
    together = 0
    deadline = time.monotonic() + 240
    while (jobs := cluster.jobs()) and time.monotonic() < deadline:
        running = sum(state == "RUNNING" for state in jobs.values())
        together = max(together, running)
        time.sleep(0.2)
    assert together == 3  # the throttle; two nodes with two GPUs would take four
    assert "24 runs, 0 to do" in cluster.sweep(folder, SWEEP, *SLURM)
    assert records(folder) == records(tmp_path / "local")
    assert set(starts(folder).values()) == {1}
    check_places(folder)
    check_permissions(folder)


def check_places(folder: Path) -> None:
    """Check that both nodes worked, each GPU on one run at a time, and that no run took itself for a rank."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for run in runs(folder):
        words = (run / "log.txt").read_text().split("\n", 1)[0].split()
        facts = dict(word.split("=", 1) for word in words[2:])
        finished = json.loads((run / "record.json").read_text())["finished"]
        places.setdefault((facts["host"], facts["CUDA_VISIBLE_DEVICES"]), []).append((words[1], finished))
    assert {host for host, _ in places} == {"n0", "n1"}
    assert {gpu for _, gpu in places} == {"0", "1"}
    for spans in places.values():
        ordered = sorted(spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(ordered))


def check_permissions(folder: Path) -> None:
    """Check that only the owner can reach what the jobs unpickle."""
    slurm = folder / "outputs" / "sweeps" / "t" / "slurm"
    assert stat.S_IMODE(slurm.stat().st_mode) == 0o700
    assert list(slurm.glob("*.pkl"))


def test_two_gpus_of_a_task_are_two_slots(cluster: Cluster, tmp_path: Path) -> None:
    sweep = SWEEP | {"axes": {"model": ["resnet_tiny"], "n_train": [64], "chain": [0, 1, 2, 3]}}
    said = cluster.sweep(tmp_path, sweep, "launcher.gpus=2", "launcher.cpus=2", "launcher.wait=true")
    assert "submitted 4 runs in 1 tasks" in said
    assert "4/4 runs done" in said
    assert (tmp_path / "outputs/sweeps/t/report.html").exists()
    gpus = [run.joinpath("log.txt").read_text().split("CUDA_VISIBLE_DEVICES=")[1].split()[0] for run in runs(tmp_path)]
    assert set(gpus) == {"0", "1"}


def test_status_counts_tasks_and_cancel_ends_them(cluster: Cluster, tmp_path: Path) -> None:
    long = {"axes": AXES, "fixed": {"budget.steps": 100_000, "budget.evaluations": 1000}}
    cluster.sweep(tmp_path, long, "launcher.gpus=2", "launcher.runs_per_job=8")

    def script(name: str, *arguments: str) -> str:
        command: list[str | Path] = [sys.executable, SCRIPTS / name, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    until(lambda: len(list((tmp_path / "outputs" / "runs").glob("*/last.ckpt"))) == 4)  # all that run can save
    assert "1 queued, 2 running" in script("status.py")
    assert "24 runs are in the queue already" in cluster.sweep(tmp_path, long, "launcher.gpus=2")
    assert "3 tasks cancelled" in script("status.py", "--cancel", "t")
    cluster.settle()
    assert "0 queued, 0 running" in script("status.py")
    assert not list((tmp_path / "outputs" / "runs").glob("*/lock"))
    saved = [run for run in runs(tmp_path) if "stopped and saved" in read(run / "log.txt")]
    assert len(saved) == 4


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_planning_and_submitting_import_no_torch(cluster: Cluster, tmp_path: Path) -> None:
    cluster.sweep(tmp_path, SWEEP, "dry_run=true", launcher="local")  # writes its config
    code = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    arguments = ["--config-dir", str(tmp_path / "conf"), "sweep=t", "launcher=slurm", "sweep.axes.chain=[0]"]
    command: list[str | Path] = [sys.executable, "-c", code, SCRIPTS / "sweep.py", *arguments, "launcher.gpus=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Slurm refused the job: " in done.stderr  # three GPUs on a node of two: nothing was left in the queue
    done = subprocess.run([*command, "launcher.gpus=1"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    cluster.slurm("scancel", "--user=root")
    cluster.settle()
