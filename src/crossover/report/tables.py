"""Which words and numbers stand in the tables of a report? Cells as text, the same on every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from crossover.analysis.laws import LAST_VALUE
from crossover.analysis.sentences import images
from crossover.record import COLUMNS

if TYPE_CHECKING:
    from crossover.report.build import Report

MOST_SIZES = 40
"""Sizes of a data set up to which all are in its table; curves with more are shown where they are compared."""
ERRORS = "mean test error over chains, with its 95% interval for one size"
SMOOTHED = "the smoothed curves, where they are compared; the measured points are in runs.csv"
"""What a table by size shows."""
CALIBRATION = (
    ("chains", "chains", "d"),
    ("power", "power", ".2f"),
    ("false crossovers", "false_crossover", ".3f"),
    ("coverage of N*", "coverage", ".3f"),
    ("width of its interval (ratio)", "width", ".2f"),
    ("of a pointwise Fieller set", "fieller_width", ".2f"),
)
"""Column of the table, key of a row of calibration.json, format."""
COST = tuple(column for column in COLUMNS if column.cost)
TOTALS = (
    ("images seen", "images_seen", ""),
    ("training FLOPs", "flops", ""),
    ("hours in all", "total_seconds", "h"),
)
RUN_COLUMNS = tuple(column.name for column in COLUMNS if column.listed)
VARYING = ("dataset", "budget", "augment", "recipe")
"""Shown only where they differ between runs of a model."""


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.{digits}f} %"


def quantity(value: float | None, unit: str = "") -> str:
    """Return a number with three figures and a prefix, such as `576 G` or `9.02 s`; a dash for what is unknown."""
    if value is None or pd.isna(value):
        return "–"
    if unit in ("s", "/s", "h"):
        return f"{value:,.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
    for limit, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            scaled = value / limit
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f} {prefix}{unit}"
    return f"{value:.3g} {unit}".strip()


def interval(value: float | None, low: float | None, high: float | None, spec: str = ".2f") -> str:
    """Return such as `1.20 [1.00, 1.50]`, with a dash for what is unbounded or unknown."""
    if value is None:
        return "–"
    ends = ", ".join("–" if end is None else format(end, spec) for end in (low, high))
    return f"{value:{spec}} [{ends}]"


def size_tables(report: Report) -> list[dict[str, Any]]:
    """Return, for each dataset, the table by n_train: errors of the models and the gap of a pair.

    Of several pairs each has its own table: one of all would be wider than a sheet of paper.
    """
    tables = []
    for study in report.result["studies"]:
        curves = report.curves[report.curves["dataset"] == study["dataset"]]
        models = list(dict.fromkeys(curves["model"]))
        errors = {(row.model, row.n_train): _error(row) for row in curves.itertuples()}
        sizes = sorted(curves["n_train"].unique())
        if len(sizes) > MOST_SIZES:
            sizes = sorted({row["n_train"] for pair in study["pairs"] for row in pair["gap"]})
            models = []
        parts = [(ERRORS if models else SMOOTHED, models, [[errors.get((m, n), "–") for n in sizes] for m in models])]
        for pair in study["pairs"]:
            titles, cells = _pair_columns(pair, sizes)
            if len(study["pairs"]) == 1:
                about, header, columns = parts.pop()
                parts.append((about, header + titles, columns + cells))
            else:
                parts.append((f"{pair['b']} and {pair['a']}", titles, cells))
        for about, header, columns in (part for part in parts if part[1]):
            rows = [[f"{n:,}", *(column[i] for column in columns)] for i, n in enumerate(sizes)]
            title = f"{study['dataset']}: {about}"
            tables.append({"title": title, "header": [report.findings.sizes, *header], "rows": rows})
    return tables


def _error(row: Any) -> str:
    ends = "" if pd.isna(row.error_low) else f" [{percent(row.error_low)}, {percent(row.error_high)}]"
    return percent(row.error_mean) + ends


def _pair_columns(pair: Mapping[str, Any], sizes: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Return titles and columns of a pair: accuracy gap, log error ratio and data-equivalence at the sizes."""
    gaps = {row["n_train"]: row for row in pair["gap"]}
    factors = {row["n_train"]: row for row in pair["data_equivalence"]}
    gap, ratio, factor = [], [], []
    for n in sizes:
        g, f = gaps.get(n), factors.get(n)
        gap.append("–" if g is None else f"{100 * g['accuracy_gap']:+.1f}")
        ratio.append("–" if g is None else interval(g["log_error_ratio"], g["ci_low"], g["ci_high"]))
        factor.append("–" if f is None else interval(f["factor"], f["ci_low"], f["ci_high"]))
    named = f"{pair['b']} - {pair['a']}"
    titles = [
        f"error {named} (points)",
        f"log error ratio {pair['b']} / {pair['a']} [95% band]",
        f"images {pair['b']} needs per image of {pair['a']} [95% CI]",
    ]
    return titles, [gap, ratio, factor]


