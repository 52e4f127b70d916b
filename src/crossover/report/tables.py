"""The tables of a report: verdicts, numbers by size, laws, classes, cost and runs, as data."""

from collections.abc import Mapping, Sequence

import pandas as pd

from crossover.analysis.contract import Pair, Repetitions, Saturation, Study
from crossover.analysis.extrapolation import LAST_VALUE
from crossover.analysis.sentences import images, limits, size, verdict_words
from crossover.record import COLUMNS, title
from crossover.report.findings import Report
from crossover.report.section import Cell, Column, Table, columns

INTERVALS = {
    "chains": "paired chains",
    "seeds": "seeds of one chain",
    "unpaired": "chains, not paired",
    "roughness": "roughness of single curves",
}
"""The source of an interval."""
LAW_PARAMETERS = {"e_inf": "e∞", "n0": "n₀", "e0": "e₀"}
SMALLEST = 1e-12
"""A fitted number below this is zero: its law does not need it."""
MOST_SIZES = 40
"""Most sizes of a data set listed in full; curves with more are listed at the compared sizes."""
ERRORS = "Mean test error over chains, with its 95% interval for one size"
SMOOTHED = "The smoothed curves, where they are compared; the measured points are in runs.csv"
SCORES = ("test_error", "val_error", "train_error")
VARYING = ("dataset", "budget", "augment", "recipe")
"""Columns shown only if they differ between runs of a model."""
EQUATIONS = (
    "M1: e = b n^-c. M2: e = e∞ + b n^-c. M3: e = b (1/n + g)^c. M4: (e - e∞) / (e₀ - e)^a = b n^-c. chance: e = e∞ +"
    " (e₀ - e∞) (1 + n / n₀)^-c. e₀ is the error of guessing (Alabdulmohsin, Neyshabur and Zhai 2022)."
)


def verdict_table(report: Report) -> Table:
    """Return a row for each pair: verdict, N* with its interval, and the sizes that were measured."""
    numbers = (("N* [95% interval]", "images"), "sizes", "chains", ("P(N* in range)", "ratio"))
    heads = columns("data set", "pair", "verdict", *numbers, left=3)
    heads += columns("gap", "limited by budget", "interval from", "holds among all", left=4)
    points = {study["dataset"]: study["saturation"] for study in report.result["studies"]}
    rows: list[tuple[Cell, ...]] = [
        (
            dataset,
            f"{pair['b']} and {pair['a']}",
            verdict_words(pair["a"], pair["b"], pair["verdict"], pair["direction"]),
            _place(pair),
            None if pair["n_min"] is None else f"{size(pair['n_min'])} to {size(pair['n_max'] or 0)}",
            pair["chains"],
            pair["p_in_range"],
            pair["trend"],
            _limits(pair, points[dataset]),
            INTERVALS.get(pair["interval"]),
            {True: "yes", False: "no", None: None}[pair["family"]["holds"]],
        )
        for dataset, pair in report.pairs
    ]
    table = Table(caption="", columns=heads, rows=tuple(rows))
    said = [name for name, *cells in zip(table.header, *rows, strict=True) if any(cell is not None for cell in cells)]
    return table.with_columns(said if len(report.result["studies"]) > 1 else said[1:])


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
    rows: list[tuple[Cell, ...]] = [
        (
            study["dataset"],
            point["model"],
            size(point["n_train"]),
            point["state"].replace("-limited", ""),
            (point["gain"], point["ci_low"], point["ci_high"]),
        )
        for study in report.result["studies"]
        for point in study["saturation"]
        if point["state"] != "not checked"
    ]
    heads = columns("data set", "model", "training images", left=2) + columns("limited by", left=1)
    heads += columns(("fall of the log error [95% CI]", "ratio"))
    caption = "What the last doubling of the budget brought; the next one brings less"
    return Table(caption=caption, columns=heads, rows=tuple(rows))


def influential_table(report: Report) -> Table:
    """Return the runs that are far from their replicates."""
    rows: list[tuple[Cell, ...]] = [
        (found["run_id"], size(found["n_train"]), found["error"], found["typical"], found["verdict_without"])
        for _, pair in report.pairs
        for found in pair["influential"]
    ]
    heads = columns("run", "training images", ("test error", "%"), ("of its replicates", "%"), left=1)
    return Table(caption="", columns=heads + columns("verdict without it", left=1), rows=tuple(rows))


