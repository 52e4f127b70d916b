"""How does a reader see it? One self-contained HTML page, made of sections: templates/sections/NAME.html.j2."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from crossover.analysis.classes import telling_classes
from crossover.report import tables
from crossover.report.style import inline_svg, styles
from crossover.report.templating import templates
from crossover.studies.claims import page as claims
from crossover.studies.dose_figure import read_dose
from crossover.studies.probes.tables import probe_tables, read_probe_table
from crossover.studies.recipes import FIGURE as SEARCH_FIGURE
from crossover.studies.recipes import read_search

if TYPE_CHECKING:
    from crossover.report.build import Report

SECTIONS = {
    "curves": "Learning curves",
    "sizes": "Numbers by size",
    "carries": "How far the verdict carries",
    "laws": "Fitted laws",
    "classes": "Single classes",
    "probes": "What the networks have learned",
    "dose": "The dose of bias",
    "claims": "The article's claims",
    "recipes": "How the recipes were searched",
    "cost": "Cost",
    "samples": "What the networks see",
    "runs": "All runs",
    "missing": "What failed or is missing",
    "methods": "Methods",
    "repeat": "Repeat it",
}
"""Name of a template to its heading, in the order of the page; a section that renders to nothing is left out."""
METHODS = (
    "Every model trains on the same class-stratified, nested subsets (chains); a chain is the random unit.",
    "Recipes and checkpoints are selected on validation images held out once; the test set is read once per run.",
    "The verdict comes from D(n) = log error(b) - log error(a), paired by chain, with a simultaneous 95% band over the"
    " measured sizes: a model leads where the whole band is on its side, and a change of lead is a crossover.",
    "N* is where the mean of D, interpolated in log n, changes sign; its confidence set, where the band contains zero.",
    "Data-equivalence is how many times the images of a model b needs for the error of a; its interval is for one"
    " size.",
    "With few chains an interval is wide and rests on a t distribution; it does not speak of other recipes or budgets.",
)
DOWNLOADS = (
    "runs.csv",
    "curves.csv",
    "classes.csv",
    "stability.csv",
    "probes.csv",
    "dose.csv",
    "recipes.csv",
    "crossover.json",
    "environment.json",
)
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
    return environment.get_template("page.html.j2").render(values, sections=sections)


def shown_classes(report: Report) -> dict[str, list[str]]:
    """Return, for each dataset with predictions, the classes that have a figure."""
    parts = report.classes.groupby("dataset", sort=False)
    return {str(dataset): telling_classes(part, MOST_CLASSES) for dataset, part in parts}


def _context(report: Report, drawings: list[tuple[str, str]]) -> dict[str, Any]:
    models = list(dict.fromkeys(report.runs["model"]))
    run_header, run_rows = tables.run_rows(report)
    cost_header, costs = tables.cost_table(report)
    dose, search = read_dose(report.directory), read_search(report.directory)
    shown, probes = shown_classes(report), read_probe_table(report.directory)
    return {
        "report": report,
        "colours": {model: colour for model, (colour, _) in styles(models).items()},
        "figures": [(name, alt, _figure(report.directory, name, alt)) for name, alt in drawings],
        "sizes": tables.size_tables(report),
        "extrapolations": tables.extrapolation_cells(report),
        "stabilities": [(sentence, tables.stability_cells(rows)) for sentence, rows in report.stabilities],
        "calibration_header": [title for title, _, _ in tables.CALIBRATION],
        "calibrations": [(sentence, tables.calibration_cells(rows)) for sentence, rows in report.calibrations],
        "laws": tables.law_cells(report),
        "class_tables": tables.class_tables(report, shown),
        "class_counts": report.classes.groupby("dataset")["class"].nunique().to_dict(),
        "probe_tables": [] if probes is None else probe_tables(probes),
        "dose": dose,
        "dose_figure": "" if dose is None else _figure(report.directory, "dose", dose["alt"]),
        "search": search,
        "search_figure": "" if search is None else _figure(report.directory, SEARCH_FIGURE, search["alt"]),
        "claims": _claims(report.directory / "claims.json"),
        "ledger": claims,
        "cost_header": cost_header,
        "costs": costs,
        "totals": tables.totals(report),
        "samples": [(sample, data_uri(sample.path, "image/png")) for sample in report.findings.extras.samples],
        "run_header": run_header,
        "run_rows": run_rows if len(run_rows) <= MOST_RUNS else [],
        "methods": METHODS,
        "downloads": _downloads(report.directory),
    }


def _figure(directory: Path, name: str, alt: str) -> Markup:
    return Markup(inline_svg(directory / "figures" / f"{name}.svg", name, alt))  # noqa: S704 - our own SVG


def _claims(path: Path) -> dict[str, Any] | None:
    """Return the ledger of claims, where one lies beside the page."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _downloads(directory: Path) -> list[tuple[str, str | None]]:
    """Return the names of the files there are, and their content for all but the very large."""
    found = [directory / name for name in DOWNLOADS if (directory / name).exists()]
    return [(path.name, data_uri(path) if path.stat().st_size <= MOST_BYTES else None) for path in found]


def data_uri(path: Path, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
