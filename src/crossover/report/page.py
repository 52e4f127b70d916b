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
from crossover.report.section import PAGE, Drawing, Section, markdown_part, plain, report_files, terminal_table
from crossover.report.style import inline_svg, styles

MOST_BYTES = 400_000
"""Largest file embedded in the page as a download, in bytes."""
QUESTION = "At how many training images does one model overtake another?"
NOTES = 6
"""Notes shown without unfolding, and in the terminal."""
ONLY_ON_PAGE = ("runs", "samples")
"""Sections left out of Markdown, as runs.csv and figures/ have them."""
MOST_ROWS = 20
"""Most sizes for which the terminal shows a table."""


def html_page(report: Report, sections: Sequence[Section]) -> str:
    """Return the page of a report, with all text escaped and figures embedded."""
    models = styles(list(dict.fromkeys(report.runs["model"])), families_of(report.runs))
    files = [report.directory / name for name in report_files(report.directory) if name not in (PAGE, "report.md")]
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
        downloads=[(path.name, data_uri(path) if path.stat().st_size <= MOST_BYTES else None) for path in files],
    )


def _notes(report: Report) -> list[str]:
    """Return the notes above the sections; with several data sets each part has its own."""
    return report.notes if len(report.result["studies"]) == 1 else []


def section_page(section: Section, directory: Path) -> str:
    """Return a page of a single section."""
    nothing = dict.fromkeys(("question", "headline", "trouble", "notes", "downloads"), ())
    return _render(directory, title=section.title, sections=[section], colours={}, shown_notes=0, **nothing)


def _render(directory: Path, **values: object) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(values, picture=lambda drawing: picture(drawing, directory))


def picture(drawing: Drawing, directory: Path) -> Markup:
    """Return a figure as an element of the page."""
    path = directory / "figures" / f"{drawing.name}.{drawing.kind}"
    if drawing.kind == "svg":
        return Markup(inline_svg(path, drawing.name, drawing.alt))  # noqa: S704 - our own SVG
    return Markup('<img src="{}" alt="{}">').format(data_uri(path, "image/png"), drawing.alt)


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
    """Print the tables of mean errors, what is missing or left out, the verdict and the path of the page."""

    def say(lines: Sequence[str], style: str = "") -> None:
        for line in lines:
            console.print(line, style=style, highlight=False, markup=False)

    for study in report.result["studies"]:
        errors = tables.size_tables(report, study)[:1]
        if errors and len(errors[0].rows) <= MOST_ROWS:
            of_models = errors[0].header[: 1 + report.runs["model"].nunique()]
            console.print(terminal_table(errors[0].with_columns(of_models)))
    say([sentence for sentence, _ in report.calibrations])
    say(report.trouble, "red")
    more = len(report.notes) - NOTES
    say(report.notes[:NOTES] + [f"and {more} more notes on the page"] * (more > 0), "dim")
    say([*report.extrapolations, *(sentence for sentence, _ in report.stabilities)][:NOTES])
    if len(report.pairs) > HEADLINES:
        console.print(terminal_table(tables.verdict_table(report)))
    say(report.headline, "bold")
    console.print(f"page: {report.directory / PAGE}", highlight=False, markup=False, soft_wrap=True)
