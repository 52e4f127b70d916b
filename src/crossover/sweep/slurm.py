"""Sweeps on a Slurm cluster: array tasks, each a local pool over a group of runs, and the state of the queue."""

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Literal

from rich.console import Console
from submitit import AutoExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import DelayedSubmission

from crossover.config import CrossoverError, RunConfig, TrainerConfig
from crossover.lock import STALE_SECONDS
from crossover.store import freeze, is_done, read_frozen, read_record, run_state, write_json
from crossover.sweep.job import STOPPED, run_process
from crossover.sweep.launch import SlurmLauncher, do_runs
from crossover.sweep.plan import estimate_costs, group_runs
from crossover.sweep.pool import Progress, Slot, end_processes, fork_server
from crossover.training.ranks import this_rank

JobState = Literal["queued", "running"]
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED")
POLL_SECONDS = 5.0
KILL_SECONDS = 600.0
"""How long a task waits for Slurm to kill it after its runs have saved."""
WAIT_SECONDS = 60
"""How long the other processes of a run on several nodes may outlive the first one to end."""
DEFAULT_ARRAY_LIMIT = 1000
"""Slurm's own default of MaxArraySize, minus one."""


class RunGroup:
    """One array task: its runs, in a pool on the GPUs and cores that Slurm gave it.

    submitit pickles it for the job, calls it there, and calls `checkpoint` shortly before the time limit.
    """

    def __init__(self, outputs: Path, run_ids: Sequence[str], *, parallel: int | None, runs_per_gpu: int) -> None:
        self.outputs, self.run_ids = outputs, tuple(run_ids)
        self.parallel, self.runs_per_gpu = parallel, runs_per_gpu
        self._stops: list[Callable[[], None]] = []
        """What lets its work save and end."""

    def __call__(self) -> dict[str, str]:
        """Return the final states; raise CrossoverError when a run failed, so that Slurm shows the task as failed."""
        runs = [read_frozen(self.outputs / "runs" / run_id) for run_id in self.run_ids]
        signal.signal(signal.SIGTERM, self._end)
        if this_rank(runs[0].trainer).index > 0:
            self._join(runs[0])
            return {}
        progress = do_runs(
            runs,
            Console(width=160),
            parallel=self.parallel,
            runs_per_gpu=self.runs_per_gpu,
            frozen=True,
            patience=2 * STALE_SECONDS,  # a dead owner's heartbeat is stale by then; others are at work elsewhere
            begin=lambda pool: self._stops.append(pool.stop),
        )
        if failed := progress.count("failed"):
            raise CrossoverError(f"{failed} of {len(runs)} runs failed")
        return dict(progress.states)

    def _join(self, run: RunConfig) -> None:
        """Train as one of the other processes of a run on several nodes, which have no lock and write nothing.

        In a child process, as the first one does in its pool, so that this process can answer Slurm's signals.
        """
        process = fork_server().Process(target=run_process, args=(run.run_dir, Slot(), False), name=run.run_id)
        self._stops.append(lambda: end_processes([process]))
        process.start()
        process.join()
        if process.exitcode not in (0, STOPPED):
            raise CrossoverError(f"a process of {run.run_id} ended with exit status {process.exitcode}")

    def checkpoint(self) -> DelayedSubmission:
        """Let the runs save; return the same callable for the requeued task, which continues them."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from here on Slurm may end us
        self._save()
        again = RunGroup(self.outputs, self.run_ids, parallel=self.parallel, runs_per_gpu=self.runs_per_gpu)
        return DelayedSubmission(again)

    def _save(self) -> None:
        for stop in self._stops:
            stop()

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Let the runs save and wait for the SIGKILL: Slurm does not requeue a preempted task that ends by itself."""
        print("SIGTERM: the runs save and end", flush=True)
        self._save()
        time.sleep(KILL_SECONDS)
        sys.exit(128 + number)


def submit_left(runs: Sequence[RunConfig], launcher: SlurmLauncher, directory: Path, console: Console) -> None:
    """Freeze and submit the runs that are neither done nor in the queue; queued runs are left alone."""
    left = [run for run in runs if not is_done(run.run_dir)]
    noted = noted_tasks(directory)
    queued = {run_id for task in active_jobs(directory) for run_id in noted[task]}
    new = [run for run in left if run.run_id not in queued]
    if len(new) < len(left):
        console.print(f"{len(left) - len(new)} runs are in the queue already", highlight=False)
    if not new:
        return
    freeze(new)
    done = {run.run_id: read_record(run.run_dir / "record.json") for run in runs if is_done(run.run_dir)}
    tasks, jobs = 0, []
    for shape in dict.fromkeys(run.trainer for run in new):
        size = launcher.runs_per_job if shape.num_nodes == 1 else 1
        groups = group_runs([run for run in new if run.trainer == shape], estimate_costs(runs, done), size)
        jobs += submit(groups, launcher, directory, shape)
        tasks += len(groups)
    console.print(
        f"submitted {len(new)} runs in {tasks} tasks: job {', '.join(jobs)}; logs in {directory / 'slurm'}\n"
        f"`make status` shows them; `make cancel SWEEP={directory.name}` ends them; `make report` reads what is done",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def submit(
    groups: Sequence[Sequence[str]], launcher: SlurmLauncher, directory: Path, shape: TrainerConfig
) -> list[str]:
    """Submit one array task per group and return the ids of the jobs; `shape` is common to all runs.

    The runs of each task are written to `directory`/jobs/, one file per submission: each has a single writer.
    """
    if 0 < launcher.gpus < shape.devices:
        raise CrossoverError(
            f"trainer.devices={shape.devices} needs as many GPUs in a task: launcher.gpus={shape.devices}"
        )
    folder = private_folder(directory / "slurm")
    outputs = directory.parent.parent.resolve()
    executor = AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=launcher.timeouts)
    ids = []
    limit = array_limit()
    chunks = [groups[start : start + limit] for start in range(0, len(groups), limit)]
    if len(chunks) > launcher.max_parallel:
        raise CrossoverError(
            f"{len(groups)} tasks need {len(chunks)} arrays of {limit}, more than launcher.max_parallel="
            f"{launcher.max_parallel}; raise it, or put more runs into a task: launcher.runs_per_job"
        )
    parallel = launcher.max_parallel // len(chunks)
    executor.update_parameters(**sbatch_options(launcher, name=directory.name, parallel=parallel, shape=shape))
    for chunk in chunks:
        settings = {"parallel": launcher.parallel, "runs_per_gpu": launcher.runs_per_gpu}
        try:
            jobs = executor.submit_array([RunGroup(outputs, group, **settings) for group in chunk])  # type: ignore[arg-type]
        except (FailedJobError, FailedSubmissionError) as error:
            raise CrossoverError(f"Slurm refused the job: {str(error).strip().splitlines()[-1]}") from None
        ids.append(jobs[0].job_id.split("_")[0])
        (directory / "jobs").mkdir(parents=True, exist_ok=True)
        tasks = {job.job_id: list(group) for job, group in zip(jobs, chunk, strict=True)}
        submitted = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(directory / "jobs" / f"{ids[-1]}.json", {"submitted": submitted, "tasks": tasks})
    return ids


