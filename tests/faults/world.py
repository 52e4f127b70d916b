"""What is disturbed, a sweep of small runs and the command that does what is left of it, and the faults."""

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkProcess
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from rich.console import Console

from crossover.config import RunConfig
from crossover.store import run_state, write_plan
from crossover.sweep.launch import do_runs
from tests.worlds import VIT, results, small_run

FORK = multiprocessing.get_context("fork")
"""What is imported once by the campaign: a command then starts in 0.01 s, where a fork server takes seconds."""
KEPT = {"config.yaml", "log.txt", "predictions.npz", "record.json", "weights.safetensors"}
"""The files of a run that is done."""
ATTEMPTS = 8
"""Repetitions of the command, at most, after the last fault."""
RUNS, STEPS = 4, 40
ATTENTION = VIT | {"args": VIT["args"] | {"proj_drop_rate": 0.1}}
KINDS: tuple[dict[str, Any], ...] = ({}, {"model": ATTENTION, "recipe__ema_decay": 0.9})
"""Both families; one with dropout and a moving average."""


def command(log: Path, runs: Sequence[RunConfig], outputs: Path) -> None:
    """Do what `make sweep` does after composing its runs, up to the report; exit with 1 when a run is not done."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.setsid()  # so that it can be killed with all its runs
    # a run starts with SIGTERM ignored, as from the fork server of the real command
    os.register_at_fork(after_in_child=lambda: signal.signal(SIGTERM, signal.SIG_IGN))
    write_plan(outputs / "sweeps" / "faults", "faults", "make faults", runs)
    progress = do_runs(runs, Console(), parallel=2, context=FORK)
    sys.exit(progress.count("done") < len(runs))


class World:
    """A sweep that faults are done to; what its commands say goes to `folder`.log."""

    def __init__(self, folder: Path, data: Path, rng: random.Random, usual_seconds: float) -> None:
        self.folder, self.rng, self.usual_seconds = folder, rng, usual_seconds
        self.outputs, self.runs_dir = folder / "outputs", folder / "outputs" / "runs"
        shared = {
            "machine__data_dir": str(data),
            "augment": {"name": "crop_flip", "crop": 2, "flip": True},
            "budget": {"steps": STEPS, "evaluations": 8},
        }
        self.runs = [small_run(folder, chain=i // 2, seed=i // 2, **shared, **KINDS[i % 2]) for i in range(RUNS)]
        self.seen: dict[Path, bytes] = {}
        """The records of runs that were done, except for those that a fault damaged."""
        self._started: list[ForkProcess] = []

    def start(self) -> ForkProcess:
        process = FORK.Process(target=command, args=(self.folder.with_suffix(".log"), self.runs, self.outputs))
        process.start()
        self._started.append(process)
        return process

    def pause(self, share: float) -> None:
        """Wait for a random time, at most `share` of what an undisturbed sweep takes."""
        time.sleep(self.rng.uniform(0, share * self.usual_seconds))

    def wait_for(self, condition: Callable[[], object], process: ForkProcess) -> None:
        """Wait until a condition holds or the command has ended."""
        while process.is_alive() and not condition():
            time.sleep(0.005)

    def kill(self, process: ForkProcess) -> str:
        """Kill a command and its runs, which are its session once it has begun; return what was hit."""
        self.wait_for(lambda: os.getsid(process.pid or 0) == process.pid, process)
        if process.is_alive():
            os.killpg(process.pid or 0, SIGKILL)
        process.join()
        return "the pool and its runs"

    def join(self) -> None:
        """Wait for the end of all commands."""
        for process in self._started:
            process.join()

    def workers(self, process: ForkProcess) -> list[int]:
        """Return the processes that hold a run for a command; its session tells that they are its own."""
        found = []
        for run in self.runs:
            with contextlib.suppress(OSError, ValueError):
                pid = int(json.loads((run.run_dir / "lock").read_text())["pid"])
                found += [pid] if os.getsid(pid) == process.pid else []
        return found

    def some(self, pattern: str) -> Path | None:
        """Return a random file that matches in the folders of the runs."""
        found = sorted(self.runs_dir.glob(f"*/{pattern}"))
        return self.rng.choice(found) if found else None

    def done(self) -> int:
        return sum(run_state(run.run_dir) == "done" for run in self.runs)

    def note_done(self) -> list[str]:
        """Return what is wrong: a run that was done before and was done again, although no fault undid it."""
        wrong = []
        for run in self.runs:
            record = run.run_dir / "record.json"
            if run_state(run.run_dir) == "done" and self.seen.setdefault(record, now := record.read_bytes()) != now:
                wrong.append(f"{run.run_id} was done twice")
        return wrong

    def finish(self) -> list[str]:
        """Repeat the command until it succeeds; return what is wrong then, apart from the records."""
        for _ in range(ATTEMPTS):
            process = self.start()
            process.join()
            if process.exitcode == 0:
                break
        else:
            return [f"not done after {ATTEMPTS} repetitions"]
        wrong = self.note_done()
        for run in self.runs:
            left = {path.name for path in run.run_dir.iterdir() if not path.name.startswith((".clock.", ".lock."))}
            if left - {"error.txt"} != KEPT:
                wrong.append(f"{run.run_id} has the files {', '.join(sorted(left))}")
        if len(list(self.runs_dir.iterdir())) != RUNS:
            wrong.append("there are folders of runs that nobody planned")
        return wrong

    def records(self) -> dict[str, Any]:
        """Return the comparable part of each record."""
        return {run.run_id: results(json.loads((run.run_dir / "record.json").read_text())) for run in self.runs}


@dataclass(frozen=True)
class Fault:
    name: str
    how: str
    """For the table."""
    act: Callable[[World, ForkProcess], str | None]
    """Disturbs a command at work; returns what was hit, or None when there was nothing to hit."""
    mounts: bool = False
    """Needs file systems of its own (Linux, a mount namespace)."""

    def strike(self, world: World) -> str | None:
        """Start the command, disturb it at a random moment, and wait for all ends; None: this fault does not count."""
        command = world.start()
        world.pause(0.6)
        what = self.act(world, command) if command.is_alive() else None
        world.join()
        return what


def signal_run(world: World, command: ForkProcess, number: signal.Signals) -> str | None:
    workers = world.workers(command)
    if not workers:
        return None
    os.kill(world.rng.choice(workers), number)
    return f"one of {len(workers)} running"


def signal_command(world: World, command: ForkProcess, number: signal.Signals) -> str | None:
    """End the pool; its runs notice that and end."""
    (command.kill if number == SIGKILL else command.terminate)()
    command.join()
    return "the pool" if command.exitcode in (-SIGKILL, 128 + SIGTERM) else None


def two_commands(world: World, command: ForkProcess, killed: bool) -> str | None:
    world.start()
    if killed:
        world.pause(0.3)
        return signal_command(world, command, SIGKILL)
    return "the first pool"


def tear_after(world: World, command: ForkProcess, name: str) -> str | None:
    """Kill the command and its runs once there is such a file, and damage one; only checkpoints have checksums."""
    world.wait_for(lambda: world.some(name), command)
    world.pause(0.3)
    world.kill(command)
    path = world.some(name)
    if path is None or path.stat().st_size < 2:  # an earlier fault has emptied it
        return None
    world.seen.pop(path, None)
    content = path.read_bytes()
    place = world.rng.randrange(len(content) - 1)  # without its last line end, a file is still whole
    changed = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    torn = {"empty": b"", "truncated": content[:place], "one byte changed": changed}
    how = world.rng.choice(list(torn)[: 3 if path.suffix == ".ckpt" else 2])
    path.write_bytes(torn[how])
    return f"{name} {how}"


def jump_clock(world: World, command: ForkProcess) -> str | None:
    """The clock of the file system jumps, and a second command then judges the heartbeats of the first one's runs."""
    jump = world.rng.choice([-1, 1]) * 10 ** world.rng.uniform(2, 7.5)
    files = [*world.runs_dir.glob("*/lock"), *world.runs_dir.glob("*/last.ckpt")]
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (time.time() + jump,) * 2)
    world.start()
    return f"by {jump:+.0f} s" if files else None


