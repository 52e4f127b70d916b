"""One self-contained HTML page of a report: its own sections (templates/sections) and those of studies."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from crossover.analysis.classes import telling_classes
from crossover.report import tables
from crossover.report.methods import METHODS
from crossover.report.section import Drawing, Section, read_sections, report_files
from crossover.report.style import inline_svg, styles
from crossover.report.templating import templates

if TYPE_CHECKING:
    from crossover.report.build import Report

SECTIONS = {
    "curves": "Learning curves",
    "sizes": "Numbers by size",
    "carries": "How far the verdict carries",
    "laws": "Fitted laws",
    "classes": "Single classes",
    "cost": "Cost",
    "samples": "What the networks see",
    "runs": "All runs",
    "missing": "What failed or is missing",
    "methods": "Methods",
    "repeat": "Repeat it",
}
"""Name of a template to its heading, in the order of the page; a section that renders to nothing is left out."""
MOST_RUNS = 2_000
"""Runs in the table of the page; more would make it slow."""
MOST_BYTES = 400_000
"""Of a file that is a download within the page."""
MOST_CLASSES = 10


def html_page(report: Report, drawings: list[tuple[str, str]]) -> str:
    """Return the page; all text is escaped, and figures are a part of it."""
    environment = templates()
    environment.filters["percent"] = tables.percent
    values = _context(report, drawings)
    made = {name: environment.get_template(f"sections/{name}.html.j2").render(values).strip() for name in SECTIONS}
    sections = [(name, title, Markup(made[name])) for name, title in SECTIONS.items() if made[name]]  # noqa: S704 - escaped when it was rendered
    for left in read_sections(report.directory):
        names = [name for name, *_ in sections]
        place = names.index(left.after) + 1 if left.after in names else names.index("methods")
        body = section_body(left, report.directory, values["colours"])
        sections.insert(place, (left.name, left.title, body))
    return environment.get_template("page.html.j2").render(values, sections=sections)


def section_body(section: Section, directory: Path, colours: dict[str, str] | None = None) -> Markup:
    """Return what stands below the heading of a section, with the figures of `directory`."""
    part = templates().get_template("part.html.j2").module.part  # type: ignore[attr-defined]
    return Markup(part(section, lambda drawing: picture(drawing, directory), colours or {}))  # noqa: S704 - escaped when it was rendered


def section_page(section: Section, directory: Path) -> str:
    """Return a page of one section alone."""
    body = section_body(section, directory)
    return templates().get_template("section.html.j2").render(section=section, body=body)


def picture(drawing: Drawing, directory: Path) -> Markup:
    """Return a figure as an element of the page: SVG where there is one, else PNG."""
    path = directory / "figures" / f"{drawing.name}.svg"
    if path.exists():
        return Markup(inline_svg(path, drawing.name, drawing.alt))  # noqa: S704 - our own SVG
    source = data_uri(path.with_suffix(".png"), "image/png")
    return Markup('<img class="drawing" src="{}" alt="{}">').format(source, drawing.alt)


def shown_classes(report: Report) -> dict[str, list[str]]:
    """Return, for each dataset with predictions, the classes that have a figure."""
    parts = report.classes.groupby("dataset", sort=False)
    return {str(dataset): telling_classes(part, MOST_CLASSES) for dataset, part in parts}


def _context(report: Report, drawings: list[tuple[str, str]]) -> dict[str, Any]:
    models = list(dict.fromkeys(report.runs["model"]))
    run_header, run_rows = tables.run_rows(report)
    cost_header, costs = tables.cost_table(report)
    shown = shown_classes(report)
    return {
        "report": report,
        "colours": {model: colour for model, (colour, _) in styles(models).items()},
        "figures": [(name, alt, picture(Drawing(name=name, alt=alt), report.directory)) for name, alt in drawings],
        "sizes": tables.size_tables(report),
        "extrapolations": tables.extrapolation_cells(report),
        "stabilities": [(sentence, tables.stability_cells(rows)) for sentence, rows in report.stabilities],
        "calibration_header": [title for title, _, _ in tables.CALIBRATION],
        "calibrations": [(sentence, tables.calibration_cells(rows)) for sentence, rows in report.calibrations],
        "laws": tables.law_cells(report),
        "class_tables": tables.class_tables(report, shown),
        "class_counts": report.classes.groupby("dataset")["class"].nunique().to_dict(),
        "cost_header": cost_header,
        "costs": costs,
        "totals": tables.totals(report),
        "samples": [(sample, data_uri(sample.path, "image/png")) for sample in report.findings.extras.samples],
        "run_header": run_header,
        "run_rows": run_rows if len(run_rows) <= MOST_RUNS else [],
        "methods": METHODS,
        "downloads": _downloads(report.directory),
    }


def _downloads(directory: Path) -> list[tuple[str, str | None]]:
    """Return the names of the files there are, and their content for all but the very large."""
    found = [directory / name for name in report_files(directory) if name not in ("report.html", "report.md")]
    return [(path.name, data_uri(path) if path.stat().st_size <= MOST_BYTES else None) for path in found]


def data_uri(path: Path, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