def size_tables(report: Report, study: Study) -> list[Table]:
    """Return the tables of a data set by n_train: errors of the models, and the gap; several pairs get a table each."""
    curves = report.curves[report.curves["dataset"] == study["dataset"]]
    models = list(dict.fromkeys(curves["model"]))
    errors: dict[tuple[str, int], Cell] = {
        (row["model"], row["n_train"]): (row["error_mean"], row["error_low"], row["error_high"])
        for row in curves.to_dict("records")
    }
    sizes = sorted(curves["n_train"].unique())
    caption = ERRORS
    if len(sizes) > MOST_SIZES:
        sizes = sorted({row["n_train"] for pair in study["pairs"] for row in pair["gap"]})
        models, caption = [], SMOOTHED
    of_models = {(f"test error of {model}", "%"): {n: errors.get((model, n)) for n in sizes} for model in models}
    parts = [(caption, of_models)]
    for pair in study["pairs"]:
        if len(study["pairs"]) == 1:
            of_models |= _pair_columns(pair)
        else:
            parts.append((f"{pair['b']} and {pair['a']}", _pair_columns(pair)))
    return [
        Table(
            caption=f"{study['dataset']}: {about}",
            columns=columns(report.findings.sizes, *cells),
            rows=tuple(
                (size(int(n)), *(column.get(n) for column in cells.values()))
                for n in sizes
                if any(column.get(n) is not None for column in cells.values())  # curves may have sizes of their own
            ),
        )
        for about, cells in parts
        if cells
    ]


def _pair_columns(pair: Pair) -> dict[tuple[str, str], dict[int, Cell]]:
    """Return accuracy gap, log error ratio and data-equivalence of a pair by size, under their titles and units."""
    a, b, gap = pair["a"], pair["b"], pair["gap"]
    points: dict[int, Cell] = {row["n_train"]: row["accuracy_gap"] for row in gap}
    ratios: dict[int, Cell] = {row["n_train"]: (row["log_error_ratio"], row["ci_low"], row["ci_high"]) for row in gap}
    factors: dict[int, Cell] = {
        row["n_train"]: (row["factor"], row["ci_low"], row["ci_high"]) for row in pair["data_equivalence"]
    }
    return {
        (f"error {b} - {a} (points)", "points"): points,
        (f"log error ratio {b} / {a} [95% band]", "ratio"): ratios,
        (f"images {b} needs per image of {a} [95% CI]", "ratio"): factors,
    }


def stability_rows(rows: pd.DataFrame) -> Table:
    """Return choice, value, verdict and N* with its interval; a verdict that differs from the main one is marked."""
    made: list[tuple[Cell, ...]] = []
    for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
        verdict = row["note"] if row["verdict"] is None else verdict_words(row["a"], row["b"], row["verdict"])
        said = verdict if row["change"] in (None, "same") else f"{verdict} ({row['change']})"
        made.append((title(row["choice"]), title(row["value"]), said, (row["n_star"], row["ci_low"], row["ci_high"])))
    heads = columns("choice", "value", "verdict", ("N* [95% CI]", "images"), left=3)
    return Table(caption="", columns=heads, rows=tuple(made))


def calibration_rows(rows: Sequence[Repetitions]) -> Table:
    """Return the results of simulated repetitions of the design, by number of chains."""
    rates = (("power", "ratio"), ("false crossovers", "%"), ("coverage of N*", "%"))
    widths = (("width of its interval (ratio)", "ratio"), ("of a pointwise Fieller set", "ratio"))
    heads = columns("chains", *rates, *widths)
    made = tuple(
        (r["chains"], r["power"], r["false_crossover"], r["coverage"], r["width"], r["fieller_width"]) for r in rows
    )
    return Table(caption="Simulated repetitions of this design", columns=heads, rows=made)


def law_table(report: Report) -> Table:
    """Return, for each model, its fitted laws with parameters and held-out error, the best first."""
    rows: list[tuple[Cell, ...]] = []
    for study in report.result["studies"]:
        for entry in study["laws"]:
            for fit in entry["fits"]:
                rmse = (entry["holdout_rmse"].get(name) for name in (fit["law"], LAST_VALUE))
                said = parameter_words(fit["params"], fit["standard_errors"])
                tested = entry["held_out"] or None
                rows.append((study["dataset"], entry["model"], fit["law"], said, tested, *rmse))
    names = ("data set", "model", "law", "parameters ± standard error")
    heads = columns(*names, "held-out sizes", "held-out RMSE of log error", "of the last value", left=4)
    caption = (
        "The error of each law on the largest sizes when fitted without them, beside that of repeating the last value."
        " Fewer than two of these held-out sizes choose no law."
        f" A law is a description within the measured sizes. {EQUATIONS}"
    )
    return Table(caption=caption, columns=heads, rows=tuple(rows))


