"""Runs trained in a process of their own, and what W&B wrote of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from crossover.config import RunConfig
from crossover.record import (
    HISTORY,
    SUMMARY,
    history_row,
)

ROOT = Path(__file__).parents[1]
SECRET = "5ec2e7" * 6 + "5ec2"
START = """
import json, os, sys, threading, time
from pathlib import Path
from crossover import wandb_runs
from crossover.config import parse_run
from crossover.training.loggers import RunMirror
from crossover.training.epochs import StoppedError
from crossover.training.run import execute
wandb_runs.UPLOAD_SECONDS = float(os.environ.get("PATIENCE", "120"))
run, log = parse_run(json.loads(sys.argv[1])), RunMirror.log_metrics
"""
RUN = START + "execute(run)"
STOPPED = (
    START
    + """
stop = threading.Event()
def log_and_stop(mirror, row, step):
    log(mirror, row, step)
    if step == 12: stop.set()
RunMirror.log_metrics = log_and_stop
try: execute(run, stop)
except StoppedError: pass
"""
)
"""A run that is stopped in its middle."""
HELD = (
    START
    + """
def log_and_wait(mirror, row, step):
    log(mirror, row, step)
    while step in (12, 24) and not Path(sys.argv[2], str(step)).exists(): time.sleep(0.02)
RunMirror.log_metrics = log_and_wait
execute(run)
"""
)
"""A run that waits after its second and after its last row until the test lets it go on."""


def program(code: str, run: RunConfig, *more: str) -> list[str]:
    return [sys.executable, "-c", code, run.model_dump_json(), *more]


def without_wandb() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}


def train_apart(run: RunConfig, code: str = RUN, **environment: str) -> str:
    """Train in a process of its own, as W&B starts a service; return what it said."""
    return subprocess.run(
        program(code, run),
        check=True,
        env=without_wandb() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


def train_in_two_parts(run: RunConfig, rest: RunConfig | None = None, **environment: str) -> None:
    train_apart(run, STOPPED, **environment)
    time.sleep(1.1)  # the folders of W&B are named by the second
    train_apart(rest or run, **environment)


def sync(folder: Path, **environment: str) -> str:
    """Return the last line that `make sync` says."""
    command = [sys.executable, "scripts/status.py", "--sync", str(folder / "outputs")]
    known = without_wandb() | {"HOME": str(folder / "home")} | environment
    done = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the history of an offline run."""
    return [r["history"]["item"] for r in records_of(folder) if r["type"] == "history"]


def metrics(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the step and the metrics of each row that has any: not those of pictures alone."""
    names = {"_step", *HISTORY.values(), *SUMMARY.values()}
    kept = [{name: value for name, value in row.items() if name in names} for row in rows]
    return [row for row in kept if len(row) > 1]


def recorded(run: RunConfig) -> list[dict[str, Any]]:
    """Return what the history of a run must be, from its record."""
    history = json.loads((run.run_dir / "record.json").read_text())["history"]
    return [{"_step": row["step"], **history_row(row)} for row in history]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return the records of an offline run, as `wandb leet inspect` reads them."""
    program = str(Path(sys.executable).with_name("wandb"))
    told = subprocess.run(
        [program, "leet", "inspect", "--json", str(folder)], check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in told.stdout.splitlines()]


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return all updates of a kind, in order."""
    updates = [r[kind]["update"] for r in records if r["type"] == kind and "update" in r[kind]]
    return {name: value for update in updates for name, value in update.items()}
