"""Atomic file writes, the configs and records of runs, and the state of a run or a sweep as read from these files."""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from crossover.config import CrossoverError, RunConfig, describe, parse_run
from crossover.lock import is_held, process_runs
from crossover.record import RECORD_SCHEMA, Record

State = Literal["done", "running", "failed", "resumable", "missing"]
STATES: tuple[State, ...] = get_args(State)
LONGEST_NAME = 80
"""Most characters of a text in a file name; W&B allows groups of 128, file systems names of 255 bytes."""
NEEDED = (
    *("run_id", "dataset", "model", "n_train", "chain", "seed", "budget", "augment", "recipe", "test_error"),
    *("dataset_hash", "config", "git", "versions"),
)
"""Fields that every record has; older ones may lack others."""
RUN_COLUMNS = ("run_id", "dataset", "model", "n_train", "chain", "budget", "test_error")
"""Columns that every runs.csv has."""
WRITERS = 16
"""Configs written in parallel, as each waits until it is on the disk."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, which is made if needed, then rename it into place.

    The name is unique to the process, so that two writers never share a file; it is removed when `write` fails, and by
    the next writer after one that was killed. The content reaches the disk before the name does, so that a crash of the
    machine leaves no empty file under that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name}.{os.uname().nodename}."
    for left in path.parent.glob(".*.tmp"):
        pid = left.name.removeprefix(ours).removesuffix(".tmp")
        if pid.isdigit() and not process_runs(int(pid)):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{ours}{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # as when a disk is full
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; bytes of file names that are not valid text become escapes."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz atomically."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getvalue()))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinity are errors."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def file_name(text: str) -> str:
    """Return text as part of a file name: different texts give different names, and none leads to another folder."""
    safe = re.sub(r"[^\w.-]", "-", text)[:LONGEST_NAME]
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    return safe if safe == text else f"{safe}-{digest[:6]}"


def replace_block(path: Path, begin: str, end: str, block: str) -> None:
    """Write `block` between the lines `begin` and `end` of a text; raise CrossoverError if they are missing."""
    text = path.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise CrossoverError(f"{path} has lost its markers {begin.strip()} and {end.strip()}; put them back")
    head, rest = text.split(begin, 1)
    write_text(path, head + begin + block + end + rest.split(end, 1)[1])


@dataclass(frozen=True)
class SweepRecords:
    """The state of a sweep, read from its files."""

    name: str
    command: str
    """What repeats it."""
    records: tuple[Record, ...]
    """Of the runs that are done, in the order of the plan."""
    states: Mapping[str, State]
    """Run id of every planned run to its state."""
    errors: Mapping[str, str]
    """Run id to the text of its error.txt."""
    predictions: Mapping[str, Path]
    """Run id to its file of `labels` and `predictions` of the test images."""


def run_state(run_dir: Path) -> State:
    """Return the state of a run, read from its files."""
    if is_done(run_dir):
        return "done"
    if is_held(run_dir / "lock"):
        return "running"
    if (run_dir / "error.txt").exists():
        return "failed"
    return "resumable" if (run_dir / "last.ckpt").exists() else "missing"


def is_done(run_dir: Path) -> bool:
    """Return whether a run has a complete record: if not, it is left to do. A crash may leave a partial one."""
    with suppress(FileNotFoundError, RecursionError, ValueError):
        json.loads((run_dir / "record.json").read_bytes())
        return True
    return False


def weights_file(init_from: str, outputs: Path) -> Path | None:
    """Return the file of initial weights that `init_from` names, which need not exist; None for weights of timm."""
    if init_from.startswith("timm:"):
        return None
    path, run = Path(init_from), outputs / "runs" / init_from
    path = run if run.is_dir() and not path.exists() else path
    return path / "weights.safetensors" if path.is_dir() else path


def weights_hash(init_from: str, outputs: Path) -> str | None:
    """Return the SHA-256 of that file; None for weights of timm, whose names are fixed, and where there is no file."""
    path = weights_file(init_from, outputs)
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def freeze(runs: Iterable[RunConfig]) -> None:
    """Write the resolved config of each run that is neither done nor running; later edits to conf/ cannot affect it."""

    def write(run: RunConfig) -> None:
        if run_state(run.run_dir) not in ("done", "running"):
            write_json(run.run_dir / "config.yaml", run.model_dump(mode="json"))  # JSON is YAML, and quick to read

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(write, runs))


def read_frozen(run_dir: Path) -> RunConfig:
    """Return the frozen config of a run, with its present folder."""
    path = run_dir / "config.yaml"
    try:
        values = json.loads(path.read_text())
        values["machine"]["outputs"] = str(run_dir.parent.parent)
        return parse_run(values)
    except (OSError, ValueError, KeyError, TypeError, CrossoverError) as error:
        raise CrossoverError(f"{path} cannot be read ({error}); repeat the sweep") from None


class Plan(TypedDict):
    """What plan.json holds: the sweep's name, the command that repeats it, and its run ids."""

    name: str
    command: str
    runs: list[str]


