"""The runs of an analysis: validation of tables of runs and of external curves, and selection of comparable rows.

Nothing is dropped silently: data that cannot be used raise an AnalysisError or add a sentence to `notes`.
"""

import itertools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossover.config import CrossoverError
from crossover.record import title
from crossover.text import counted, readable

KEYS = ("dataset", "model", "n_train", "chain", "seed")
REQUIRED = ("run_id", *KEYS, "budget")
CONDITIONS = ("budget", "augment", "recipe")
"""Columns that may be ablated: the main analysis uses one value of each, the stability table the others."""
COUNTS = ("n_train", "n_test", "n_pool", "images_seen")
FAMILIES = {
    # Intermediate: convolution and attention, or attention in local windows.
    1: ("hybrid", "cct", "convit", "coat", "cvt", "levit", "maxvit", "swin"),
    0: ("resnet", "resnext", "bit", "cnn", "conv", "densenet", "efficientnet", "nfnet", "regnet", "vgg", "wrn"),
    2: ("vit", "deit", "beit", "cait"),
}
"""Rank of the inductive bias (0 = strongest) to the beginnings of model names; the first match counts."""
ROUNDING = 1e-6
"""An error that exceeds one by no more than this counts as one."""
NEEDED = "needed: model, n_train, error, with commas between them, in UTF-8; optional: task, chain, seed, n_test"
Predictions = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""Run id to the labels of the test images and the predicted classes, (T,) each."""


class AnalysisError(CrossoverError, ValueError):
    """A table that cannot be analysed: one line with what was given, what is allowed and what to do."""


@dataclass(frozen=True)
class Method:
    """How runs are compared."""

    seed: int
    metric: str = "test_error"
    predictions: Predictions = field(default_factory=dict)
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise AnalysisError(f"confidence must be in [0.5, 1); got {self.confidence}; 0.95 is usual")


def listed(values: Iterable[object], most: int = 5) -> str:
    """Return values as text, cut after `most`."""
    items = [str(value) for value in values]
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def validate_runs(runs: pd.DataFrame, metric: str = "test_error") -> tuple[pd.DataFrame, list[str]]:
    """Return the usable rows and notes on what was left out; `clipped` marks errors of zero that were replaced."""
    missing = [name for name in (*REQUIRED, metric) if name not in runs.columns]
    if missing:
        raise AnalysisError(f"the table of runs lacks {listed(missing)}; it has {listed(runs.columns, 30)}")
    if runs.empty:
        raise AnalysisError("the table of runs is empty: no run is finished yet; make sweep makes the runs")
    runs, notes = runs.copy(), []
    for name in KEYS:
        if runs[name].isna().any():
            raise AnalysisError(f"{name} is missing in {counted(runs[name].isna().sum(), 'row')}; give it in every row")
    for name in ("n_train", metric):
        runs[name] = _numbers(runs, name)
    unknown = runs[metric].isna()
    if unknown.all():
        raise AnalysisError(f"{metric} is missing in every run; choose another metric or repeat the runs")
    if unknown.any():
        left = listed(runs.loc[unknown, "run_id"])
        notes.append(f"Left out because they have no {title(metric)}: {left}.")
    runs = _check_range(runs[~unknown], metric)
    runs, said = _clip_zeros(runs, metric)
    notes += said + _rising(runs, metric)
    repeated = runs.duplicated([*KEYS, *(c for c in CONDITIONS if c in runs.columns)], keep=False)
    if repeated.any():
        row = runs[repeated].iloc[0]
        raise AnalysisError(
            f"{repeated.sum()} rows are duplicates, such as model={row.model} n_train={row.n_train:g}"
            f" chain={row.chain} seed={row.seed} on {row.dataset}; keep one of each, or number them by chain or seed"
        )
    return runs.reset_index(drop=True), notes


def _numbers(runs: pd.DataFrame, name: str) -> pd.Series:
    values = pd.to_numeric(runs[name], errors="coerce").astype(float)
    words = values.isna() & runs[name].notna()
    if words.any():
        raise AnalysisError(
            f"{name} must be a number; got {listed(runs.loc[words, name].unique())}; write it with digits and a decimal"
            " point, such as 1000 or 0.25; leave unknown ones empty"
        )
    wrong = values[(values < 1) | np.isinf(values)]
    if name in COUNTS and len(wrong):
        raise AnalysisError(f"{name} must be a number of images, at least 1; got {listed(wrong.unique())}")
    return values


def _check_range(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return runs with errors that rounding put above one clipped to one."""
    top = 1.0 if metric.endswith("error") else np.inf
    low, high = runs[metric].min(), runs[metric].max()
    if low < 0 or high > top + ROUNDING or np.isinf(high):
        hint = "divide percent by 100" if top < high <= 100 else "check the values"
        raise AnalysisError(f"{metric} must be a fraction in (0, {top:g}); got {low:.10g} to {high:.10g}; {hint}")
    return runs.assign(**{metric: runs[metric].clip(upper=top)})


