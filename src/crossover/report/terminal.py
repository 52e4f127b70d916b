"""What does a sweep say in the terminal when it ends?"""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from crossover.report.build import Report
from crossover.report.tables import CALIBRATION, calibration_cells, quantity

MOST_ROWS = 20
"""Sizes up to which the terminal shows a table."""
MOST_NOTES = 6


def terminal_summary(report: Report, console: Console) -> None:
    """Print the tables of mean errors and of cost, what is missing, the verdict and where the page is."""
    for dataset, rows in report.curves.groupby("dataset", sort=False):
        models = list(dict.fromkeys(rows["model"]))
        if rows["n_train"].nunique() > MOST_ROWS:
            continue  # curves measured at unaligned sizes: the page has them
        table = Table(
            report.findings.sizes,
            *map(escape, models),
            title=escape(f"test error on {dataset}, mean of chains"),
            box=None,
        )
        for column in table.columns:
            column.justify = "right"
        for n, part in rows.groupby("n_train"):
            errors = dict(zip(part["model"], part["error_mean"], strict=True))
            cells = [f"{100 * errors[model]:.1f} %" if model in errors else "" for model in models]
            table.add_row(f"{n:,}", *cells)
        console.print(table)
    _print_cost(report, console)
    for sentence, rows_by_chains in report.calibrations:
        _print_calibration(sentence, rows_by_chains, console)
    for line in report.trouble:
        console.print(line, style="red", highlight=False, markup=False)
    for line in report.notes[:MOST_NOTES]:
        console.print(line, style="dim", highlight=False, markup=False)
    if len(report.notes) > MOST_NOTES:
        console.print(f"and {len(report.notes) - MOST_NOTES} more notes on the page", style="dim", highlight=False)
    for line in (*report.extrapolations, *(sentence for sentence, _ in report.stabilities)):
        console.print(line, highlight=False, markup=False)
    for verdict in report.verdicts:
        console.print(verdict, style="bold", highlight=False, markup=False)
    console.print(f"page: {report.directory / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def _print_cost(report: Report, console: Console) -> None:
    """Print what the runs of each model took; curves from elsewhere have no cost."""
    runs = report.runs
    if "total_seconds" not in runs or not runs["total_seconds"].notna().any():
        return
    table = Table("model", "runs", "seconds a run", "images per second", title="cost, mean of runs", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for model, part in runs.groupby("model", sort=False):
        speed = part["images_per_second"].mean()
        table.add_row(escape(str(model)), str(len(part)), f"{part['total_seconds'].mean():.1f}", quantity(speed))
    console.print(table)


def _print_calibration(sentence: str, rows: list[dict[str, Any]], console: Console) -> None:
    if rows:
        titles = [title for title, _, _ in CALIBRATION]
        table = Table(*titles, title="simulated repetitions of this design", box=None)
        for cells in calibration_cells(rows):
            table.add_row(*cells)
        console.print(table)
    console.print(sentence, highlight=False, markup=False)
