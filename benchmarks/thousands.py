"""How long do planning, status and report take where a sweep has thousands of runs? As commands, as a user starts them.

The runs are planned by `scripts/sweep.py`; their records and predictions are invented, in the shape of real ones.
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.minisweep import SCRIPTS, call
from crossover.config import RunConfig
from crossover.record import identify
from crossover.store import read_frozen
from crossover.training.machine import package_versions

NAME = "thousands"
SIZES = tuple(round(n) for n in np.geomspace(64, 65_536, 20))
POOL, TEST = 65_536, 5_000
"""Images of the embedded world to draw from, and to test on."""
LAWS = {"resnet": (0.18, 6.0, 0.55), "vit": (0.10, 12.0, 0.55)}
"""Family to e_inf, B, c of its error e_inf + B n^-c: a crossing near 5,000 images."""
NOISE = 0.03
"""Of the log error, between chains."""
COMMANDS = ("plan", "plan again", "status", "report", "report again")


def settings(outputs: Path, data_dir: Path, chains: int) -> list[str]:
    """Return the arguments of scripts/sweep.py: the embedded sweep with more sizes and chains, none done."""
    fixed = {"data": "cues", "data.n_pool": POOL, "data.n_test": TEST, "budget": "steps", "budget.steps": 640}
    pairs = ",".join(f"{key}:{value}" for key, value in fixed.items())
    return [
        f"sweep.name={NAME}",
        f"++sweep.fixed={{{pairs}}}",
        f"sweep.axes.n_train=[{','.join(map(str, SIZES))}]",
        f"sweep.axes.chain=[{','.join(map(str, range(chains)))}]",
        f'set=["machine.data_dir={data_dir.resolve()}"]',
        f"outputs={outputs}",
        "commands=8",
    ]


def measure(place: Path, data_dir: Path, chains: int, log: Path) -> list[dict[str, Any]]:
    """Plan, invent the records, and report once; return a row per command with wall_seconds and cpu_seconds."""
    outputs, rows = place / "outputs", []
    plan = ["sweep.py", *settings(outputs, data_dir, chains)]
    report = ["report.py", f"name={NAME}", f"outputs={outputs}"]
    arguments = dict(zip(COMMANDS, (plan, plan, ["status.py", str(outputs)], report, report), strict=True))
    for command in COMMANDS:
        if command == "status":
            invent_records(outputs)
        script, *rest = arguments[command]
        rows.append({"way": command} | _timed([sys.executable, str(SCRIPTS / script), *rest], log))
    shutil.rmtree(outputs)
    return rows


def _timed(command: list[str], log: Path) -> dict[str, float]:
    started, before = time.perf_counter(), _cpu_seconds()
    call(command, log)
    return {"wall_seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - before}


def _cpu_seconds() -> float:
    """Return what the processes that we started, and theirs, have used so far, in user and system mode."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def invent_records(outputs: Path) -> None:
    """Give every frozen run below `outputs` a record and predictions, as if it had been done."""
    labels, versions = np.random.default_rng(0).integers(10, size=TEST).astype(np.int16), package_versions()
    for number, folder in enumerate(sorted((outputs / "runs").iterdir())):
        rng = np.random.default_rng(number)
        run = read_frozen(folder)
        low, scale, exponent = LAWS[run.model.family]
        error = min(0.9, (low + scale * run.n_train**-exponent) * np.exp(NOISE * rng.standard_normal()))
        wrong = rng.random(TEST) < error
        predictions = np.where(wrong, (labels + rng.integers(1, 10, size=TEST)) % 10, labels).astype(np.int16)
        np.savez_compressed(folder / "predictions.npz", labels=labels, predictions=predictions)
        by_class = [float(wrong[labels == label].mean()) for label in range(10)]
        record = invent_record(run, float(wrong.mean()), by_class) | {"versions": versions}
        (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")


def invent_record(run: RunConfig, error: float, by_class: list[float]) -> dict[str, Any]:
    """Return a record with the fields of a real one."""
    steps, evaluations = run.budget.steps or 1, run.budget.evaluations
    seen = steps * run.recipe.batch_size
    history = [
        {
            "step": steps * (k + 1) // evaluations,
            "images_seen": seen * (k + 1) // evaluations,
            "lr": run.recipe.lr,
            "train_loss": 1.0,
            "train_error": error,
            "images_per_second": 2_500.0,
            "val_loss": 1.0,
            "val_error": error,
        }
        for k in range(evaluations)
    ]
    return identify(run) | {
        "steps": steps,
        "images_seen": seen,
        "params": 78_042,
        "flops": 3 * 6_251_776 * seen,
        "forward_flops": 6_251_776,
        "loss_floor": 0.5,
        "device": "invented",
        "precision": "fp32",
        "engine": "eager",
        "threads": 1,
        "dataset_hash": "invented",
        "subset_hash": "invented",
        "init_hash": None,
        "test_error": error,
        "train_error": error,
        "test_loss": 1.0 + error,
        "train_loss": 1.0,
        "val_error": error,
        "val_loss": 1.0 + error,
        "test_error_by_class": by_class,
        "n_test": TEST,
        "best_step": steps,
        "train_seconds": 10.0,
        "images_per_second": 2_500.0,
        "history": history,
        "total_seconds": 12.0,
        "finished": "2026-01-01T00:00:00+00:00",
        "peak_rss_bytes": 700_000_000,
        "device_memory_bytes": None,
        "git": {"commit": "0" * 40, "dirty": False},
        "classes": [str(label) for label in range(10)],
        "config": run.model_dump(mode="json"),
    }