def _clip_zeros(runs: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """Replace zero errors, which have no logarithm, by half an image, or leave the model out at that size."""
    zero = runs[metric] == 0
    images = runs["n_train"] if metric.startswith("train") else runs.get("n_test", pd.Series(np.nan, runs.index))
    known = zero & images.notna()
    runs = runs.assign(clipped=known, **{metric: runs[metric].mask(known, 0.5 / images.astype(float))})
    keys = ["dataset", "model", "n_train"]
    lost = (zero & ~known).groupby([runs[name] for name in keys]).transform("any")
    if lost.all():
        raise AnalysisError(f"every {metric} is zero, or beside one that is: add a column n_test, the number of images")
    cells = [f"{r.model} at {r.n_train:,.0f} on {r.dataset}" for r in runs[lost].drop_duplicates(keys).itertuples()]
    note = f"An error of zero has no logarithm, and n_test is not given: left out are {listed(cells)}."
    return runs[~lost], [note] if cells else []


def _rising(runs: pd.DataFrame, metric: str) -> list[str]:
    """Return a warning when the error rises with n for most models of a data set: it may be an accuracy."""
    notes = []
    for dataset, part in runs.groupby("dataset", sort=False):
        means = part.pivot_table(index="n_train", columns="model", values=metric)
        up = int((means.ffill().iloc[-1] > means.bfill().iloc[0]).sum())
        models = int((means.count() > 1).sum())
        if 2 * up > models:
            notes.append(
                f"The {metric.replace('_', ' ')} of {up} of {models} models on {dataset} rises with n_train: is it an"
                " accuracy? Then give 1 - accuracy, or every verdict here is reversed."
            )
    return notes


def primary_runs(
    runs: pd.DataFrame, choice: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, list[str], dict[str, dict[str, str]]]:
    """Return the rows of one comparable setting of a data set, notes, and the setting by column and model.

    Of each of CONDITIONS the first value that all models share, or each model's own first; `choice` asks for another.
    """
    notes: list[str] = []
    setting: dict[str, dict[str, str]] = {}
    for column in (name for name in CONDITIONS if name in runs.columns):
        values = {str(m): [str(v) for v in dict.fromkeys(g[column])] for m, g in runs.groupby("model", sort=False)}
        shared = [v for v in next(iter(values.values())) if all(v in others for others in values.values())]
        wanted = (choice or {}).get(column)
        chosen = {model: wanted if wanted in mine else (shared or mine)[0] for model, mine in values.items()}
        keep = runs[column].astype(str) == runs["model"].astype(str).map(chosen)
        if not keep.all():
            used = listed(sorted(set(chosen.values())))
            notes.append(
                f"{(~keep).sum()} runs of another {column} than {used} count only in the stability table and"
                " the check of saturation."
            )
        if column != "recipe" and len(set(chosen.values())) > 1:
            notes.append(f"The models do not share a {column}: {listed(f'{m}: {v}' for m, v in chosen.items())}.")
        runs, setting[column] = runs[keep], chosen
    return runs, notes, setting


def without_twins(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with the budget that each model of a data set has first: a plan lists twins after their runs."""
    return runs[runs["budget"] == runs.groupby(["dataset", "model"])["budget"].transform("first")]


def bias_rank(*names: object) -> int | None:
    """Return the rank of a model's inductive bias (0 = convolution) by the first of its names that tells it."""
    ranks = (rank for name in names for rank, known in FAMILIES.items() if str(name).lower().startswith(known))
    return next(ranks, None)


def ordered_pairs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Return all pairs of models (a, b), a with the stronger bias where it is known, else in the order of the table.

    The bias of a model is that of its family, if the table has a column of that name, or else known by its name.
    """
    families = runs["family"] if "family" in runs else [""] * len(runs)
    known = {str(m): bias_rank(family, m) for m, family in zip(runs["model"], families, strict=True)}
    ranks = {model: np.nan if rank is None else rank for model, rank in known.items()}  # no number is below NaN
    return [(b, a) if ranks[b] < ranks[a] else (a, b) for a, b in itertools.combinations(ranks, 2)]


def read_curves(path: Path | str) -> pd.DataFrame:
    """Return external curves as a table of runs.

    CSV with model, n_train, error (or test_error); optional: task or dataset, chain, seed, n_test, n_pool, images_seen.
    """
    path = Path(path)
    curves = _read_csv(path).rename(columns={"test_error": "error"})
    twice = curves.columns[curves.columns.duplicated()]
    if len(twice):
        raise AnalysisError(f"{path} has {listed(twice)} twice (test_error is an error too); keep the one to compare")
    missing = [name for name in ("model", "n_train", "error") if name not in curves.columns]
    if missing:
        raise AnalysisError(f"{path} lacks the column {listed(missing)}; it has {listed(curves.columns, 20)}; {NEEDED}")
    if curves.empty:
        raise AnalysisError(f"{path} has a header but no rows; give one row per model and n_train")
    sets = [_text(curves[name]) for name in ("dataset", "task") if name in curves and curves[name].notna().any()]
    if len(sets) == 2:
        sets = sets[:1] if sets[0].equals(sets[1]) else [sets[0] + " " + sets[1]]
    task = sets[0] if sets else pd.Series(path.stem, curves.index)
    known = {
        "run_id": [f"{path.stem}:{line}" for line in curves.index + 2],
        "dataset": task,
        "model": _text(curves["model"]),
        "n_train": curves["n_train"],
        "chain": _labels(curves, "chain", task),
        "seed": _labels(curves, "seed", task),
        "budget": "as given",
        "test_error": curves["error"],
    }
    others = ("val_error", "train_error", "steps", "params", "flops", "train_seconds")
    counts = {name: curves.get(name, np.nan) for name in COUNTS[1:]}
    rows = pd.DataFrame(known | dict.fromkeys(others, np.nan) | counts)
    try:
        for name in ("test_error", *COUNTS):
            rows[name] = _numbers(rows, name)
        beyond = rows[rows["n_train"] > rows["n_pool"]]
        if len(beyond):
            n, pool = beyond[["n_train", "n_pool"]].iloc[0]
            raise AnalysisError(f"n_train of {n:,.0f} exceeds n_pool, the images it is drawn from, of {pool:,.0f}")
        validate_runs(rows)  # complain about the file now, where its name is known
    except AnalysisError as error:
        raise AnalysisError(f"{path}: {str(error).replace('test_error', 'error')}") from None
    return rows


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a CSV as text, with readable column names in lower case; spreadsheets leave rows without any value."""
    try:
        # pandas warns of rows that are longer than the header, and leaves their end out
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, na_values=[""], skipinitialspace=True, index_col=False
            )
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        known = {UnicodeDecodeError: "not text", pd.errors.ParserWarning: "rows with more fields than its header"}
        reason = known.get(type(error)) or " ".join(str(error).split())
        raise AnalysisError(f"{path} cannot be read as CSV ({reason}); {NEEDED}") from None
    return table.dropna(how="all").rename(columns=lambda name: readable(str(name)).lower())


def _text(names: "pd.Series[str]") -> "pd.Series[str]":
    """Return names as normalised text; missing values stay missing."""
    return names.map(lambda name: readable(str(name)) or None, na_action="ignore")


def _labels(curves: pd.DataFrame, name: str, task: "pd.Series[str]") -> "pd.Series[Any] | int":
    """Return chains or seeds: numbers where all are, else text; 0 where a task gives none."""
    if name not in curves:
        return 0
    given = curves[name].mask(curves[name].isna().groupby(task).transform("all"), "0")
    numbers = pd.to_numeric(given, errors="coerce")
    return numbers if numbers.notna().all() else _text(given)