_PLAN, _RECORD = TypeAdapter(Plan), TypeAdapter(Record)


def write_plan(directory: Path, name: str, command: str, runs: Iterable[RunConfig]) -> None:
    write_json(directory / "plan.json", {"name": name, "command": command, "runs": [run.run_id for run in runs]})


def read_plan(path: Path) -> Plan:
    return _checked(path, "plan", _PLAN, read_json(path, "plan"))


def read_done(runs: Iterable[RunConfig]) -> list[Record]:
    """Return the records of all runs; raise CrossoverError when one is not done."""
    wanted = list(runs)
    missing = [run.run_id for run in wanted if not is_done(run.run_dir)]
    if missing:
        raise CrossoverError(
            f"{len(missing)} of {len(wanted)} runs are not done, such as {missing[0]}; see its error.txt and repeat"
            " the command"
        )
    return [read_record(run.run_dir / "record.json") for run in wanted]


def read_record(path: Path) -> Record:
    """Return a record; raise CrossoverError if it is torn or of another version."""
    record = read_json(path, "record")
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != RECORD_SCHEMA:
        known = f"this version of crossover reads {RECORD_SCHEMA}; use the one that wrote it, or move it away"
        raise CrossoverError(f"{path} has schema {schema}, {known}")
    if missing := [name for name in NEEDED if name not in record]:
        raise _broken(path, "record", f"it lacks {', '.join(missing)}")
    return _checked(path, "record", _RECORD, record)


def read_table(path: Path, *, needed: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """Return a CSV as pd.read_csv does; raise CrossoverError if it is cut or lacks the columns `needed`."""
    try:
        table = pd.read_csv(path, **options)
    except ValueError as error:
        raise _broken(path, "table", error) from None
    if missing := [name for name in needed if name not in table]:
        raise _broken(path, "table", f"it lacks {', '.join(missing)}")
    return table


def read_json(path: Path, what: str) -> Any:
    """Return the content of a JSON file; raise CrossoverError if it is cut."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _broken(path, what, error) from None


def _checked(path: Path, what: str, kind: TypeAdapter[Any], values: Any) -> Any:
    try:
        kind.validate_python(values)
    except ValidationError as error:
        raise _broken(path, what, describe(error)) from None
    return values


def _broken(path: Path, what: str, reason: object) -> CrossoverError:
    said = " ".join(str(reason).split())
    return CrossoverError(f"{path} is not a whole {what} ({said}); move it away and repeat the command that writes it")


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
    done = {run_id: folder for run_id, folder in folders.items() if states[run_id] == "done"}
    return SweepRecords(
        plan["name"],
        plan["command"],
        records=tuple(read_record(folder / "record.json") for folder in done.values()),
        states=states,
        errors={run_id: read_error(folder) for run_id, folder in folders.items() if states[run_id] == "failed"},
        predictions={r: path for r, folder in done.items() if (path := folder / "predictions.npz").exists()},
    )


def read_error(run_dir: Path) -> str:
    """Return the text of a failed run's error.txt, which is missing where it could not be written."""
    path = run_dir / "error.txt"
    return (path.read_text(errors="replace").strip() if path.exists() else "") or "no message"
