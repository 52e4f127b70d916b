"""Records of a small sweep with a known crossover, and its report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from crossover.record import Record
from crossover.report.build import sweep_input, write_report
from crossover.report.contents import Report, pack_predictions
from crossover.store import State, SweepRecords

SIZES = (256, 1024, 4096, 16384, 65536)
N_STAR = 2000.0


def record(model: str, n: int, chain: int, error: float, dataset: str = "cues") -> dict[str, Any]:
    return {
        "schema": 1,
        "run_id": f"{dataset}-{model}-n{n}-c{chain}",
        "dataset": dataset,
        "model": model,
        "family": model.split("_")[0],
        "n_train": n,
        "chain": chain,
        "seed": chain,
        "recipe": "r",
        "augment": "none",
        "budget": "640 steps",
        "test_error": error,
        "val_error": error,
        "train_error": 0.0,
        "n_test": 5000,
        "params": 78042,
        "steps": 640,
        "train_seconds": 10.0,
        "device": "a CPU",
        "precision": "fp32",
        "threads": 1,
        "dataset_hash": "abc",
        "versions": {"torch": "2.14.1"},
        "git": {"commit": "c0ffee", "dirty": False},
        "config": {},
    }


def crossing_records(chains: int = 3, models: tuple[str, ...] = ("resnet_tiny", "vit_tiny")) -> list[dict[str, Any]]:
    """Return records whose curves cross at N_STAR, with one per cent of noise between chains."""
    rng = np.random.default_rng(0)
    records = []
    for model in models:
        for n in SIZES:
            for chain in range(chains):
                slope = -0.25 if model.startswith("resnet") else -0.45
                error = 0.3 * (n / N_STAR) ** slope * np.exp(0.01 * rng.standard_normal())
                records.append(record(model, n, chain, float(min(error, 0.9))))
    return records


def sweep(records: list[dict[str, Any]], **states: State) -> SweepRecords:
    known: dict[str, State] = {r["run_id"]: "done" for r in records}
    known |= states
    errors = {run_id: "Traceback\nValueError: <b>boom</b>\n" for run_id, state in states.items() if state == "failed"}
    return SweepRecords("quick", "make sweep", cast("tuple[Record, ...]", tuple(records)), known, errors, {})


def report_of(
    swept: SweepRecords, directory: Path, also: Sequence[SweepRecords] = (), designs: int = 0, **known: Any
) -> Report:
    """Write the report of a sweep, with what else is known of its runs."""
    inputs = replace(sweep_input(swept, also), **known)
    pack_predictions(inputs, directory)
    return write_report(inputs, directory, designs=designs)
