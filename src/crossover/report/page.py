"""A report as one self-contained HTML page, and as Markdown."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from crossover.report.figures import families_of
from crossover.report.findings import Report
from crossover.report.section import PAGE, Drawing, Section, markdown_part, report_files
from crossover.report.style import inline_svg, styles
from crossover.report.table import plain

MOST_BYTES = 400_000
"""Largest file embedded in the page as a download, in bytes."""
QUESTION = "At how many training images does one model overtake another?"
NOTES = 6
"""Notes shown without unfolding."""
ONLY_ON_PAGE = ("runs", "samples")
"""Sections left out of Markdown, as runs.csv and figures/ have them."""


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
