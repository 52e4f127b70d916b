"""How long does a whole sweep take? `scripts/sweep.py` against one idiomatic process per run, as W&B's agent has it.

The idiomatic process imports, reads the images, trains with both cores (torch's threads and two DataLoader workers),
validates as often as ours and tests the best weights. Reading: both start from the decoded cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset

SCRIPTS = Path(__file__).parents[1] / "scripts"
WORKERS = 2


def ours(settings: list[str], outputs: Path, log: Path) -> dict[str, Any]:
    """Do a sweep from nothing; return wall_seconds and test_error by run."""
    started = time.perf_counter()
    call([sys.executable, str(SCRIPTS / "sweep.py"), f"outputs={outputs}", *settings], log)
    wall = time.perf_counter() - started
    records = [json.loads(path.read_text()) for path in sorted((outputs / "runs").glob("*/record.json"))]
    return {
        "wall_seconds": wall,
        "runs": {_name(r["model"], r["n_train"], r["chain"]): r["test_error"] for r in records},
    }


def idiomatic(runs: list[RunConfig], log: Path) -> dict[str, Any]:
    """Do the same runs one after the other; return wall_seconds, fit_seconds (less imports), test_error by run."""
    started, errors, inside = time.perf_counter(), {}, 0.0
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "run.json").write_text(run.model_dump_json())
            call([sys.executable, "-m", "benchmarks.lone", str(place / "run.json"), str(place / "out.json")], log)
            result = json.loads((place / "out.json").read_text())
        errors[_name(run.model.name, run.n_train, run.chain)] = result["test_error"]
        inside += result["seconds"]
    return {"wall_seconds": time.perf_counter() - started, "fit_seconds": inside, "runs": errors}


def _name(model: str, n_train: int, chain: int) -> str:
    return f"{model} n{n_train} c{chain}"


def call(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command of this package to its end, with its output in `log`; raise CrossoverError when it fails."""
    paths = [str(SCRIPTS.parent / "src"), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    known = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment = os.environ | known | dict(environment or {})
    with log.open("ab") as file:
        code = subprocess.run(command, stdout=file, stderr=file, env=environment, cwd=SCRIPTS.parent).returncode
    if code:
        raise CrossoverError(f"{' '.join(command[1:3])} failed with exit status {code}: see {log}")


def warm_cache(run: RunConfig) -> None:
    """Decode the images once, so that neither way is charged for it."""
    open_dataset(run.data, Path(run.machine.data_dir))
