"""Results by test image: uncertainty from the choice of images, McNemar's test, and errors by class."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from scipy import linalg, stats

from crossover.analysis.estimate import Floats
from crossover.analysis.runs import AnalysisError, Method, Predictions, primary_runs

SHARED = 0.5
"""Correlation assumed between the errors of a model at two sizes on the same test images, without predictions."""
BINOMIAL = (
    "No predictions of single test images: their sampling is taken to be binomial, independent between the models and"
    f" correlated by {SHARED:g} between sizes."
)
UNKNOWN = (
    "The number of test images is not known (column n_test): all intervals leave out that other test images would give"
    " other errors."
)


class McNemar(TypedDict):
    """One row of `mcnemar` in crossover.json."""

    n_train: int
    pairs: int
    only_a_wrong: int
    only_b_wrong: int
    p_value: float


def binomial(errors: Floats, images: Floats) -> Floats:
    """Return the covariance of log errors of one model on `images` test images."""
    sd = np.sqrt((1 - errors) / (errors * images))
    return np.outer(sd, sd) * np.where(np.eye(len(sd)) > 0, 1.0, SHARED)


def of_difference(images: pd.DataFrame | None, a: Iterable[float], b: Iterable[float]) -> Floats | None:
    """Return the part of `sampling` in log err_b - log err_a; the two sequences of sizes go side by side."""
    if images is None:
        return None
    minus, plus = ([(side, n) for n in sizes] for side, sizes in enumerate((a, b)))
    contrast = pd.DataFrame(np.eye(len(images)), images.index)
    signs = contrast.loc[plus].to_numpy() - contrast.loc[minus].to_numpy()
    return signs @ images.to_numpy() @ signs.T


def sampling(one: pd.DataFrame, other: pd.DataFrame, method: Method) -> tuple[pd.DataFrame | None, list[str]]:
    """Return the covariance, by the choice of test images, of the mean log errors of two models, and notes.

    Its rows and columns are (0, n) for the first model and (1, n) for the second; None if it is not known. From
    predictions in the linearised form of drawing test images again, once for all runs: the same as the bootstrap
    to first order in 1 / T. It counts the interaction of images and chains twice, which widens the band slightly.
    """
    if method.metric != "test_error":
        return None, []
    runs, saved = pd.concat([one.assign(side=0), other.assign(side=1)]), method.predictions
    groups = runs.groupby(["side", "n_train"])
    cells = groups.size().index
    missing = int((~runs["run_id"].isin(list(saved))).sum())
    if not missing:
        columns = [_influence(rows, saved) for _, rows in groups]
        if len({len(column) for column in columns}) > 1:
            raise AnalysisError("the predictions have different numbers of test images; analyse one test set at a time")
        return pd.DataFrame(np.cov(columns) / len(columns[0]), cells), []
    notes = [f"Predictions are missing for {missing} runs."] if missing < len(runs) else []
    if "n_test" not in runs or runs["n_test"].isna().any():
        return None, [*notes, UNKNOWN]
    means = groups.agg(error=(method.metric, "mean"), images=("n_test", "min")).astype(float)
    blocks = (binomial(part["error"].to_numpy(), part["images"].to_numpy()) for _, part in means.groupby("side"))
    return pd.DataFrame(linalg.block_diag(*blocks), cells), [*notes, BINOMIAL]


def _influence(runs: pd.DataFrame, predictions: Predictions) -> Floats:
    """Return the influence of each test image on the mean log error of runs of one size, (T,)."""
    wrong = _wrong(runs["run_id"], predictions)
    return wrong.mean(axis=0) / max(float(wrong.mean()), 0.5 / wrong.size)


def _wrong(run_ids: Iterable[str], predictions: Predictions) -> Floats:
    """Return which images each run gets wrong, (runs, T)."""
    for labels, predicted in map(predictions.__getitem__, run_ids):
        if labels.shape != predicted.shape:
            raise AnalysisError(f"a run has {labels.size} test labels but {predicted.size} predictions; repeat the run")
    return np.array([predictions[run][0] != predictions[run][1] for run in run_ids], float)


def mcnemar(one: pd.DataFrame, other: pd.DataFrame, unit: str, predictions: Predictions) -> list[McNemar]:
    """Return McNemar's test at every size with saved predictions of paired runs.

    Pairs share the unit and, where possible, the rank of the seed. Exact for one pair; several pairs share the test
    images: the sum over pairs is taken per image, then tested over images (Durkalski et al. 2003, "Analysis of
    clustered matched-pair data", Stat. Med. 22).
    """
    keys = ["n_train", unit]
    ranked = [part.sort_values([*keys, "seed"]) for part in (one, other)]
    ranked = [part.assign(rank=part.groupby(keys).cumcount()) for part in ranked]
    saved = [part[part["run_id"].isin(list(predictions))] for part in ranked]
    tests: list[McNemar] = []
    for n, rows in saved[0].merge(saved[1], on=[*keys, "rank"]).groupby("n_train"):
        difference = _wrong(rows["run_id_y"], predictions) - _wrong(rows["run_id_x"], predictions)
        only_a, only_b = int((difference < 0).sum()), int((difference > 0).sum())
        per_image = difference.sum(axis=0)
        scale = np.sqrt((per_image**2).sum())
        p = 1.0
        if len(rows) == 1 and scale:
            p = stats.binomtest(only_a, only_a + only_b).pvalue
        elif scale:
            p = 2 * stats.norm.sf(abs(per_image.sum()) / scale)
        row = McNemar(
            n_train=round(float(str(n))), pairs=len(rows), only_a_wrong=only_a, only_b_wrong=only_b, p_value=float(p)
        )
        tests.append(row)
    return tests


def class_table(runs: pd.DataFrame, predictions: Predictions, names: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the test error of every class by data set, model and n_train: mean, least and greatest over the runs.

    `names` maps a data set to its classes; without them they are numbered. Runs without predictions are left out.
    """
    rows: list[tuple[Any, ...]] = []
    for dataset, part in runs.groupby("dataset", sort=False):
        chosen = primary_runs(part)[0]
        for run in chosen[chosen["run_id"].isin(list(predictions))].to_dict("records"):
            labels, predicted = predictions[run["run_id"]]
            errors = pd.Series(labels != predicted).groupby(labels).mean()  # of the classes that have test images
            called = names.get(str(dataset)) or list(map(str, range(labels.max() + 1)))
            cell = (dataset, run["model"], round(run["n_train"]))
            rows += [(*cell, called[int(str(label))], error) for label, error in errors.items()]
    keys = ["dataset", "model", "n_train", "class"]
    classes = pd.DataFrame(rows, columns=[*keys, "error"]).groupby(keys, sort=False)["error"]
    return classes.agg(error_mean="mean", error_min="min", error_max="max", chains="size").reset_index()


def telling_classes(classes: pd.DataFrame, most: int) -> list[str]:
    """Return the classes of one data set, at most those in which the models differ most at their largest sizes."""
    largest = classes.groupby("model")["n_train"].transform("max")
    at = classes[classes["n_train"] == largest].groupby("class", sort=False)["error_mean"]
    kept = set((at.max() - at.min()).sort_values(ascending=False, kind="stable").index[:most])
    return [name for name in dict.fromkeys(classes["class"]) if name in kept]