def calibration_cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return what simulated repetitions found, by number of chains."""
    return [["–" if row[name] is None else format(row[name], form) for _, name, form in CALIBRATION] for row in rows]


def stability_cells(rows: pd.DataFrame) -> list[list[str]]:
    """Return choice, value, verdict and N* with its interval; a verdict that differs from the main one is marked."""
    table = []
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        verdict = row["note"] if row["verdict"] is None else row["verdict"].replace("_", " ")
        place = "–" if row["n_star"] is None else f"{images(row['n_star'])} [{_ends(row)}]"
        table.append([row["choice"], str(row["value"]), f"{verdict} (differs)" if row["flips"] else verdict, place])
    return table


def _ends(row: Mapping[Any, Any]) -> str:
    return ", ".join("–" if row[end] is None else images(row[end]) for end in ("ci_low", "ci_high"))


def law_cells(report: Report) -> list[list[str]]:
    """Return, for each model, its fitted laws with parameters and held-out error, the best first."""
    table = []
    for study in report.result["studies"]:
        for entry in study["laws"]:
            for fit in entry["fits"]:
                errors = fit["standard_errors"]
                params = ", ".join(
                    f"{k} = {v:.3g}" + ("" if errors[k] is None else f" ± {errors[k]:.2g}")
                    for k, v in fit["params"].items()
                )
                rmse = (entry["holdout_rmse"].get(name) for name in (fit["law"], LAST_VALUE))
                cells = ("–" if value is None else f"{value:.3f}" for value in rmse)
                table.append([study["dataset"], entry["model"], fit["law"], params, *cells])
    return table


def extrapolation_cells(report: Report) -> list[list[str]]:
    """Return, for each pair that calls for one, the extrapolated range or why it is refused."""
    table = []
    for dataset, pair in report.pairs:
        found = pair["extrapolation"]
        if found is None:
            continue
        ends = "–" if found["low"] is None else f"{images(found['low'])} to {_far(found)}"
        laws = "; ".join(f"{pair[side]}: {', '.join(found['laws'][side]) or 'none'}" for side in ("a", "b"))
        table.append(
            [dataset, f"{pair['a']}, {pair['b']}", ends, images(found["limit"]), laws, found["refused"] or "–"]
        )
    return table


def _far(found: Mapping[str, Any]) -> str:
    return "never" if found["high"] is None else images(found["high"])


def cost_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return header and rows by dataset and model: the mean cost of a run (peaks: the largest); unknown is a dash."""
    known = [column for column in COST if column.name in report.runs and report.runs[column.name].notna().any()]
    rows = []
    for (dataset, model), part in report.runs.groupby(["dataset", "model"], sort=False):
        cells = (quantity(part[column.name].agg(column.cost), column.unit) for column in known)
        rows.append([str(dataset), str(model), f"{len(part)}", *cells])
    return ["dataset", "model", "runs", *(column.title for column in known)], rows


def totals(report: Report) -> list[tuple[str, str]]:
    """Return what all runs took together; what not all of them recorded is left out."""
    said = []
    for title, name, unit in TOTALS:
        if name in report.runs and report.runs[name].notna().all():
            total = report.runs[name].sum() / (3600 if unit == "h" else 1)
            said.append((title, quantity(total, unit)))
    return said


def class_tables(report: Report, shown: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return, for each dataset, the error of the shown classes by model at the largest size of each."""
    tables = []
    for dataset, names in shown.items():
        part = report.classes[report.classes["dataset"] == dataset]
        models = list(dict.fromkeys(part["model"]))
        largest = {model: part.loc[part["model"] == model, "n_train"].max() for model in models}
        cells: dict[tuple[str, str], str] = {}
        for model, rows in part.groupby("model", sort=False):
            for row in rows[rows["n_train"] == largest[str(model)]].to_dict("records"):
                span = f"[{percent(row['error_min'])}, {percent(row['error_max'])}]"
                cells[str(model), row["class"]] = f"{percent(row['error_mean'])} {span}"
        header = ["class", *(f"{model} at {largest[model]:,} images" for model in models)]
        body = [[name, *(cells.get((model, name), "–") for model in models)] for name in names]
        tables.append({"dataset": dataset, "header": header, "rows": body})
    return tables


def run_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of all planned runs: what is known of each, its state, and its id."""
    runs = report.runs
    shown = [
        name
        for name in RUN_COLUMNS
        if name in runs and runs[name].notna().any() and (name not in VARYING or _varies(runs, name))
    ]
    columns = [_column(runs[name]) for name in shown]
    rows = [[*cells, "done", run_id] for *cells, run_id in zip(*columns, runs["run_id"], strict=True)]
    rows += [[*[""] * len(shown), state, run_id] for run_id, state in report.findings.unfinished.items()]
    return [*(name.replace("_", " ") for name in shown), "state", "run id"], rows


def _varies(runs: pd.DataFrame, name: str) -> bool:
    return bool((runs.groupby("model")[name].nunique() > 1).any())


def _column(values: pd.Series) -> list[str]:
    if values.dtype.kind == "f" and values.name not in ("n_train", "chain", "seed", "best_step"):
        return ["" if pd.isna(v) else f"{v:.4g}" for v in values]
    return ["" if pd.isna(v) else f"{v:.0f}" if isinstance(v, float) else str(v) for v in values]