def require_slurm() -> None:
    """Raise CrossoverError if Slurm's commands are missing."""
    missing = [tool for tool in ("sbatch", "srun", "squeue") if shutil.which(tool) is None]
    if missing:
        raise CrossoverError(
            f"launcher=slurm needs Slurm, and there is no {', '.join(missing)} here: start it on a login node of the"
            " cluster, or use launcher=local"
        )


def private_folder(path: Path) -> Path:
    """Return a folder for submitit that only its owner may enter, since a job unpickles its files."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise CrossoverError(f"{path} belongs to another user, whose files would be run as yours; use outputs=DIR")
    path.chmod(0o700)
    return path


def array_limit() -> int:
    """Return how many tasks the cluster allows in one array."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=False)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else DEFAULT_ARRAY_LIMIT


def sbatch_options(launcher: SlurmLauncher, *, name: str, parallel: int, shape: TrainerConfig) -> dict[str, object]:
    """Return submitit's parameters for a task."""
    srun = [f"--cpus-per-task={launcher.cpus}"]  # since Slurm 22.05 a step does not inherit it
    if shape.num_nodes > 1:
        srun += ["--kill-on-bad-exit=1", f"--wait={WAIT_SECONDS}"]  # one process alone would wait for the others
    options = {
        "name": f"crossover-{name}",
        "timeout_min": launcher.timeout_min,
        "nodes": shape.num_nodes,
        "tasks_per_node": shape.devices if shape.num_nodes > 1 else 1,  # on one node the run starts its processes
        "cpus_per_task": launcher.cpus,
        "gpus_per_node": launcher.gpus or None,
        "mem_gb": launcher.mem_gb,
        "slurm_partition": launcher.partition,
        "slurm_account": launcher.account,
        "slurm_qos": launcher.qos,
        "slurm_constraint": launcher.constraint,
        "slurm_setup": launcher.setup or None,
        "slurm_array_parallelism": parallel,
        "slurm_signal_delay_s": launcher.signal_seconds,
        "slurm_stderr_to_stdout": True,
        "slurm_srun_args": srun,
        "slurm_additional_parameters": launcher.sbatch or None,
    }
    return {key: value for key, value in options.items() if value is not None}


def watch(runs: Sequence[RunConfig], directory: Path, report: Callable[[Progress], None]) -> Progress:
    """Wait for the jobs of a sweep, calling `report` meanwhile, and return the states of the runs."""
    progress = Progress({run.run_id: "missing" for run in runs})
    while True:
        jobs = active_jobs(directory)  # before the states: what ended in between is then seen as done
        progress.states = {run.run_id: run_state(run.run_dir) for run in runs}
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


def active_jobs(directory: Path) -> dict[str, JobState]:
    """Return the queued and running tasks of a sweep; raise CrossoverError if Slurm does not answer."""
    tasks = noted_tasks(directory)
    if not tasks:
        return {}
    shown = _slurm("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T")
    states = dict(line.split() for line in shown.splitlines() if line.strip())
    return {task: "queued" if states[task] in QUEUED else "running" for task in tasks if task in states}


def count_jobs(directory: Path) -> Counter[JobState] | None:
    """Return how many tasks are queued and running; None where there is no Slurm or nothing was submitted."""
    if shutil.which("squeue") is None or not (directory / "jobs").is_dir():
        return None
    return Counter(active_jobs(directory).values())


def cancel_jobs(directory: Path) -> int:
    """Cancel the queued and running tasks of a sweep and return their number; running ones save first."""
    active = active_jobs(directory)
    if active:
        _slurm("scancel", *sorted({task.split("_")[0] for task in active}))
    return len(active)


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except FileNotFoundError:
        raise CrossoverError(f"{command[0]} is not there: use a machine with Slurm's commands") from None
    except subprocess.TimeoutExpired:
        raise CrossoverError(f"{command[0]} did not answer for two minutes; try again later") from None
    if done.returncode:
        raise CrossoverError(f"{command[0]}: {(done.stderr.strip() or 'no answer').splitlines()[-1]}")
    return done.stdout
