"""What does a report say in Markdown? The verdicts, the tables, the figures and the conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossover.report import tables
from crossover.report.methods import METHODS
from crossover.report.section import markdown_part, read_sections
from crossover.report.table import plain

if TYPE_CHECKING:
    from crossover.report.build import Report


def markdown_page(report: Report, drawings: list[tuple[str, str]]) -> str:
    """Return the same as the page, without the runs, which are in runs.csv."""
    lines = [f"# {plain(report.findings.title)}", ""]
    lines += [f"**{plain(verdict)}**\n" for verdict in report.verdicts]
    lines += [f"- {plain(note)}" for note in (*report.trouble, *report.notes)]
    for table in tables.size_tables(report):
        lines += ["", f"## {plain(table['title'])}", ""]
        lines += _table(table["header"], table["rows"])
    lines += ["", *(f"![{plain(alt)}](figures/{name}.svg)\n" for name, alt in drawings)]
    said = [*report.extrapolations, *(sentence for sentence, _ in (*report.stabilities, *report.calibrations))]
    if said:
        lines += ["## How far the verdict carries", "", *(f"- {plain(sentence)}" for sentence in said), ""]
    laws = tables.law_cells(report)
    if laws:
        header = ["dataset", "model", "law", "parameters", "held-out RMSE of log error", "of the last value"]
        lines += ["## Fitted laws", "", *_table(header, laws), ""]
    header, costs = tables.cost_table(report)
    lines += ["## Cost of a run", "", *_table(header, costs), ""]
    lines += [f"- all runs, {title}: {value}" for title, value in tables.totals(report)]
    for section in read_sections(report.directory):
        lines += ["", *markdown_part(section)]
    lines += ["", "## Methods", ""]
    lines += [f"- {sentence}" for sentence in METHODS]
    lines += ["", "## Conditions", "", f"- repeat: `{code(report.findings.command)}`", f"- runs: {len(report.runs)}"]
    lines += [
        f"- {plain(name)}: {plain(', '.join(map(str, values)))}" for name, values in report.findings.conditions.items()
    ]
    return "\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list[str]], left: int = 0) -> list[str]:
    return [_row(header), "|" + "---|" * left + "---:|" * (len(header) - left), *(_row(row) for row in rows)]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def code(text: str) -> str:
    """Return text for a place between backticks, which it does not end."""
    return " ".join(text.split()).replace("`", "'")
