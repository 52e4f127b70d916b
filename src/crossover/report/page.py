"""How does a reader see it? One self-contained HTML page, and the same in Markdown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd

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
        notes=[note for _, pair in report.pairs for note in pair["notes"]],
        cost_header=["dataset", "model", *(name.replace("_", " ") for name in COST)],
        costs=cost_table(report),
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
    lines += [f"- {note}" for note in report.trouble]
    for table in size_tables(report):
        lines += ["", f"## {table['dataset']}: mean test error over chains [95% CI]", "", _row(table["header"])]
        lines.append("|" + "---:|" * len(table["header"]))
        lines += [_row(row) for row in table["rows"]]
    lines += ["", *(f"![{alt}](figures/{name}.png)\n" for name, alt in drawings), "## Methods", ""]
    lines += [f"- {sentence}" for sentence in METHODS]
    lines += ["", "## Conditions", "", f"- repeat: `{report.command}`", f"- runs: {len(report.runs)}"]
    lines += [f"- {name}: {', '.join(map(str, values))}" for name, values in report.environment.items()]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
