"""Results by test image: uncertainty from the choice of images, McNemar's test, and errors by class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from scipy import stats

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
CLASS_COLUMNS = ["dataset", "model", "n_train", "class", "error_mean", "error_min", "error_max", "chains"]


class McNemar(TypedDict):
    """One row of `mcnemar` in crossover.json."""

    n_train: int
    pairs: int
    only_a_wrong: int
    only_b_wrong: int
    p_value: float


@dataclass(frozen=True)
class TestImages:
    """Covariance, by the choice of test images, of the mean log errors of a at its sizes and of b at its sizes."""

    __test__ = False
    a: list[float]
    b: list[float]
    cov: Floats | None
    """(len(a) + len(b)) squared; None if unknown."""

    def of(self, sizes_a: Iterable[float], sizes_b: Iterable[float]) -> Floats | None:
        """Return the covariance of log err_b - log err_a; the two sequences of sizes go side by side."""
        if self.cov is None:
            return None
        minus, plus = [self.a.index(n) for n in sizes_a], [len(self.a) + self.b.index(n) for n in sizes_b]
        contrast = np.zeros((len(plus), len(self.cov)))
        contrast[np.arange(len(minus)), minus] = -1
        contrast[np.arange(len(plus)), plus] = 1
        return contrast @ self.cov @ contrast.T


def binomial(errors: Floats, images: Floats) -> Floats:
    """Return the covariance of log errors of one model on `images` test images."""
    sd = np.sqrt((1 - errors) / (errors * images))
    return np.outer(sd, sd) * np.where(np.eye(len(sd)) > 0, 1.0, SHARED)


def sampling(one: pd.DataFrame, other: pd.DataFrame, method: Method) -> tuple[TestImages, list[str]]:
    """Return the covariance for the runs of two models, from predictions or else from the number of test images.

    From predictions in the linearised form of drawing test images again, once for all runs: the same as the bootstrap
    to first order in 1 / T. It counts the interaction of images and chains twice, which widens the band slightly.
    """
    sizes_a, sizes_b = (sorted(float(n) for n in part["n_train"].unique()) for part in (one, other))
    sizes = (sizes_a, sizes_b)
    if method.metric != "test_error":
        return TestImages(sizes_a, sizes_b, None), []
    saved = method.predictions
    missing = sum(run not in saved for part in (one, other) for run in part["run_id"])
    if saved and not missing:
        columns = [
            _influence(part[part["n_train"] == n], saved)
            for part, own in zip((one, other), sizes, strict=True)
            for n in own
        ]
        if len({len(column) for column in columns}) > 1:
            raise AnalysisError("the predictions have different numbers of test images; analyse one test set at a time")
        stacked = np.stack(columns)
        return TestImages(sizes_a, sizes_b, np.cov(stacked) / stacked.shape[1]), []
    notes = [f"Predictions are missing for {missing} runs."] if saved else []
    if any("n_test" not in part or part["n_test"].isna().any() for part in (one, other)):
        return TestImages(sizes_a, sizes_b, None), [*notes, UNKNOWN]
    blocks = []
    for part in (one, other):
        means = part.groupby("n_train").agg(error=(method.metric, "mean"), images=("n_test", "min"))
        blocks.append(binomial(means["error"].to_numpy(float), means["images"].to_numpy(float)))
    cov = np.zeros((len(sizes[0]) + len(sizes[1]),) * 2)
    cov[: len(sizes[0]), : len(sizes[0])], cov[len(sizes[0]) :, len(sizes[0]) :] = blocks
    return TestImages(sizes_a, sizes_b, cov), [*notes, BINOMIAL]


def _influence(runs: pd.DataFrame, predictions: Predictions) -> Floats:
    """Return the influence of each test image on the mean log error of runs of one size, (T,)."""
    wrong = np.array([_wrong(predictions[run]) for run in runs["run_id"]], float)
    return wrong.mean(axis=0) / max(float(wrong.mean()), 0.5 / wrong.size)


def _wrong(prediction: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    labels, predicted = (np.asarray(part) for part in prediction)
    if labels.shape != predicted.shape:
        raise AnalysisError(f"a run has {labels.size} test labels but {predicted.size} predictions; repeat the run")
    return labels != predicted


def mcnemar(one: pd.DataFrame, other: pd.DataFrame, unit: str, predictions: Predictions) -> list[McNemar]:
    """Return McNemar's test at every size with saved predictions of paired runs.

    Pairs share the unit and, where possible, the rank of the seed. Exact for one pair; several pairs share the test
    images: the sum over pairs is taken per image, then tested over images (Durkalski et al. 2003, "Analysis of
    clustered matched-pair data", Stat. Med. 22). It compares these trained networks and ignores the variance of
    training.
    """
    keys = ["n_train", unit]
    ranked = [part.sort_values([*keys, "seed"]) for part in (one, other)]
    ranked = [part.assign(rank=part.groupby(keys).cumcount()) for part in ranked]
    both = ranked[0].merge(ranked[1], on=[*keys, "rank"])
    tests: list[McNemar] = []
    saved = both["run_id_x"].isin(list(predictions)) & both["run_id_y"].isin(list(predictions))
    for n, rows in both[saved].groupby("n_train"):
        sides = [[_wrong(predictions[run]) for run in rows[name]] for name in ("run_id_x", "run_id_y")]
        wrong_a, wrong_b = (np.array(side, float) for side in sides)
        only_a, only_b = int((wrong_a > wrong_b).sum()), int((wrong_b > wrong_a).sum())
        if len(rows) == 1:
            p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        else:
            per_image = (wrong_b - wrong_a).sum(axis=0)
            scale = np.sqrt((per_image**2).sum())
            p = 2 * stats.norm.sf(abs(per_image.sum()) / scale) if scale else 1.0
        tests.append(
            McNemar(
                n_train=round(float(str(n))),
                pairs=len(rows),
                only_a_wrong=only_a,
                only_b_wrong=only_b,
                p_value=float(p),
            )
        )
    return tests


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
    return pd.DataFrame(rows, columns=CLASS_COLUMNS)


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
