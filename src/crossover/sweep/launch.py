"""How do planned runs get done on this machine? One process per run from a fork server, several side by side."""

import itertools
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossover.config import CrossoverError, RunConfig, describe
from crossover.data.images import open_dataset
from crossover.data.subsets import check_size
from crossover.files import write_text
from crossover.sweep.lock import HeldError, RunLock
from crossover.sweep.records import State, run_state, thaw

PRELOAD = ["torch", "pytorch_lightning", "timm", "wandb", "hydra", "crossover.training.run"]
"""Imported once by the fork server: a run then starts in 0.01 s instead of 6 s."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class LauncherConfig(BaseModel):
    """Where a sweep's runs go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["local"]
    parallel: int | None = Field(default=None, ge=1)
    """Runs at a time; null: one per CPU core, or runs_per_gpu on each visible GPU."""
    runs_per_gpu: int = Field(default=1, ge=1)


def parse_launcher(values: dict[str, Any]) -> LauncherConfig:
    """Return a validated launcher; raise CrossoverError naming what is wrong."""
    try:
        return LauncherConfig.model_validate(values)
    except ValidationError as error:
        raise CrossoverError(f"bad launcher: {describe(error)}") from None


@dataclass
class Progress:
    """The states of the runs of a sweep while it goes on."""

    states: dict[str, State]
    seconds: list[float] = field(default_factory=list)
    """Wall time of each run that ended here."""
    slots: int = 1

    def count(self, state: State) -> int:
        return sum(value == state for value in self.states.values())

    @property
    def seconds_left(self) -> float | None:
        """Expected time until the end, from the mean time of the runs done so far; None before the first."""
        if not self.seconds:
            return None
        left = len(self.states) - self.count("done") - self.count("failed") - self.count("running") / 2
        return left * sum(self.seconds) / len(self.seconds) / self.slots


def check_data(runs: Sequence[RunConfig]) -> list[str]:
    """Build the caches that the runs need and return a line for each dataset; raise CrossoverError, before any run
    starts, for data that is missing or too small."""
    lines = []
    for config, group in itertools.groupby(runs, key=lambda run: run.data):
        members = list(group)
        dataset = open_dataset(config, Path(members[0].machine.data_dir))
        for run in members:
            check_size(run.n_train, len(dataset.classes), len(dataset.pool))
        lines.append(
            f"{dataset.name}: {len(dataset.pool):,} training images to draw from, {len(dataset.val):,} for validation,"
            f" {len(dataset.test_labels):,} for test"
        )
    return list(dict.fromkeys(lines))


def execute_locked(run: RunConfig) -> None:
    """Do one run unless it is done; raise HeldError when another process is at it. A failure leaves error.txt."""
    from crossover.training.run import execute  # torch: only in the job

    run.run_dir.mkdir(parents=True, exist_ok=True)
    with RunLock(run.run_dir / "lock", exit_with_parent=multiprocessing.parent_process() is not None):
        if run_state_unlocked(run.run_dir) == "done":
            return
        for leftover in (run.run_dir / "error.txt", *run.run_dir.glob(".*.tmp")):  # of a killed predecessor
            leftover.unlink(missing_ok=True)
        try:
            execute(run)
        except CrossoverError as error:
            write_text(run.run_dir / "error.txt", f"{error}\n")
            raise
        except Exception:
            write_text(run.run_dir / "error.txt", traceback.format_exc())
            raise


def run_state_unlocked(run_dir: Path) -> State:
    """Return the state of a run whose lock we hold ourselves."""
    return "done" if (run_dir / "record.json").exists() else "missing"


def _job(run_dir: Path, environment: dict[str, str]) -> None:
    """Entry point of a run's process: its output goes to log.txt, its exit status tells."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then ends its runs
    log = os.open(run_dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    try:
        execute_locked(thaw(run_dir))
    except HeldError:
        sys.exit(0)
    except CrossoverError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def run_pool(
    runs: Sequence[RunConfig], *, slots: Sequence[dict[str, str]], report: Callable[[Progress], None]
) -> Progress:
    """Do what is left of `runs`, one per slot at a time; return the final states.

    A slot is the environment of its runs (such as CUDA_VISIBLE_DEVICES). Runs that another live process holds are
    waited for. `report` is called about once a second. On KeyboardInterrupt the runs are ended; they resume later.
    """
    folders = {run.run_id: run.run_dir for run in runs}
    progress = Progress({run_id: run_state(folder) for run_id, folder in folders.items()}, slots=len(slots))
    todo = [run_id for run_id, state in progress.states.items() if state != "done"]
    free = list(slots)
    active: dict[str, tuple[BaseProcess, dict[str, str], float]] = {}
    context = _fork_server() if todo else multiprocessing.get_context()
    try:
        while todo or active:
            for run_id in [r for r in todo if run_state(folders[r]) != "running"][: len(free)]:
                todo.remove(run_id)
                slot = free.pop(0)
                process: BaseProcess = context.Process(target=_job, args=(folders[run_id], slot), name=run_id)
                process.start()
                active[run_id] = (process, slot, time.monotonic())
                progress.states[run_id] = "running"
            report(progress)
            wait([process.sentinel for process, _, _ in active.values()], timeout=1.0)
            for run_id in [r for r, (process, _, _) in active.items() if not process.is_alive()]:
                process, slot, started = active.pop(run_id)
                free.append(slot)
                _note_end(progress, run_id, folders[run_id], process, time.monotonic() - started, todo)
    finally:
        for process, _, _ in active.values():
            process.kill()
            process.join()
    report(progress)
    return progress


def _note_end(
    progress: Progress, run_id: str, folder: Path, process: BaseProcess, seconds: float, todo: list[str]
) -> None:
    state = run_state(folder)
    if state == "running":  # another process took it between our look and its lock
        todo.append(run_id)
    elif state != "done":
        state = "failed"
        if not (folder / "error.txt").exists():  # killed: it could not say so itself
            code = process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            write_text(folder / "error.txt", f"the process of this run ended with {how}; log: {folder / 'log.txt'}\n")
    else:
        progress.seconds.append(seconds)
    progress.states[run_id] = state


def _fork_server() -> multiprocessing.context.ForkServerContext:
    os.environ.update(ONE_THREAD)  # read when numpy and torch are imported, in the fork server
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def local_slots(parallel: int | None, runs_per_gpu: int) -> list[dict[str, str]]:
    """Return one environment per run that can go on at a time: on GPUs runs_per_gpu each, else one per CPU core.

    GPUs are counted without touching CUDA, which must not be initialised before the fork.
    """
    gpus = visible_gpus()
    if gpus:
        slots = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(runs_per_gpu) for gpu in gpus]
    else:
        slots = [{} for _ in range(len(os.sched_getaffinity(0)))]
    return slots if parallel is None else (slots * parallel)[:parallel]


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu not in ("", "-1")]
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]
