"""Sweeps on a Slurm cluster: array tasks, each a local pool over a group of runs, and the state of the queue."""

import getpass
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from submitit import AutoExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import DelayedSubmission

from crossover.config import CrossoverError, RunConfig, TrainerConfig
from crossover.store import freeze, is_done, read_frozen, run_state, write_json
from crossover.sweep.job import STOPPED, run_process
from crossover.sweep.launch import SlurmLauncher, do_runs
from crossover.sweep.plan import group_runs
from crossover.sweep.pool import Progress, Slot, end_processes, fork_server
from crossover.text import say
from crossover.training.ranks import this_rank

QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED")
POLL_SECONDS = 5.0
KILL_SECONDS = 600.0
"""How long a task waits for Slurm to kill it after its runs have saved."""
WAIT_SECONDS = 60
"""How long the other processes of a run on several nodes may outlive the first one to end."""
DEFAULT_ARRAY_LIMIT = 1000
"""Slurm's own default of MaxArraySize, minus one."""


@dataclass
class RunGroup:
    """One array task: its runs, in a pool on the GPUs and cores that Slurm gave it.

    submitit pickles it for the job, calls it there, and calls `checkpoint` shortly before the time limit.
    """

    outputs: Path
    run_ids: Sequence[str]
    parallel: int | None
    runs_per_gpu: int

    def __call__(self) -> None:
        """Train the runs; raise CrossoverError when one failed, so that Slurm shows the task as failed."""
        runs = [read_frozen(self.outputs / "runs" / run_id) for run_id in self.run_ids]
        signal.signal(signal.SIGTERM, _save_and_wait)
        if this_rank(runs[0].trainer).index > 0:
            _join(runs[0])
            return
        progress = do_runs(
            runs, Console(width=160), parallel=self.parallel, runs_per_gpu=self.runs_per_gpu, frozen=True
        )
        if failed := progress.count("failed"):
            raise CrossoverError(f"{failed} of {len(runs)} runs failed")

    def checkpoint(self) -> DelayedSubmission:
        """Let the runs save; return the same callable for the requeued task, which continues them."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from here on Slurm may end us
        end_processes(multiprocessing.active_children())
        return DelayedSubmission(self)


def _save_and_wait(number: int, _: object) -> None:
    """Let the runs save and wait for the SIGKILL: Slurm does not requeue a preempted task that ends by itself."""
    print("SIGTERM: the runs save and end", flush=True)
    end_processes(multiprocessing.active_children())
    time.sleep(KILL_SECONDS)
    sys.exit(128 + number)


def _join(run: RunConfig) -> None:
    """Train as one of the other processes of a run on several nodes, which have no lock and write nothing.

    In a child process, as the first one does in its pool, so that this process can answer Slurm's signals.
    """
    process = fork_server().Process(target=run_process, args=(run.run_dir, Slot(), False), name=run.run_id)
    process.start()
    process.join()
    if process.exitcode not in (0, STOPPED):
        raise CrossoverError(f"a process of {run.run_id} ended with exit status {process.exitcode}")


def submit_left(runs: Sequence[RunConfig], launcher: SlurmLauncher, directory: Path, console: Console) -> None:
    """Freeze and submit the runs that are neither done nor in the queue; queued runs are left alone."""
    left = [run for run in runs if not is_done(run.run_dir)]
    noted = noted_tasks(directory)
    queued = {run_id for task in active_jobs(directory) for run_id in noted[task]}
    new = [run for run in left if run.run_id not in queued]
    if len(new) < len(left):
        say(console, f"{len(left) - len(new)} runs are in the queue already")
    if not new:
        return
    freeze(new)
    tasks, jobs = 0, list[str]()
    for shape in dict.fromkeys(run.trainer for run in new):
        size = launcher.runs_per_job if shape.num_nodes == 1 else 1
        groups = group_runs(runs, [run for run in new if run.trainer == shape], size)
        jobs += submit(groups, launcher, directory, shape)
        tasks += len(groups)
    console.print(
        f"submitted {len(new)} runs in {tasks} tasks: job {', '.join(jobs)}; logs in {directory / 'slurm'}\n"
        f"`make status` shows them; `make cancel SWEEP={directory.name}` ends them; `make report` reads what is done",
        highlight=False,
        markup=False,
        soft_wrap=True,  # to be copied
    )


def submit(
    groups: Sequence[Sequence[str]], launcher: SlurmLauncher, directory: Path, shape: TrainerConfig
) -> list[str]:
    """Submit one array task per group and return the ids of the jobs; `shape` is common to all runs.

    The runs of each task are written to `directory`/jobs/, one file per submission: each has a single writer.
    """
    if 0 < launcher.gpus < shape.devices:
        raise CrossoverError(f"trainer.devices={shape.devices} needs as many GPUs: launcher.gpus={shape.devices}")
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    limit = max(1, int(found[1]) - 1) if found else DEFAULT_ARRAY_LIMIT
    chunks = [groups[start : start + limit] for start in range(0, len(groups), limit)]
    folder, outputs = private_folder(directory / "slurm"), directory.parent.parent.resolve()
    executor = AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=launcher.timeouts)
    executor.update_parameters(
        name=f"crossover-{directory.name}",
        slurm_array_parallelism=max(1, launcher.max_parallel // len(chunks)),
        **task_options(launcher, shape),
    )
    ids = []
    for chunk in chunks:
        tasks = [RunGroup(outputs, group, launcher.parallel, launcher.runs_per_gpu) for group in chunk]
        try:
            jobs = executor.submit_array(tasks)
        except (FailedJobError, FailedSubmissionError) as error:
            raise CrossoverError(f"Slurm refused the job: {str(error).strip().splitlines()[-1]}") from None
        ids.append(jobs[0].job_id.split("_")[0])
        noted = {job.job_id: group for job, group in zip(jobs, chunk, strict=True)}
        write_json(directory / "jobs" / f"{ids[-1]}.json", {"tasks": noted})
    return ids


def require_slurm() -> None:
    """Raise CrossoverError where Slurm's commands are missing."""
    if shutil.which("sbatch") is None:
        raise CrossoverError(
            "launcher=slurm needs Slurm: start it on a login node of the cluster, or use launcher=local"
        )


