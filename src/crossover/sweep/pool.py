"""The pool that trains planned runs on this machine: one process per run from a fork server, several in parallel."""

import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import NamedTuple

from crossover.cli import one_line
from crossover.config import RunConfig
from crossover.store import State, run_state, write_text
from crossover.sweep.job import NOT_FOR_RUNS, OUT_OF_MEMORY, STOPPED, remove_leftovers, run_process

PRELOAD = ["torch", "pytorch_lightning", "timm", "wandb", "wandb.sdk.launch", "crossover.training.run"]
"""Imported once by the fork server: a run then starts in 0.1 s instead of 6 s. wandb.init imports its launch part."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
HUGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
"""Backs the heap with pages of 2 MB (glibc 2.35 or later; others ignore it): 2 to 12 % faster on a CPU."""
GRACE_SECONDS = 20.0
"""Time that a run has to save when the pool ends it; Slurm's usual KillWait is 30 s."""
LONGEST_FOLDER = 60
"""Most bytes in the path of a folder for sockets: Linux allows 107, of which multiprocessing takes up to 40."""
Slot = dict[str, str]
"""The environment of a run, such as CUDA_VISIBLE_DEVICES."""


@dataclass
class Progress:
    """The states of the runs of a sweep in progress."""

    states: dict[str, State]
    slots: int = 1
    notes: list[str] = field(default_factory=list)
    """Messages to the user, one line each, in order."""

    def count(self, state: State) -> int:
        return sum(value == state for value in self.states.values())


class _Active(NamedTuple):
    process: BaseProcess
    device: str
    density: int
    """Runs allowed on its device when it started."""


@dataclass
class Pool:
    """Trains the `runs` that are left, one per slot at a time.

    It waits for runs that another live process holds, for `patience` seconds after all others are done. `context`
    starts the processes; None: a fork server of its own.
    """

    runs: Sequence[RunConfig]
    _: KW_ONLY
    slots: Sequence[Slot]
    report: Callable[[Progress], None]
    patience: float = math.inf
    context: BaseContext | None = None

    def __post_init__(self) -> None:
        self._folders = {run.run_id: run.run_dir for run in self.runs}
        self._allowed = Counter(slot.get("CUDA_VISIBLE_DEVICES", "") for slot in self.slots)
        self._active: dict[str, _Active] = {}
        self.progress = Progress({r: run_state(folder) for r, folder in self._folders.items()}, slots=len(self.slots))
        self._todo = [run_id for run_id, state in self.progress.states.items() if state != "done"]

    def run(self) -> Progress:
        """Return the final states. However this ends, its runs have ended too, and saved runs are continued later."""
        context = self.context or (fork_server() if self._todo else multiprocessing.get_context())
        idle_since = time.monotonic()
        try:
            while self._todo or self._active:
                self._start(context)
                self.report(self.progress)
                if self._active:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > self.patience:
                    break  # another job has the rest
                wait([active.process.sentinel for active in self._active.values()], timeout=min(1.0, self.patience))
                for run_id in [r for r, active in self._active.items() if not active.process.is_alive()]:
                    self._note_end(run_id, self._active.pop(run_id))
        finally:
            end_processes([active.process for active in self._active.values()])
        self.report(self.progress)
        return self.progress

    def _start(self, context: BaseContext) -> None:
        for run_id in list(self._todo):
            used = Counter(active.device for active in self._active.values())
            share = {device: used[device] / allowed for device, allowed in self._allowed.items()}
            device = min(share, key=share.__getitem__)
            if share[device] >= 1:
                return
            state = self.progress.states[run_id] = run_state(self._folders[run_id])
            if state == "running":  # elsewhere
                continue
            self._todo.remove(run_id)
            if state == "done":
                continue
            slot = {"CUDA_VISIBLE_DEVICES": device} if device else {}
            given = (self._folders[run_id], slot)
            process = context.Process(target=run_process, args=given, name=run_id)  # type: ignore[attr-defined]
            process.start()
            self._active[run_id] = _Active(process, device, self._allowed[device])
            self.progress.states[run_id] = "running"

    def _note_end(self, run_id: str, ended: _Active) -> None:
        folder, code = self._folders[run_id], ended.process.exitcode or 0
        state = run_state(folder)
        if state == "done":
            remove_leftovers(folder)  # ours may have lost its lock to the process that finished it, and ended later
        elif state == "running" or code == STOPPED:  # it was taken over, or stopped by someone else
            self._todo.append(run_id)
        elif code == OUT_OF_MEMORY and ended.density > 1:
            self._allow_fewer(ended)
            self._todo.insert(0, run_id)
            state = "missing"
        else:
            state = "failed"
            if not (folder / "error.txt").exists():
                self._write_error(folder, code)
        self.progress.states[run_id] = state

    def _allow_fewer(self, ended: _Active) -> None:
        """Allow half as many runs on a device, once for all the runs that were started at the same density."""
        fewer = ended.density // 2
        if fewer < self._allowed[ended.device]:
            self._allowed[ended.device] = fewer
            self.progress.slots = sum(self._allowed.values())
            name = f"GPU {ended.device}" if ended.device else "this machine"
            self.progress.notes.append(f"out of memory with {ended.density} runs on {name}: going on with {fewer}")

    def _write_error(self, folder: Path, code: int) -> None:
        how, log = f"signal {-code}" if code < 0 else f"exit status {code}", folder / "log.txt"
        try:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] if code > 0 and log.exists() else []
            write_text(folder / "error.txt", "\n".join([f"the process ended with {how}; log: {log}", *last]) + "\n")
        except OSError as error:
            self.progress.notes.append(f"{folder.name} ended with {how}; {one_line(error)}")


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Let the processes of runs save and end; kill those that have not ended after GRACE_SECONDS."""
    try:
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.join()


def fork_server() -> multiprocessing.context.ForkServerContext:
    """Return a context whose server ignores the signals that are for the first process alone.

    The first call starts the server without waiting for its imports: call it early, and work on in the meantime.
    """
    os.environ.update(ONE_THREAD)  # read when numpy and torch are imported, in the fork server
    os.environ.setdefault(*HUGE_PAGES)
    context = multiprocessing.get_context("forkserver")
    # multiprocessing imports the command again in each child: what it has imported so far is imported once
    context.set_forkserver_preload([*PRELOAD, *(name for name in list(sys.modules) if name.startswith("crossover."))])
    usual = tempfile.gettempdir()  # TMPDIR of a cluster job may be too long for a socket
    places = (usual, "/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - for a private folder
    short = (place for place in places if len(os.fsencode(place)) <= LONGEST_FOLDER and os.access(place, os.W_OK))
    # a process that is started while signals are ignored ignores them
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in NOT_FOR_RUNS}
    try:
        tempfile.tempdir = next(short, usual)
        get_temp_dir()  # where multiprocessing puts its sockets, from now on
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = usual
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return context
