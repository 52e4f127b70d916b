"""Results by test image: uncertainty from the choice of images, McNemar's test, and errors by class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        unit = np.eye(len(self.cov))
        contrast = unit[plus] - unit[minus]
        return contrast @ self.cov @ contrast.T

    def at(self, weights: Floats, a: Floats, b: Floats) -> "TestImages":
        """Return it for other sizes, at which the mean log errors are `weights` times those of this one."""
        return TestImages(list(a), list(b), None if self.cov is None else weights @ self.cov @ weights.T)


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
    unknown = TestImages(sizes_a, sizes_b, None)
    if method.metric != "test_error":
        return unknown, []
    runs, saved = pd.concat([one.assign(side=0), other.assign(side=1)]), method.predictions
    missing = int((~runs["run_id"].isin(list(saved))).sum())
    if saved and not missing:
        columns = [_influence(rows, saved) for _, rows in runs.groupby(["side", "n_train"])]
        if len({len(column) for column in columns}) > 1:
            raise AnalysisError("the predictions have different numbers of test images; analyse one test set at a time")
        return TestImages(sizes_a, sizes_b, np.cov(columns) / len(columns[0])), []
    notes = [f"Predictions are missing for {missing} runs."] if missing < len(runs) else []
    if "n_test" not in runs or runs["n_test"].isna().any():
        return unknown, [*notes, UNKNOWN]
    means = runs.groupby(["side", "n_train"]).agg(error=(method.metric, "mean"), images=("n_test", "min")).astype(float)
    blocks = (binomial(part["error"].to_numpy(), part["images"].to_numpy()) for _, part in means.groupby("side"))
    return TestImages(sizes_a, sizes_b, linalg.block_diag(*blocks)), [*notes, BINOMIAL]


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
    clustered matched-pair data", Stat. Med. 22).
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

    `names` maps a data set to its classes; without them they are numbered. Runs without predictions are left out.
    """
    rows = []
    for dataset, part in runs.groupby("dataset", sort=False):
        for run in primary_runs(part)[0].to_dict("records"):
            if run["run_id"] not in predictions:
                continue
            labels, predicted = predictions[run["run_id"]]
            errors = pd.Series(labels != predicted).groupby(labels).mean()  # of the classes that have test images
            called = names.get(str(dataset)) or list(map(str, range(labels.max() + 1)))
            cell = (dataset, run["model"], round(run["n_train"]))
            rows += [(*cell, called[int(str(label))], error) for label, error in errors.items()]
    keys = ["dataset", "model", "n_train", "class"]
    classes = pd.DataFrame(rows, columns=[*keys, "error"]).groupby(keys, sort=False)["error"]
    return classes.agg(error_mean="mean", error_min="min", error_max="max", chains="size").reset_index()


def telling_classes(classes: pd.DataFrame, most: int) -> list[str]:
    """Return the classes of one data set, or the `most` in which the models differ most at the largest shared size."""
    names = list(dict.fromkeys(classes["class"]))
    if len(names) <= most:
        return names
    shared = classes.groupby("n_train")["model"].nunique()
    largest = shared[shared == shared.max()].index.max()
    at = classes[classes["n_train"] == largest].groupby("class")["error_mean"]
    spread = (at.max() - at.min()).sort_values(ascending=False, kind="stable")
    kept = set(spread.index[:most])
    return [name for name in names if name in kept]
