"""Whatever ends a sweep early on a real Slurm, the same command completes it: the records of an undisturbed sweep."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossover.store import run_state
from tests.cluster.conftest import Cluster, records, runs, starts, until

pytestmark = pytest.mark.cluster

STEPS = 400
SWEEP: dict[str, Any] = {
    "axes": {"model": ["resnet_tiny", "vit_tiny"], "n_train": [64], "chain": [0, 1]},
    "fixed": {"budget.steps": STEPS, "budget.evaluations": 20},
}
ONE_TASK = ["launcher.gpus=2", "launcher.cpus=2", "launcher.runs_per_job=4", "launcher.timeout_min=30"]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    cluster.sweep(folder, SWEEP, "launcher.parallel=2", launcher="local")
    return records(folder)


def under_way(folder: Path) -> list[Path]:
    """Return the runs that are being worked on and have written a point to continue from."""
    found = (folder / "outputs" / "runs").glob("*/last.ckpt")
    return [path.parent for path in found if (path.parent / "lock").exists()]


def begin(cluster: Cluster, folder: Path, *settings: str) -> Path:
    """Submit the sweep and return a run that is under way."""
    cluster.sweep(folder, SWEEP, *ONE_TASK, *settings)
    return until(lambda: under_way(folder))[0]


def owner(run: Path) -> int:
    """Return the process that works on a run: all virtual nodes are this machine."""
    return int(json.loads((run / "lock").read_text())["pid"])


def processes(*words: str) -> list[int]:
    """Return the processes that have all these words in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_text()
            found += [int(path.parent.name)] if all(word in command for word in words) else []
    return found


def task_log(folder: Path) -> str:
    return next((folder / "outputs" / "sweeps" / "t" / "slurm").glob("*.out")).read_text()


def states(folder: Path) -> list[str]:
    return sorted(run_state(run) for run in runs(folder))


def repeat(cluster: Cluster, folder: Path) -> None:
    """Give the command again until all is done, and once more; what was done before must not be done again."""
    stamps = {run: (run / "record.json").read_bytes() for run in runs(folder) if run_state(run) == "done"}
    cluster.sweep(folder, SWEEP, *ONE_TASK)
    cluster.settle()
    assert all((run / "record.json").read_bytes() == stamp for run, stamp in stamps.items())
    assert f"{len(runs(folder))} runs, 0 to do" in cluster.sweep(folder, SWEEP, *ONE_TASK)


def check(folder: Path, undisturbed: dict[str, Any]) -> None:
    assert records(folder) == undisturbed
    assert {record["steps"] for record in records(folder).values()} == {STEPS}
    assert {record["history"][-1]["step"] for record in records(folder).values()} == {STEPS}
    left = {path.name for run in runs(folder) for path in run.iterdir()}
    assert left - {"error.txt"} == {"config.yaml", "log.txt", "predictions.npz", "record.json", "weights.safetensors"}


def test_sigkill_of_a_run(cluster: Cluster, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    run = begin(cluster, tmp_path)
    os.kill(owner(run), signal.SIGKILL)
    cluster.settle()
    assert states(tmp_path) == ["done", "done", "done", "failed"]  # the others went on
    assert "signal 9" in (run / "error.txt").read_text()
    repeat(cluster, tmp_path)
    check(tmp_path, undisturbed)
    assert sorted(starts(tmp_path).values()) == [1, 1, 1, 2]
    assert starts(tmp_path)[run.name] == 2


def test_sigkill_of_the_pool(cluster: Cluster, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    begin(cluster, tmp_path)
    for pid in processes("submitit.core._submit", str(tmp_path)):
        os.kill(pid, signal.SIGKILL)
    cluster.settle()
    assert "done" not in states(tmp_path)[2:]
    repeat(cluster, tmp_path)
    check(tmp_path, undisturbed)


def test_sigkill_of_the_submitting_process(cluster: Cluster, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    first = cluster.start(tmp_path, SWEEP, *ONE_TASK, "launcher.wait=true")
    until(cluster.jobs)  # Slurm has the job; its submitter has perhaps not written that down
    first.kill()
    first.wait()
    second = cluster.start(tmp_path, SWEEP, *ONE_TASK, "launcher.wait=true")
    until(lambda: under_way(tmp_path))
    second.kill()
    second.wait()
    cluster.settle()
    repeat(cluster, tmp_path)
    check(tmp_path, undisturbed)


def requeue(cluster: Cluster) -> None:
    for job in cluster.jobs():
        cluster.slurm("scontrol", "requeue", job)


def preempt(cluster: Cluster) -> None:
    """Let a job of the higher partition take both nodes; it ends when the others were told to leave."""
    cluster.slurm(
        *("sbatch", "--partition=high", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", "--exclusive"),
        *("--output=/dev/null", "--wrap=sleep 3"),
    )


@pytest.mark.parametrize("disturb", [requeue, preempt])
def test_requeue_and_preemption(
    cluster: Cluster, tmp_path: Path, undisturbed: dict[str, Any], disturb: Callable[[Cluster], None]
) -> None:
    begin(cluster, tmp_path)
    disturb(cluster)
    cluster.settle()  # the job is queued again by itself
    assert states(tmp_path) == ["done"] * 4
    assert "SIGTERM: the runs save and end" in task_log(tmp_path)
    assert any("stopped and saved" in (run / "log.txt").read_text() for run in runs(tmp_path))
    repeat(cluster, tmp_path)
    check(tmp_path, undisturbed)
    assert max(starts(tmp_path).values()) == 2


def test_time_limit(cluster: Cluster, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    # Slurm looks every 30 s and signals up to 30 s early: here 60 to 90 s after the start, well after the first save
    run = begin(cluster, tmp_path, "launcher.timeout_min=2", "launcher.signal_seconds=30")
    process = owner(run)
    os.kill(process, signal.SIGSTOP)  # a run that takes long
    until(lambda: "this job is timed-out" in task_log(tmp_path))
    with contextlib.suppress(ProcessLookupError):  # Slurm has sent the same: it may have saved and ended already
        os.kill(process, signal.SIGCONT)
    cluster.settle()
    assert states(tmp_path) == ["done"] * 4
    assert "stopped and saved" in (run / "log.txt").read_text()
    repeat(cluster, tmp_path)
    check(tmp_path, undisturbed)
    assert starts(tmp_path)[run.name] == 2
