"""Which Slurm jobs belong to a sweep, and which of them are queued or running?"""

import getpass
import json
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from crossover.config import CrossoverError
from crossover.store import write_json

JobState = Literal["queued", "running"]


def note_jobs(directory: Path, job: str, tasks: dict[str, list[str]]) -> None:
    """Write which runs each task of a submitted job has. One file per submission: it has one writer."""
    (directory / "jobs").mkdir(parents=True, exist_ok=True)
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(directory / "jobs" / f"{job}.json", {"submitted": submitted, "tasks": tasks})


def noted_tasks(directory: Path) -> dict[str, list[str]]:
    """Return task id to run ids of all that was ever submitted for a sweep."""
    tasks: dict[str, list[str]] = {}
    for path in sorted((directory / "jobs").glob("[0-9]*.json")):
        try:
            tasks |= json.loads(path.read_text())["tasks"]
        except (ValueError, KeyError):
            raise CrossoverError(f"{path} is damaged; delete it (its jobs go on, `squeue` shows them)") from None
    return tasks


def active_jobs(directory: Path) -> dict[str, JobState]:
    """Return the tasks of a sweep that Slurm has in its queue or runs now; raise CrossoverError without an answer."""
    tasks = noted_tasks(directory)
    if not tasks:
        return {}
    shown = _slurm("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T")
    states = dict(line.split() for line in shown.splitlines() if line.strip())
    return {task: _state(states[task]) for task in tasks if task in states}


def queued_runs(directory: Path) -> set[str]:
    """Return the runs that a queued or running task of the sweep already has."""
    tasks = noted_tasks(directory)
    return {run_id for task in active_jobs(directory) for run_id in tasks[task]}


def count_jobs(directory: Path) -> Counter[JobState] | None:
    """Return how many tasks are queued and running; None where there is no Slurm or nothing was submitted."""
    if shutil.which("squeue") is None or not (directory / "jobs").is_dir():
        return None
    return Counter(active_jobs(directory).values())


def cancel_jobs(directory: Path) -> int:
    """Cancel what is queued or running for a sweep and return the number of tasks. Running ones are told to save."""
    active = active_jobs(directory)
    if active:
        _slurm("scancel", *sorted({task.split("_")[0] for task in active}))
    return len(active)


def _state(text: str) -> JobState:
    return "queued" if text in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED") else "running"


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
