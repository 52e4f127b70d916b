"""What is known about the runs of a sweep? Read from files alone; needs no torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from crossover.config import RECORD_SCHEMA, CrossoverError, RunConfig, parse_run
from crossover.files import write_json
from crossover.lock import is_held

State = Literal["done", "failed", "running", "resumable", "missing"]
WRITERS = 16
"""Configs that are written at a time: each waits until the disk has it."""
STATES: tuple[State, ...] = ("done", "running", "failed", "resumable", "missing")
COLUMNS = [
    *("run_id", "dataset", "model", "family", "n_train", "chain", "seed", "recipe", "augment", "budget"),
    *(
        "test_error",
        "test_loss",
        "val_error",
        "val_loss",
        "last_val_error",
        "train_error",
        "train_loss",
        "loss_floor",
        "best_step",
    ),
    *("n_test", "steps", "images_seen", "params", "flops", "forward_flops", "train_seconds", "total_seconds"),
    *("images_per_second", "peak_rss_bytes", "device_memory_bytes", "device", "precision"),
]


@dataclass(frozen=True)
class SweepRecords:
    """A sweep as its files tell it."""

    name: str
    command: str
    """What repeats it."""
    planned: tuple[str, ...]
    """Run ids of the plan."""
    records: tuple[dict[str, Any], ...]
    """The record.json of the runs that are done, in the order of the plan."""
    states: Mapping[str, State]
    errors: Mapping[str, str]
    """Run id to the text of its error.txt."""
    predictions: Mapping[str, Path]
    """Run id to its predictions.npz: `labels` and `predictions` of the test images."""


def run_state(run_dir: Path) -> State:
    """Return what the files of a run say."""
    if is_done(run_dir):
        return "done"
    if is_held(run_dir / "lock"):
        return "running"
    if (run_dir / "error.txt").exists():
        return "failed"
    return "resumable" if (run_dir / "last.ckpt").exists() else "missing"


def is_done(run_dir: Path) -> bool:
    """Return whether a run has a whole record. A crashed file system may leave half of one: its run is made again."""
    try:
        json.loads((run_dir / "record.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def freeze(runs: Iterable[RunConfig]) -> None:
    """Write the resolved config of each run that is neither done nor running; later edits of conf/ cannot touch it."""
    with ThreadPoolExecutor(WRITERS) as threads:
        for _ in threads.map(_freeze, runs):
            pass


def _freeze(run: RunConfig) -> None:
    if run_state(run.run_dir) in ("done", "running"):
        return
    run.run_dir.mkdir(parents=True, exist_ok=True)
    path, values = run.run_dir / "config.yaml", run.model_dump(mode="json")
    if not _holds(path, values):
        write_json(path, values)  # JSON is YAML, and quick to read


def _holds(path: Path, values: dict[str, Any]) -> bool:
    """Return whether a file has these values already: thousands need not be written, and reach the disk, again."""
    try:
        return bool(json.loads(path.read_bytes()) == values)
    except (FileNotFoundError, ValueError):
        return False


def thaw(run_dir: Path) -> RunConfig:
    """Return the frozen config of a run, where it lies now."""
    path = run_dir / "config.yaml"
    try:
        values = json.loads(path.read_text())
        values["machine"]["outputs"] = str(run_dir.parent.parent)
        return parse_run(values)
    except (OSError, ValueError, KeyError, TypeError, CrossoverError) as error:
        raise CrossoverError(f"{path} cannot be read ({error}); repeat the sweep") from None


def write_plan(directory: Path, name: str, command: str, runs: Iterable[RunConfig]) -> None:
    """Write the plan of a sweep: its name, the command that repeats it and its run ids."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "plan.json", {"name": name, "command": command, "runs": [run.run_id for run in runs]})


def read_plan(path: Path) -> dict[str, Any]:
    """Return a plan as write_plan wrote it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CrossoverError(f"{path} is not a whole plan ({error}); delete it and repeat the sweep") from None


def read_record(path: Path) -> dict[str, Any]:
    """Return a record; raise CrossoverError for a torn one or one of another version."""
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise CrossoverError(f"{path} is not a whole record ({error}); delete it and repeat the sweep") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != RECORD_SCHEMA:
        raise CrossoverError(
            f"{path} has schema {schema}, this version of crossover reads {RECORD_SCHEMA}; move it away (its run is"
            " then made again) or use the version that wrote it"
        )
    return record


def read_sweep(outputs: Path, name: str) -> SweepRecords:
    """Return all that is known of a planned sweep."""
    path = outputs / "sweeps" / name / "plan.json"
    if not path.exists():
        known = sorted(p.parent.name for p in (outputs / "sweeps").glob("*/plan.json"))
        raise CrossoverError(
            f"no sweep {name!r} in {outputs}/sweeps; there is {', '.join(known) or 'none'};"
            f" make sweep SWEEP={name} starts it"
        )
    plan = read_plan(path)
    folders = {run_id: outputs / "runs" / run_id for run_id in plan["runs"]}
    states = {run_id: run_state(folder) for run_id, folder in folders.items()}
    done = [run_id for run_id in folders if states[run_id] == "done"]
    failed = [run_id for run_id in folders if states[run_id] == "failed"]
    return SweepRecords(
        name=plan["name"],
        command=plan["command"],
        planned=tuple(folders),
        records=tuple(read_record(folders[run_id] / "record.json") for run_id in done),
        states=states,
        errors={run_id: read_error(outputs, run_id) for run_id in failed},
        predictions={r: p for r in done if (p := folders[r] / "predictions.npz").exists()},
    )


def read_error(outputs: Path, run_id: str) -> str:
    """Return the text of a failed run's error.txt; empty where it could not be written."""
    path = outputs / "runs" / run_id / "error.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def runs_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return one row per record with the columns of runs.csv; `last_val_error` is that of the last validation."""
    last = ({"last_val_error": history[-1]["val_error"]} if (history := r.get("history")) else {} for r in records)
    rows = [{name: (record | more).get(name) for name in COLUMNS} for record, more in zip(records, last, strict=True)]
    return pd.DataFrame(rows, columns=COLUMNS)
