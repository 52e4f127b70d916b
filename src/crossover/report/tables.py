"""The tables of a report: verdicts, numbers by size, laws, classes, cost and runs, as data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from crossover.analysis.contract import Analysis, Pair, Saturation
from crossover.analysis.extrapolation import LAST_VALUE
from crossover.analysis.sentences import images, limits, size, verdict_words
from crossover.record import COLUMNS, title
from crossover.report.contents import Report
from crossover.report.section import Cell, Table, table_of

INTERVALS = {
    "chains": "paired chains",
    "seeds": "seeds of one chain",
    "unpaired": "replicates, not paired",
    "roughness": "roughness of single curves",
}
"""The source of an interval."""
LAW_PARAMETERS = {"e_inf": "e∞", "n0": "n₀", "e0": "e₀"}
SMALLEST = 1e-12
"""A fitted number below this is zero: its law does not need it."""
MOST_SIZES = 40
"""Most sizes of a data set listed in full; curves with more are listed at the compared sizes."""
MOST_RUNS = 2_000
"""Runs in the table of the page; more would make it slow."""
ERRORS = "Mean test error over chains, with its 95% interval for one size"
SMOOTHED = "The smoothed curves, where they are compared; the measured points are in runs.csv"
VARYING = ("dataset", "budget", "augment", "recipe")
"""Columns shown only if they differ between runs of a model."""
LAWS = (
    "The error of each law on the largest sizes when fitted without them, beside that of repeating the last value."
    " Fewer than two of these held-out sizes choose no law. A law is a description within the measured sizes."
    " M1: e = b n^-c. M2: e = e∞ + b n^-c. M3: e = b (1/n + g)^c. M4: (e - e∞) / (e₀ - e)^a = b n^-c. chance: e = e∞ +"
    " (e₀ - e∞) (1 + n / n₀)^-c. e₀ is the error of guessing (Alabdulmohsin, Neyshabur and Zhai 2022)."
)
COSTS = (
    "Mean of the runs of a model; memory is the largest. FLOPs are counted from the architecture: three forward passes"
    " for each image seen."
)


def verdict_table(report: Report) -> Table:
    """Return a row for each pair: verdict, N* with its interval, and the sizes that were measured."""
    points = {analysis["dataset"]: analysis["saturation"] for analysis in report.result["studies"]}
    rows = [
        {
            "data set": dataset if len(points) > 1 else None,
            "pair": f"{pair['b']} and {pair['a']}",
            "verdict": verdict_words(pair["a"], pair["b"], pair["verdict"], pair["direction"]),
            "N* [95% interval]": _place(pair),
            "sizes": None if pair["n_min"] is None else f"{size(pair['n_min'])} to {size(pair['n_max'] or 0)}",
            "chains": pair["chains"],
            "P(N* in range)": pair["p_in_range"],
            "gap": pair["trend"],
            "limited by budget": _limits(pair, points[dataset]),
            "interval from": INTERVALS.get(pair["interval"]),
            "holds among all": {True: "yes", False: "no", None: None}[pair["family"]["holds"]],
        }
        for dataset, pair in report.pairs
    ]
    return table_of(rows, {"N* [95% interval]": "images", "P(N* in range)": "ratio"})


def _place(pair: Pair) -> Cell:
    """Return N* with its interval, or the side of the range on which it is, if known."""
    if pair["n_star"] is not None:
        return pair["n_star"], pair["ci_low"], pair["ci_high"]
    if pair["verdict"] == "a_better":
        return f"> {size(pair['n_max'] or 0)} or never"
    if pair["verdict"] == "b_better":
        return f"< {images(pair['ci_high'] or pair['n_min'] or 0)} or none"
    return None


def _limits(pair: Pair, points: Sequence[Saturation]) -> str:
    """Return at how many sizes of a pair more training would lower an error, would not, or was not tested."""
    data, budget, unknown = (len(sizes) for sizes in limits(pair, points).values())
    every = data + budget + unknown
    return f"yes at {budget}, no at {data}, not known at {unknown} of {every} sizes" if every else "not checked"


def saturation_table(report: Report) -> Table:
    """Return what limits each model at the sizes that have twin runs with half the budget."""
    fall = "fall of the log error [95% CI]"
    rows = [
        {
            "data set": analysis["dataset"],
            "model": point["model"],
            "training images": point["n_train"],
            "limited by": point["state"].replace("-limited", ""),
            fall: (point["gain"], point["ci_low"], point["ci_high"]),
        }
        for analysis in report.result["studies"]
        for point in analysis["saturation"]
        if point["state"] != "not checked"
    ]
    return table_of(rows, {fall: "ratio"}, "What the last doubling of the budget brought; the next one brings less")


def size_tables(report: Report, analysis: Analysis) -> list[Table]:
    """Return the tables of a data set by n_train: errors, and the gap of each pair; of one, in one table."""
    pairs = analysis["pairs"]
    if len(pairs) == 1:
        return [size_table(report, analysis, pairs)]
    return [size_table(report, analysis), *(size_table(report, analysis, [pair], errors=False) for pair in pairs)]


def size_table(report: Report, analysis: Analysis, pairs: Sequence[Pair] = (), *, errors: bool = True) -> Table:
    """Return the errors of the models and the gap of pairs by n_train."""
    curves = report.curves[report.curves["dataset"] == analysis["dataset"]]
    caption = f"{analysis['dataset']}: {ERRORS}"
    rows: dict[int, dict[str, Cell]] = {}
    units: dict[str, str] = {}

    def add(row: Mapping[Any, Any], heading: str, unit: str, *names: str) -> None:
        units[heading] = unit
        cells = tuple(row[name] for name in names)
        rows.setdefault(int(row["n_train"]), {})[heading] = cells if len(cells) > 1 else cells[0]

    if not errors:
        caption = f"{analysis['dataset']}: {pairs[0]['b']} and {pairs[0]['a']}"
    elif curves["n_train"].nunique() > MOST_SIZES:
        caption = f"{analysis['dataset']}: {SMOOTHED}"
    else:
        for row in curves.to_dict("records"):
            add(row, f"test error of {row['model']}", "%", "error_mean", "error_low", "error_high")
    for pair in pairs:
        a, b = pair["a"], pair["b"]
        for gap in pair["gap"]:
            add(gap, f"error {b} - {a} (points)", "points", "accuracy_gap")
            add(gap, f"log error ratio {b} / {a} [95% band]", "ratio", "log_error_ratio", "ci_low", "ci_high")
        for factor in pair["data_equivalence"]:
            add(factor, f"images {b} needs per image of {a} [95% CI]", "ratio", "factor", "ci_low", "ci_high")
    return table_of(({report.inputs.sizes: n} | rows[n] for n in sorted(rows)), units, caption)


def stability_rows(rows: pd.DataFrame) -> Table:
    """Return choice, value, verdict and N* with its interval; a verdict that differs from the main one is marked."""
    made = []
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        verdict = row["note"] if row["verdict"] is None else verdict_words(row["a"], row["b"], row["verdict"])
        said = verdict if row["change"] in (None, "same") else f"{verdict} ({row['change']})"
        place = row["n_star"], row["ci_low"], row["ci_high"]
        made.append(
            {"choice": title(row["choice"]), "value": title(row["value"]), "verdict": said, "N* [95% CI]": place}
        )
    return table_of(made, {"N* [95% CI]": "images"})


def named_table(rows: Iterable[Mapping[str, Any]], percent: Sequence[str] = ()) -> Table:
    """Return a table of fields under their readable names, some of them in percent."""
    made = ({title(name): value for name, value in row.items()} for row in rows)
    return table_of(made, {title(name): "%" for name in percent})


def law_table(report: Report) -> Table:
    """Return, for each model, its fitted laws with parameters and held-out error, the best first."""
    rows = [
        {
            "data set": analysis["dataset"],
            "model": entry["model"],
            "law": fit["law"],
            "parameters ± standard error": parameter_words(fit["params"], fit["standard_errors"]),
            "held-out sizes": entry["held_out"] or None,
            "held-out RMSE of log error": entry["holdout_rmse"].get(fit["law"]),
            "of the last value": entry["holdout_rmse"].get(LAST_VALUE),
        }
        for analysis in report.result["studies"]
        for entry in analysis["laws"]
        for fit in entry["fits"]
    ]
    return table_of(rows, caption=LAWS)


def parameter_words(params: Mapping[str, float], errors: Mapping[str, float | None]) -> str:
    """Return the fitted parameters of a law with their standard errors."""
    parts = []
    for name, value in params.items():
        number = "0" if abs(value) < SMALLEST else f"{value:.3g}"
        spread = "" if errors[name] is None or number == "0" else f" ± {errors[name]:.2g}"
        parts.append(f"{LAW_PARAMETERS.get(name, name)} = {number}{spread}")
    return ", ".join(parts)


def class_table(classes: pd.DataFrame, dataset: str, names: Sequence[str]) -> Table:
    """Return the error of some classes of a data set by model, at the largest size of each."""
    rows: dict[str, dict[str, Cell]] = {name: {"class": name} for name in names}
    units = {}
    for model, part in classes[classes["class"].isin(names)].groupby("model", sort=False):
        largest = part["n_train"].max()
        heading = f"{model} at {largest:,} images"
        units[heading] = "%"
        for row in part[part["n_train"] == largest].to_dict("records"):
            rows[row["class"]][heading] = row["error_mean"], row["error_min"], row["error_max"]
    return table_of(rows.values(), units, f"{dataset}: mean error [least, greatest of the chains]")


def cost_table(report: Report) -> Table:
    """Return the mean cost of a run by data set and model (peaks: the largest); nothing if no cost is known."""
    known = [column for column in COLUMNS if column.cost and _is_known(report.runs, column.name)]
    rows = [
        {"data set": dataset, "model": model, "runs": len(part)}
        | {column.title: float(part[column.name].agg(str(column.cost))) for column in known}
        for (dataset, model), part in report.runs.groupby(["dataset", "model"], sort=False)
    ]
    return table_of(rows if known else (), {column.title: column.unit or "SI" for column in known}, COSTS)


def totals(report: Report) -> Table:
    """Return the total cost of all runs, of what all of them recorded."""
    known = report.runs.dropna(axis=1)
    fields = {"images_seen": "images seen", "flops": "training FLOPs", "total_seconds": "hours"}
    row = {said: float(known[field].sum()) for field, said in fields.items() if field in known}
    row |= {"hours": row["hours"] / 3600} if "hours" in row else {}
    units = {"images seen": "SI", "training FLOPs": "SI", "hours": "h"}
    return table_of([row], units, "All runs together")


def run_table(report: Report) -> Table:
    """Return all planned runs with their known values, state and id."""
    runs = report.runs
    varies = {name for name in VARYING if name in runs and (runs.groupby("model")[name].nunique() > 1).any()}
    shown = [column for column in COLUMNS if column.listed and _is_known(runs, column.name)]
    shown = [column for column in shown if column.name not in VARYING or column.name in varies]
    names = {column.name: title(column.name) for column in shown} | {"run_id": "run id"}
    table = runs.assign(state="done")[[*(column.name for column in shown), "state", "run_id"]]
    table = table.convert_dtypes().astype(object)  # whole numbers become integers
    rows = table.where(table.notna(), None).rename(columns=names).to_dict("records")
    rows += [{"state": state, "run id": run_id} for run_id, state in report.inputs.unfinished.items()]
    caption = f"The first {MOST_RUNS:,} of {len(rows):,}; all are in runs.csv" if len(rows) > MOST_RUNS else ""
    return table_of(rows[:MOST_RUNS], {title(column.name): column.unit for column in shown}, caption)


def _is_known(runs: pd.DataFrame, name: str) -> bool:
    return name in runs and bool(runs[name].notna().any())
