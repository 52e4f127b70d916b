"""The summary of a sweep in the terminal."""

from rich.console import Console

from crossover.report import tables
from crossover.report.findings import HEADLINES, Report
from crossover.report.section import PAGE
from crossover.report.table import Table, terminal_table

MOST_ROWS = 20
"""Most sizes for which the terminal shows a table."""
MOST_NOTES = 6
COST = ("model", "runs", "training seconds", "images per second")


def terminal_summary(report: Report, console: Console) -> None:
    """Print the tables of mean errors and of cost, what is missing, the verdict and the path of the page."""
    for study in report.result["studies"]:
        errors = tables.size_tables(report, study)[:1]
        if errors and len(errors[0].rows) <= MOST_ROWS:
            console.print(terminal_table(_only(errors[0], 1 + report.runs["model"].nunique())))
    cost = tables.cost_table(report)
    if set(COST) <= set(cost.header):
        console.print(terminal_table(cost.with_columns(COST).with_caption("cost, mean of runs")))
    for sentence, rows in report.calibrations:
        if rows:
            console.print(terminal_table(tables.calibration_rows(rows)))
        _say(console, sentence)
    for line in report.trouble:
        _say(console, line, "red")
    for line in report.notes[:MOST_NOTES]:
        _say(console, line, "dim")
    if len(report.notes) > MOST_NOTES:
        _say(console, f"and {len(report.notes) - MOST_NOTES} more notes on the page", "dim")
    for line in (*report.extrapolations, *(sentence for sentence, _ in report.stabilities))[:MOST_NOTES]:
        _say(console, line)
    if len(report.pairs) > HEADLINES:
        console.print(terminal_table(tables.verdict_table(report)))
    for verdict in report.headline:
        _say(console, verdict, "bold")
    console.print(f"page: {report.directory / PAGE}", highlight=False, markup=False, soft_wrap=True)


def _only(table: Table, count: int) -> Table:
    return table.with_columns(table.header[:count])


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(line, style=style, highlight=False, markup=False)
