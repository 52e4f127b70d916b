"""Submission with stand-ins for Slurm's commands; a real Slurm is in tests/cluster."""

import io
import os
import stat
from pathlib import Path

import pytest
from rich.console import Console

from crossover.config import CrossoverError, RunConfig
from crossover.store import freeze, write_plan
from crossover.sweep.launch import SlurmLauncher
from crossover.sweep.slurm import active_jobs, cancel_jobs, count_jobs, noted_tasks, private_folder, submit_left
from tests.worlds import files_with, small_run

SECRET = "5ec2e7" * 6 + "5ec2"
COMMANDS = {
    "sbatch": 'echo "$@" >> {here}/calls; n=$(wc -l < {here}/calls); echo Submitted batch job $((40 + n))',
    "squeue": "cat {here}/queue",
    "srun": "exit 1",
    "scontrol": "echo MaxArraySize = 1001",
    "scancel": 'echo "$@" >> {here}/cancelled',
}


class Cluster:
    """Slurm as far as a submission sees it: what it was told, and what it says is in its queue."""

    def __init__(self, here: Path) -> None:
        self.here = here

    @property
    def submissions(self) -> int:
        calls = self.here / "calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def queue(self, **states: str) -> None:
        """Say which tasks, such as t41_0, are in which state."""
        lines = [f"{task.removeprefix('t')} {state}\n" for task, state in states.items()]
        (self.here / "queue").write_text("".join(lines))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    here = tmp_path / "slurm"
    here.mkdir()
    for name, body in COMMANDS.items():
        (here / name).write_text(f"#!/bin/sh\n{body.format(here=here)}\n")
        (here / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    found = Cluster(here)
    found.queue()
    return found


def submit(runs: list[RunConfig], directory: Path, **settings: int) -> str:
    """Submit what is left of runs, of which none is done; return what was said."""
    console = Console(file=io.StringIO(), width=200)
    submit_left(runs, SlurmLauncher(kind="slurm", **settings), directory, console)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def planned(folder: Path, count: int) -> tuple[list[RunConfig], Path]:
    runs = [small_run(folder, seed=seed) for seed in range(count)]
    directory = folder / "outputs" / "sweeps" / "s"
    freeze(runs)
    write_plan(directory, "s", "make sweep SWEEP=s", runs)
    return runs, directory


def test_no_run_is_submitted_again_while_it_is_queued(cluster: Cluster, tmp_path: Path) -> None:
    runs, directory = planned(tmp_path, 6)
    frozen = {run.run_id: (run.run_dir / "config.yaml").read_bytes() for run in runs}
    assert "submitted 6 runs in 3 tasks: job 41" in submit(runs, directory, runs_per_job=2)
    assert (tasks := noted_tasks(directory)).keys() == {"41_0", "41_1", "41_2"}
    assert sorted(run for group in tasks.values() for run in group) == sorted(run.run_id for run in runs)
    cluster.queue(t41_0="RUNNING", t41_1="PENDING", t41_2="PENDING", t7_0="PENDING")
    edited = [run.model_copy(update={"machine": run.machine.model_copy(update={"threads": 7})}) for run in runs]
    assert "6 runs are in the queue already" in submit(edited, directory, runs_per_job=2)
    assert cluster.submissions == 1
    assert frozen == {run.run_id: (run.run_dir / "config.yaml").read_bytes() for run in runs}
    cluster.queue(t41_1="PENDING")  # the others ended without a record
    said = submit(runs, directory, runs_per_job=2)
    assert "2 runs are in the queue already" in said
    assert "submitted 4 runs in 2 tasks: job 42" in said
    cluster.queue(t41_1="PENDING", t42_0="PENDING", t42_1="RUNNING")
    tasks = noted_tasks(directory)
    queued = [run for task in active_jobs(directory) for run in tasks[task]]
    assert sorted(queued) == sorted(run.run_id for run in runs)  # each once
    assert count_jobs(directory) == {"queued": 2, "running": 1}


def test_a_submission_leaves_nothing_to_others_and_no_secret(cluster: Cluster, tmp_path: Path) -> None:
    runs, directory = planned(tmp_path, 2)
    (directory / "slurm").mkdir(mode=0o755)
    submit(runs, directory)
    folder = directory / "slurm"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.glob("*.pkl"))
    assert list(folder.glob("*.sh"))
    assert files_with(SECRET, tmp_path) == []


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(CrossoverError, match="belongs to another user, whose files would be run as yours"):
        private_folder(tmp_path / "slurm")


def test_a_refusal_is_one_line_and_notes_no_job(cluster: Cluster, tmp_path: Path) -> None:
    (cluster.here / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: x' >&2; exit 1\n")
    runs, directory = planned(tmp_path, 1)
    with pytest.raises(CrossoverError, match=r"Slurm refused the job: .*invalid partition: x") as caught:
        submit(runs, directory)
    assert "\n" not in str(caught.value)
    assert noted_tasks(directory) == {}


def test_cancel_ends_the_arrays_that_are_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    runs, directory = planned(tmp_path, 4)
    submit(runs, directory, runs_per_job=2)
    cluster.queue(t41_1="RUNNING", t9_0="RUNNING")
    assert cancel_jobs(directory) == 1
    assert (cluster.here / "cancelled").read_text() == "41\n"