def fill_disk(world: World, command: ForkProcess) -> str:
    left, filler, filled = world.rng.randrange(64 * 1024), world.folder / "filler", False
    with filler.open("wb") as file:
        while not filled:
            with contextlib.suppress(OSError):  # the runs wrote meanwhile
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(world.folder).free - left))
                filled = True
    command.join()
    filler.unlink()
    return f"{left} bytes left"


def mount_read_only(world: World, command: ForkProcess) -> str | None:
    runs = world.runs_dir
    if not runs.is_dir():
        return None
    subprocess.run(["mount", "--bind", runs, runs], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", runs], check=True)
        command.join()
    finally:
        subprocess.run(["umount", "--lazy", runs], check=True)
    return "the folder of the runs"


AFTER = "after a kill: emptied or truncated"
FAULTS = [
    Fault("run killed", "SIGKILL of a run at a random moment", partial(signal_run, number=SIGKILL)),
    Fault("run told to stop", "SIGTERM to a run at a random moment", partial(signal_run, number=SIGTERM)),
    Fault("pool killed", "SIGKILL of the command; its runs are orphans", partial(signal_command, number=SIGKILL)),
    Fault("all killed", "SIGKILL of the command and its runs", World.kill),
    Fault("sweep told to stop", "SIGTERM to the command", partial(signal_command, number=SIGTERM)),
    Fault("two at once", "a second command while one is at work", partial(two_commands, killed=False)),
    Fault("two at once, one killed", "two commands, SIGKILL of the first", partial(two_commands, killed=True)),
    Fault("checkpoint torn", f"{AFTER}, or one byte changed", partial(tear_after, name="last.ckpt")),
    Fault("record torn", AFTER, partial(tear_after, name="record.json")),
    Fault("frozen config torn", AFTER, partial(tear_after, name="config.yaml")),
    Fault("clock jumped", "heartbeats off by 100 s to a year, then a second command", jump_clock),
    Fault("disk full", "0 to 64 kB left from a random moment on", fill_disk, mounts=True),
    Fault("folder read-only", "the folder of the runs, from a random moment on", mount_read_only, mounts=True),
]
