"""What is disturbed: a sweep of small runs in a folder of its own, and the command that does what is left of it."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
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
STEPS = 40


def campaign_runs(outputs: Path, data: Path) -> list[RunConfig]:
    """Return the sweep: four runs of 40 steps on the embedded world, of both families, one with a moving average."""
    attention = VIT | {"args": VIT["args"] | {"proj_drop_rate": 0.1}}
    kinds: tuple[dict[str, Any], ...] = ({}, {"model": attention, "recipe__ema_decay": 0.9})
    shared = {"augment": {"name": "crop_flip", "crop": 2, "flip": True}, "budget": {"steps": STEPS, "evaluations": 8}}
    return [
        small_run(outputs.parent, chain=chain, seed=chain, machine__data_dir=str(data), **kind, **shared)
        for kind in kinds
        for chain in (0, 1)
    ]


def command(log: Path, runs: Sequence[RunConfig], outputs: Path) -> None:
    """Do what `make sweep` does after composing its runs, up to the report; exit with 1 when a run is not done."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.setsid()  # so that it can be killed with all its runs
    # a run starts with SIGTERM ignored, as from the fork server of the real command
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    write_plan(outputs / "sweeps" / "faults", "faults", "make faults", runs)
    progress = do_runs(runs, Console(), parallel=2, context=FORK)
    sys.exit(progress.count("done") < len(runs))


class World:
    """A sweep that faults are done to; what its commands say goes to `folder`.log."""

    def __init__(self, folder: Path, data: Path, rng: random.Random, usual_seconds: float) -> None:
        self.folder, self.rng, self.usual_seconds = folder, rng, usual_seconds
        self.outputs = folder / "outputs"
        self.runs = campaign_runs(self.outputs, data)
        self.torn: list[Path] = []
        """Files that a fault damaged."""
        self._done: dict[str, bytes] = {}
        self._started: list[ForkProcess] = []

    def start(self, pause: float = 0.0) -> ForkProcess:
        """Start the command, and wait for a random time of at most the share `pause`, as in `pause`."""
        process = FORK.Process(target=command, args=(self.folder.with_suffix(".log"), self.runs, self.outputs))
        process.start()
        self._started.append(process)
        if pause:
            self.pause(pause)
        return process

    def pause(self, share: float = 1.0) -> None:
        """Wait for a random time, at most `share` of what an undisturbed sweep takes."""
        time.sleep(self.rng.uniform(0, share * self.usual_seconds))

    def wait_for(self, condition: Callable[[], object], process: ForkProcess) -> None:
        """Wait until a condition holds or the command has ended."""
        while process.is_alive() and not condition():
            time.sleep(0.005)

    def workers(self, process: ForkProcess) -> list[int]:
        """Return the processes that hold a run for a command; its session tells that they are its own."""
        found = []
        for run in self.runs:
            try:
                pid = int(json.loads((run.run_dir / "lock").read_text())["pid"])
                found += [pid] if os.getsid(pid) == process.pid else []
            except (OSError, ValueError):
                continue
        return found

    def some(self, pattern: str) -> Path | None:
        """Return a random file that matches in the folders of the runs."""
        found = sorted((self.outputs / "runs").glob(f"*/{pattern}"))
        return self.rng.choice(found) if found else None

    def done(self) -> int:
        return sum(run_state(run.run_dir) == "done" for run in self.runs)

    def note_done(self) -> list[str]:
        """Return what is wrong: a run that was done before and was done again, although no fault undid it."""
        for path in self.torn:
            if path.name == "record.json":
                self._done.pop(path.parent.name, None)
        self.torn.clear()
        wrong = []
        for run in self.runs:
            if run_state(run.run_dir) == "done":
                content = (run.run_dir / "record.json").read_bytes()
                if self._done.setdefault(run.run_id, content) != content:
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
        if len(list((self.outputs / "runs").iterdir())) != len(self.runs):
            wrong.append("there are folders of runs that nobody planned")
        return wrong

    def records(self) -> dict[str, Any]:
        """Return the comparable part of each record."""
        return {run.run_id: results(json.loads((run.run_dir / "record.json").read_text())) for run in self.runs}

    def end(self) -> None:
        """Kill what is left of the commands."""
        for process in self._started:
            if process.is_alive():
                process.kill()
            process.join()
