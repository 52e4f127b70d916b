"""Test errors by class and number of training images, from the saved predictions."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from crossover.analysis.runs import primary_runs
from crossover.analysis.testset import Predictions

COLUMNS = ["dataset", "model", "n_train", "class", "error_mean", "error_min", "error_max", "chains"]


def class_table(runs: pd.DataFrame, predictions: Predictions, names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the test error of every class by data set, model and n_train: mean, least and greatest over the runs.

    `names` maps a data set to its class names; without them classes are numbered. Runs without saved predictions are
    left out; the range of a few chains is no interval.
    """
    rows = []
    for dataset, part in runs.groupby("dataset", sort=False):
        chosen = primary_runs(part)[0]
        kept = chosen[chosen["run_id"].isin(list(predictions))]
        for (model, n), group in kept.groupby(["model", "n_train"], sort=False):
            errors = np.array([_errors(*predictions[run_id]) for run_id in group["run_id"]])
            called = names.get(str(dataset)) or [str(label) for label in range(errors.shape[1])]
            for name, values in zip(called, errors.T, strict=True):
                row = {
                    "dataset": dataset,
                    "model": model,
                    "n_train": round(float(str(n))),
                    "class": name,
                    "chains": len(values),
                }
                rows.append(row | {"error_mean": values.mean(), "error_min": values.min(), "error_max": values.max()})
    return pd.DataFrame(rows, columns=COLUMNS)


def _errors(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the error of each class, float (K,)."""
    wrong = np.bincount(labels, weights=labels != predicted)
    return wrong / np.maximum(np.bincount(labels), 1)


def telling_classes(classes: pd.DataFrame, most: int) -> list[str]:
    """Return the classes of one data set in their order, or the `most` in which the models differ most.

    The difference is that of the mean errors at the largest size that all models have.
    """
    names = list(dict.fromkeys(classes["class"]))
    if len(names) <= most:
        return names
    shared = classes.groupby("n_train")["model"].nunique()
    largest = shared[shared == shared.max()].index.max()
    at = classes[classes["n_train"] == largest].groupby("class")["error_mean"]
    spread = (at.max() - at.min()).sort_values(ascending=False, kind="stable")
    kept = set(spread.index[:most])
    return [name for name in names if name in kept]
