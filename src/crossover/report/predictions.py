"""Predicted classes of the test images: read from the runs, and kept in one file with their report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from crossover.analysis.runs import Predictions
from crossover.report.findings import Findings
from crossover.report.section import PREDICTIONS
from crossover.store import write_arrays


def read_predictions(paths: Mapping[str, Path]) -> Predictions:
    """Return labels and predictions of each run."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for run_id, path in paths.items():
        with np.load(path) as saved:
            read[run_id] = saved["labels"], saved["predictions"]
    return read


def pack_predictions(findings: Findings, directory: Path) -> None:
    """Write what `unpack_predictions` reads; nothing if there are none."""
    if not findings.predictions:
        return
    arrays = {f"classes-{dataset}": np.array(names) for dataset, names in findings.names.items()}
    for run_id, dataset in findings.runs[["run_id", "dataset"]].to_numpy():
        if run_id in findings.predictions:
            labels, predicted = (_compact(part) for part in findings.predictions[run_id])
            arrays |= {f"labels-{dataset}": labels, f"predicted-{run_id}": predicted}
    directory.mkdir(parents=True, exist_ok=True)
    write_arrays(directory / PREDICTIONS, arrays)


def unpack_predictions(directory: Path, runs: pd.DataFrame) -> tuple[Predictions, dict[str, Sequence[str]]]:
    """Return the predictions of those runs that have them, and the classes of each data set."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    names: dict[str, Sequence[str]] = {}
    if not (directory / PREDICTIONS).exists():
        return read, names
    with np.load(directory / PREDICTIONS) as saved:
        for run_id, dataset in runs[["run_id", "dataset"]].to_numpy():
            if f"predicted-{run_id}" in saved:
                read[run_id] = saved[f"labels-{dataset}"], saved[f"predicted-{run_id}"]
            if f"classes-{dataset}" in saved:
                names[dataset] = list(map(str, saved[f"classes-{dataset}"]))
    return read, names


def _compact(classes: np.ndarray) -> np.ndarray:
    return classes.astype(np.uint8) if classes.max() < 256 else classes
