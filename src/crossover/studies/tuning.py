"""What would k trials have found? Best-of-k curves of a search for recipes, and its choice. Validation errors alone."""

from math import comb

import numpy as np
import pandas as pd

from crossover.analysis.runs import AnalysisError


def expected_best(errors: np.ndarray) -> np.ndarray:
    """Return the expected lowest error of k of the T trials, drawn without replacement, for k = 1..T.

    E[min] = sum over sorted errors e_i of e_i C(T - i, k - 1) / C(T, k), i = 1..T: the unbiased estimator of expected
    validation performance (Tang et al. 2020, section 3, after Dodge et al. 2019).
    """
    ordered, total = np.sort(errors), len(errors)
    weights = [[comb(total - i, k - 1) / comb(total, k) for i in range(1, total + 1)] for k in range(1, total + 1)]
    return np.array(weights) @ ordered


def best_of_k(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the curves: model, n_train, trials (k), val_error. Every model must have had the same number of trials."""
    counts = trials.groupby(["model", "n_train"], as_index=False).size()
    if counts["size"].nunique() != 1:
        said = ", ".join(f"{model} at {n:,}: {count}" for model, n, count in counts.itertuples(index=False))
        raise AnalysisError(f"a fair search has as many trials for every model and size; got {said}")
    parts = [
        pd.DataFrame({"model": model, "n_train": n, "trials": range(1, len(part) + 1)}).assign(
            val_error=expected_best(part["val_error"].to_numpy(float))
        )
        for (model, n), part in trials.groupby(["model", "n_train"], sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def chosen(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the recipe of each model and size with the lowest validation error; is it at the edge of those tried?"""
    best = trials.loc[trials.groupby(["model", "n_train"], sort=False)["val_error"].idxmin()].copy()
    for name in ("lr", "weight_decay"):
        tried = trials.groupby("model")[name]
        low, high = best["model"].map(tried.min()), best["model"].map(tried.max())
        best[f"{name}_at_edge"] = ((best[name] == low) | (best[name] == high)) & (low < high)
    return best[["model", "n_train", "lr", "weight_decay", "val_error", "lr_at_edge", "weight_decay_at_edge"]]