def parameter_words(params: Mapping[str, float], errors: Mapping[str, float | None]) -> str:
    """Return the fitted parameters of a law with their standard errors."""
    parts = []
    for name, value in params.items():
        unit, scale = (" %", 100.0) if name == "e_inf" else ("", 1.0)
        number = "0" if abs(value) < SMALLEST else f"{scale * value:.3g}"
        error = errors[name]
        spread = "" if error is None or number == "0" else f" ± {scale * error:.2g}"
        parts.append(f"{LAW_PARAMETERS.get(name, name)} = {number}{spread}{unit}")
    return ", ".join(parts)


def class_table(report: Report, dataset: str, names: Sequence[str]) -> Table:
    """Return the error of some classes of a data set by model, at the largest size of each."""
    part = report.classes[report.classes["dataset"] == dataset]
    largest = part.groupby("model", sort=False)["n_train"].max()
    at = part[part["n_train"] == part["model"].map(largest)]
    cells: dict[tuple[str, str], Cell] = {
        (row["model"], row["class"]): (row["error_mean"], row["error_min"], row["error_max"])
        for row in at.to_dict("records")
    }
    heads = columns("class", *((f"{model} at {n:,} images", "%") for model, n in largest.items()), left=1)
    rows = tuple((name, *(cells.get((str(model), name)) for model in largest.index)) for name in names)
    caption = f"{dataset}: mean error [least, greatest of the chains]"
    return Table(caption=caption, columns=heads, rows=rows)


def cost_table(report: Report) -> Table:
    """Return the mean cost of a run by data set and model (peaks: the largest)."""
    known = [column for column in COLUMNS if column.cost and _is_known(report.runs, column.name)]
    groups = report.runs.groupby(["dataset", "model"], sort=False)
    costs = [groups[column.name].agg(str(column.cost)).astype(float) for column in known]
    rows = [(*names, count, *values) for (names, count), *values in zip(groups.size().items(), *costs, strict=True)]
    heads = columns("data set", "model", "runs", *((c.title, c.unit or "SI") for c in known), left=2)
    caption = (
        "Mean of the runs of a model; memory is the largest. FLOPs are counted from the architecture: three forward"
        " passes for each image seen."
    )
    return Table(caption=caption, columns=heads, rows=tuple(rows))


def totals(report: Report) -> Table:
    """Return the total cost of all runs; quantities that some did not record are unknown."""
    runs = report.runs
    units = {"images_seen": 1, "flops": 1, "total_seconds": 3600}
    row = [float(runs[k].sum()) / by if k in runs and runs[k].notna().all() else None for k, by in units.items()]
    heads = columns(("images seen", "SI"), ("training FLOPs", "SI"), ("hours", "h"))
    return Table(caption="All runs together", columns=heads, rows=(tuple(row),))


def run_table(report: Report) -> Table:
    """Return all planned runs with their known values, state and id."""
    runs = report.runs
    shown = [column for column in COLUMNS if column.listed and _is_known(runs, column.name)]
    varies = {name: (runs.groupby("model")[name].nunique() > 1).any() for name in VARYING if name in runs}
    shown = [column for column in shown if varies.get(column.name, True)]
    heads = [
        Column(title=title(c.name), unit="%" if c.name in SCORES else c.unit, left=runs[c.name].dtype.kind not in "if")
        for c in shown
    ]
    values = [_cells(runs[column.name]) for column in shown]
    rows = [(*cells, "done", run_id) for *cells, run_id in zip(*values, runs["run_id"], strict=True)]
    blank = [""] * len(shown)
    rows += [(*blank, state, run_id) for run_id, state in report.findings.unfinished.items()]
    return Table(caption="", columns=(*heads, *columns("state", "run id", left=2)), rows=tuple(rows))


def _is_known(runs: pd.DataFrame, name: str) -> bool:
    return name in runs and bool(runs[name].notna().any())


def _cells(values: pd.Series) -> list[Cell]:
    """Return numbers as numbers, integers without a fraction, and anything else as text."""
    if values.dtype.kind not in "if":
        return ["" if pd.isna(value) else str(value) for value in values]
    whole = bool((values.dropna() % 1 == 0).all()) and values.name not in SCORES
    return ["" if pd.isna(value) else int(value) if whole else float(value) for value in values]