def private_folder(path: Path) -> Path:
    """Return a folder for submitit that only its owner may enter, since a job unpickles its files."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise CrossoverError(f"{path} belongs to another user, whose files would be run as yours; use outputs=DIR")
    path.chmod(0o700)
    return path


def task_options(launcher: SlurmLauncher, shape: TrainerConfig) -> dict[str, object]:
    """Return submitit's parameters for a task, without those that are left to the cluster."""
    srun = [f"--cpus-per-task={launcher.cpus}"]  # since Slurm 22.05 a step does not inherit it
    if shape.num_nodes > 1:
        srun += ["--kill-on-bad-exit=1", f"--wait={WAIT_SECONDS}"]  # one process alone would wait for the others
    own = {f"slurm_{name}": getattr(launcher, name) for name in ("partition", "account", "qos", "constraint", "setup")}
    options = own | {
        "timeout_min": launcher.timeout_min,
        "nodes": shape.num_nodes,
        "tasks_per_node": shape.devices if shape.num_nodes > 1 else 1,  # on one node the run starts its processes
        "cpus_per_task": launcher.cpus,
        "gpus_per_node": launcher.gpus,
        "mem_gb": launcher.mem_gb,
        "slurm_signal_delay_s": launcher.signal_seconds,
        "slurm_stderr_to_stdout": True,
        "slurm_srun_args": srun,
        "slurm_additional_parameters": launcher.sbatch,
    }
    return {name: value for name, value in options.items() if value}


def watch(runs: Sequence[RunConfig], directory: Path, report: Callable[[Progress], None]) -> Progress:
    """Wait for the jobs of a sweep, calling `report` meanwhile, and return the states of the runs."""
    while True:
        jobs = active_jobs(directory)  # before the states: what ended in between is then seen as done
        progress = Progress({run.run_id: run_state(run.run_dir) for run in runs})
        progress.slots = max(1, progress.count("running"))
        report(progress)
        if not jobs:
            return progress
        time.sleep(POLL_SECONDS)


def noted_tasks(directory: Path) -> dict[str, list[str]]:
    """Return the run ids by task id of everything ever submitted for a sweep."""
    tasks: dict[str, list[str]] = {}
    for path in sorted((directory / "jobs").glob("[0-9]*.json")):
        try:
            tasks |= json.loads(path.read_text())["tasks"]
        except (ValueError, KeyError):
            raise CrossoverError(f"{path} is damaged; move it away (its jobs go on, `squeue` shows them)") from None
    return tasks


def active_jobs(directory: Path) -> dict[str, str]:
    """Return the state, queued or running, of the tasks of a sweep that have not ended."""
    tasks = noted_tasks(directory)
    if not tasks:
        return {}
    shown = _slurm("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T")
    states = dict(line.split() for line in shown.splitlines() if line.strip())
    return {task: "queued" if states[task] in QUEUED else "running" for task in tasks if task in states}


def count_jobs(directory: Path) -> Counter[str] | None:
    """Return how many tasks are queued and running; None where there is no Slurm."""
    return Counter(active_jobs(directory).values()) if shutil.which("squeue") else None


def cancel_jobs(directory: Path) -> int:
    """Cancel the queued and running tasks of a sweep and return their number; running ones save first."""
    active = active_jobs(directory)
    if active:
        _slurm("scancel", *sorted({task.split("_")[0] for task in active}))
    return len(active)


def _slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    except FileNotFoundError:
        why = "is not there: use a machine with Slurm's commands"
    except subprocess.TimeoutExpired:
        why = "did not answer for two minutes; try again later"
    except subprocess.CalledProcessError as error:
        why = f"said: {(error.stderr.strip() or 'nothing').splitlines()[-1]}"
    raise CrossoverError(f"{command[0]} {why}")
