"""A report as one self-contained HTML page, as Markdown, and as a summary in the terminal."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.console import Console

from crossover.report import tables
from crossover.report.figures import families_of
from crossover.report.findings import HEADLINES, Report
from crossover.report.section import PAGE, Drawing, Section, markdown_part, report_files
from crossover.report.style import inline_svg, styles
from crossover.report.table import Table, plain, terminal_table

MOST_BYTES = 400_000
"""Largest file embedded in the page as a download, in bytes."""
QUESTION = "At how many training images does one model overtake another?"
NOTES = 6
"""Notes shown without unfolding."""
ONLY_ON_PAGE = ("runs", "samples")
"""Sections left out of Markdown, as runs.csv and figures/ have them."""
MOST_ROWS = 20
"""Most sizes for which the terminal shows a table."""
TERMINAL_NOTES = 6
COST = ("model", "runs", "training seconds", "images per second")


def html_page(report: Report, sections: Sequence[Section]) -> str:
    """Return the page of a report, with all text escaped and figures embedded."""
    models = styles(list(dict.fromkeys(report.runs["model"])), families_of(report.runs))
    return _render(
        report.directory,
        title=report.findings.title,
        question=QUESTION,
        headline=report.headline,
        trouble=report.trouble,
        notes=_notes(report),
        shown_notes=NOTES,
        colours={model: style.colour for model, style in models.items()},
        sections=sections,
        downloads=_downloads(report.directory),
    )


def _notes(report: Report) -> list[str]:
    """Return the notes above the sections; with several data sets each part has its own."""
    return report.notes if len(report.result["studies"]) == 1 else []


def section_page(section: Section, directory: Path) -> str:
    """Return a page of a single section."""
    return _render(directory, title=section.title, sections=[section])


def _render(directory: Path, **values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    known: dict[str, object] = dict.fromkeys(("question", "headline", "trouble", "notes", "downloads"), ())
    known |= {"colours": {}, "shown_notes": 0} | values
    return environment.get_template("page.html.j2").render(known, picture=lambda drawing: picture(drawing, directory))


def picture(drawing: Drawing, directory: Path) -> Markup:
    """Return a figure as an element of the page."""
    path = directory / "figures" / f"{drawing.name}.{drawing.kind}"
    if drawing.kind == "svg":
        return Markup(inline_svg(path, drawing.name, drawing.alt))  # noqa: S704 - our own SVG
    return Markup('<img src="{}" alt="{}">').format(data_uri(path, "image/png"), drawing.alt)


def _downloads(directory: Path) -> list[tuple[str, str | None]]:
    """Return the names of the existing files, with their content unless it is very large."""
    found = [directory / name for name in report_files(directory) if name not in (PAGE, "report.md")]
    return [(path.name, data_uri(path) if path.stat().st_size <= MOST_BYTES else None) for path in found]


def data_uri(path: Path, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def markdown_page(report: Report, sections: Sequence[Section]) -> str:
    """Return the same as the page in Markdown."""
    lines = [f"# {plain(report.findings.title)}", "", *(f"**{plain(said)}**\n" for said in report.headline)]
    lines += [f"- {plain(note)}" for note in (*report.trouble, *_notes(report))]
    for section in sections:
        if section.name not in ONLY_ON_PAGE:
            lines += ["", *markdown_part(section)]
    return "\n".join(lines).rstrip() + "\n"


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
    for line in report.notes[:TERMINAL_NOTES]:
        _say(console, line, "dim")
    if len(report.notes) > TERMINAL_NOTES:
        _say(console, f"and {len(report.notes) - TERMINAL_NOTES} more notes on the page", "dim")
    for line in (*report.extrapolations, *(sentence for sentence, _ in report.stabilities))[:TERMINAL_NOTES]:
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
