"""How does a reader see it? One self-contained HTML page, and the same in Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

from crossover.analysis.curves import LAST_VALUE
from crossover.analysis.sentences import images

if TYPE_CHECKING:
    from crossover.report.build import Report

METHODS = (
    "Every model trains on the same class-stratified, nested subsets (chains); a chain is the random unit.",
    "Recipes and checkpoints are selected on validation images held out once; the test set is read once per run.",
    "The verdict comes from D(n) = log error(b) - log error(a), paired by chain, with a simultaneous 95% band over the"
    " measured sizes: a model leads where the whole band is on its side, and a change of lead is a crossover.",
    "N* is where the mean of D, interpolated in log n, changes sign; its confidence set, where the band contains zero.",
    "With few chains an interval is wide and rests on a t distribution; it does not speak of other recipes or budgets.",
)
RUN_COLUMNS = (
    "run_id",
    "dataset",
    "model",
    "n_train",
    "chain",
    "seed",
    "test_error",
    "val_error",
    "train_error",
    "best_step",
)
CALIBRATION = (
    ("chains", "chains", "d"),
    ("power", "power", ".2f"),
    ("false crossovers", "false_crossover", ".3f"),
    ("coverage of N*", "coverage", ".3f"),
    ("width of its interval (ratio)", "width", ".2f"),
    ("of a pointwise Fieller set", "fieller_width", ".2f"),
)
"""Column of the table, key of a row of calibration.json, format."""
COST = ("params", "forward_flops", "images_seen", "flops", "train_seconds", "images_per_second")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{100 * value:.{digits}f} %"


def interval(value: float | None, low: float | None, high: float | None, spec: str = ".2f") -> str:
    """Return such as `1.20 [1.00, 1.50]`, with a dash for what is unbounded or unknown."""
    if value is None:
        return "–"
    ends = ", ".join("–" if end is None else format(end, spec) for end in (low, high))
    return f"{value:{spec}} [{ends}]"


def size_tables(report: Report) -> list[dict[str, Any]]:
    """Return, for each dataset, the table by n_train: errors of the models and the gap of each pair."""
    tables = []
    for study in report.result["studies"]:
        curves = report.curves[report.curves["dataset"] == study["dataset"]]
        models = list(dict.fromkeys(curves["model"]))
        header = ["training images", *models]
        for pair in study["pairs"]:
            header += [
                f"accuracy gap {pair['b']} - {pair['a']}",
                "log error ratio [95% band]",
                "data equivalence [95% CI]",
            ]
        rows = []
        for n, part in curves.groupby("n_train"):
            by_model = {row.model: row for row in part.itertuples()}
            cells = [f"{n:,}"]
            for model in models:
                row: Any = by_model.get(model)
                ends = (
                    ""
                    if row is None or pd.isna(row.error_low)
                    else f" [{percent(row.error_low)}, {percent(row.error_high)}]"
                )
                cells.append("–" if row is None else percent(row.error_mean) + ends)
            for pair in study["pairs"]:
                gap = next((g for g in pair["gap"] if g["n_train"] == n), None)
                rho = next((g for g in pair["data_equivalence"] if g["n_train"] == n), None)
                cells.append("–" if gap is None else f"{100 * gap['accuracy_gap']:+.1f}")
                cells.append("–" if gap is None else interval(gap["log_error_ratio"], gap["ci_low"], gap["ci_high"]))
                cells.append("–" if rho is None else interval(rho["factor"], rho["ci_low"], rho["ci_high"]))
            rows.append(cells)
        tables.append({"dataset": study["dataset"], "header": header, "rows": rows})
    return tables


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


def cost_table(report: Report) -> list[list[str]]:
    """Return the mean cost of a run by dataset and model; what was not recorded is a dash."""
    rows = []
    for (dataset, model), part in report.runs.groupby(["dataset", "model"], sort=False):
        means = [part[name].mean() if name in part and part[name].notna().any() else None for name in COST]
        rows.append([str(dataset), str(model), *("–" if value is None else f"{value:,.4g}" for value in means)])
    return rows


def html_page(report: Report, drawings: list[tuple[str, str]]) -> str:
    """Return the page; all text is escaped, and figures are embedded."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    columns = [name for name in RUN_COLUMNS if name in report.runs and report.runs[name].notna().any()]
    runs = report.runs[columns].round(4).astype(object).where(report.runs[columns].notna(), "")
    return environment.get_template("page.html.j2").render(
        report=report,
        drawings=[(name, alt, _svg(report.directory, name)) for name, alt in drawings],
        tables=size_tables(report),
        cost_header=["dataset", "model", *(name.replace("_", " ") for name in COST)],
        costs=cost_table(report),
        stabilities=[(sentence, stability_cells(rows)) for sentence, rows in report.stabilities],
        calibration_header=[title for title, _, _ in CALIBRATION],
        calibrations=[(sentence, calibration_cells(rows)) for sentence, rows in report.calibrations],
        laws=law_cells(report),
        columns=columns,
        runs=runs.to_numpy().tolist(),
        methods=METHODS,
        downloads={name: _data_uri(report.directory / name) for name in ("runs.csv", "curves.csv", "crossover.json")},
    )


def _svg(directory: Path, name: str) -> str:
    encoded = base64.b64encode((directory / "figures" / f"{name}.svg").read_bytes()).decode()
    return f"data:image/svg+xml;base64,{encoded}"


def _data_uri(path: Path) -> str:
    return "data:text/plain;base64," + base64.b64encode(path.read_bytes()).decode()


def markdown_page(report: Report, drawings: list[tuple[str, str]]) -> str:
    """Return the verdicts, the tables, the figures and the conditions."""
    lines = [f"# {report.title}", ""]
    lines += [f"**{verdict}**\n" for verdict in report.verdicts]
    lines += [f"- {note}" for note in (*report.trouble, *report.notes)]
    for table in size_tables(report):
        lines += ["", f"## {table['dataset']}: mean test error over chains [95% CI]", "", _row(table["header"])]
        lines.append("|" + "---:|" * len(table["header"]))
        lines += [_row(row) for row in table["rows"]]
    lines += ["", *(f"![{alt}](figures/{name}.png)\n" for name, alt in drawings)]
    said = [*report.extrapolations, *(sentence for sentence, _ in (*report.stabilities, *report.calibrations))]
    if said:
        lines += ["## How far the verdict carries", "", *(f"- {sentence}" for sentence in said), ""]
    lines += ["## Methods", ""]
    lines += [f"- {sentence}" for sentence in METHODS]
    lines += ["", "## Conditions", "", f"- repeat: `{report.command}`", f"- runs: {len(report.runs)}"]
    lines += [f"- {name}: {', '.join(map(str, values))}" for name, values in report.environment.items()]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
