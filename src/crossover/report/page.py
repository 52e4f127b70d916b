"""A report as a self-contained page, as Markdown and in the terminal: its sections in order, and their rendering."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.console import Console

from crossover.analysis.contract import Study
from crossover.analysis.sentences import named_verdict
from crossover.analysis.testset import telling_classes
from crossover.record import title
from crossover.report import tables
from crossover.report.figures import families_of
from crossover.report.findings import HEADLINES, METHODS, NO_MESSAGE, Fact, Report, notes_of
from crossover.report.section import (
    PAGE,
    Drawing,
    Part,
    Section,
    Table,
    columns,
    markdown_part,
    plain,
    read_sections,
    report_files,
    terminal_table,
)
from crossover.report.style import inline_svg, styles

MOST_RUNS = 2_000
"""Runs in the table of the page; more would make it slow."""
MOST_CLASSES = 10
CLASSES = "classes"
"""Name of the section of single classes."""
BEYOND = "Laws cannot be checked beyond the largest size: an extrapolation is a range, never an N*."
STUDIES_BEFORE = "cost"
"""The section before which sections of studies are placed, unless they name another place."""
MOST_BYTES = 400_000
"""Largest file embedded in the page as a download, in bytes."""
QUESTION = "At how many training images does one model overtake another?"
NOTES = 6
"""Notes shown without unfolding, and in the terminal."""
ONLY_ON_PAGE = ("runs", "samples")
"""Sections left out of Markdown, as runs.csv and figures/ have them."""
MOST_ROWS = 20
"""Most sizes for which the terminal shows a table."""


def report_sections(report: Report, drawings: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """Return all sections with content; `drawings` are those of each data set."""
    blocks = [_data_set(report, study, drawings[study["dataset"]]) for study in report.result["studies"]]
    cost, extras = tables.cost_table(report), report.findings.extras
    measured = Part(title="How it was measured", sentences=METHODS)
    own = [
        Section(name="verdicts", title="Verdicts", tables=(tables.verdict_table(report),) if report.pairs else ()),
        *_of_data_sets(blocks),
        _limits(report),
        _carries(report),
        _laws(report),
        Section(name="cost", title="Cost", tables=(cost, tables.totals(report)) if len(cost.columns) > 3 else ()),
        Section(
            name="samples",
            title="What the networks see",
            sentences=() if extras.samples else (extras.no_samples,),
            drawings=extras.samples,
        ),
        _runs(report),
        _missing(report),
        Section(name="methods", title="Methods", tables=_filled(extras.recipes), parts=(measured,)),
        _repeat(report),
    ]
    made = [section for section in own if section.sentences or section.tables or section.drawings or section.parts]
    for left in read_sections(report.directory):
        names = [section.name for section in made]
        after = names.index(left.after) + 1 if left.after in names else None
        before = next(i for i, name in enumerate(names) if name in (STUDIES_BEFORE, "samples", "runs", "missing"))
        made.insert(before if after is None else after, left)
    return made


def _filled(table: Table | None) -> tuple[Table, ...]:
    """Return a table unless it has no rows."""
    return (table,) if table and table.rows else ()


def _part(title: str, table: Table) -> tuple[Part, ...]:
    return (Part(title=title, tables=(table,)),) if table.rows else ()


def _data_set(report: Report, study: Study, drawings: Sequence[Drawing]) -> Part:
    """Return the results for one data set, folded."""
    pairs, dataset = study["pairs"], study["dataset"]
    short = "; ".join(dict.fromkeys(named_verdict(p["a"], p["b"], p["verdict"], p["direction"]) for p in pairs))
    return Part(
        title=f"{dataset}: {short}" if 0 < len(pairs) <= HEADLINES else f"{dataset}: {len(pairs)} pairs",
        sentences=(*(pair["summary"] for pair in pairs), *notes_of(study)),
        drawings=tuple(drawings),
        tables=tuple(tables.size_tables(report, study)),
        parts=_single_classes(report, dataset),
        folded=True,
    )


def _single_classes(report: Report, dataset: str) -> tuple[Part, ...]:
    """Return the errors of single classes, where predictions are saved."""
    classes = report.classes[report.classes["dataset"] == dataset]
    if classes.empty:
        return ()
    names, count = telling_classes(classes, MOST_CLASSES), classes["class"].nunique()
    most = f"The {len(names)} of {count} classes in which the models differ most; all are in classes.csv."
    said = (most,) if count > len(names) else ()
    table = tables.class_table(report, dataset, names)
    return (Part(title="Single classes", sentences=said, tables=(table,)),)


def _of_data_sets(blocks: Sequence[Part]) -> list[Section]:
    """Return the sections of the only data set, or one with a folded part for each of several."""
    if len(blocks) > 1:
        return [Section(name="curves", title="Data sets", parts=tuple(blocks))]
    classes = (Section(name=CLASSES, **dict(part)) for part in blocks[0].parts)
    return [
        Section(name="curves", title="Learning curves", drawings=blocks[0].drawings),
        Section(name="sizes", title="Numbers by size", tables=blocks[0].tables),
        *classes,
    ]


def _limits(report: Report) -> Section:
    """Return whether curves are limited by data or by budget, and what the intervals refer to."""
    about = dict.fromkeys(study["estimand"] for study in report.result["studies"])
    parts = _part("Data or budget?", tables.saturation_table(report))
    parts += _part("Runs far from their replicates", tables.influential_table(report))
    return Section(name="limits", title="What the verdict is about", sentences=tuple(about), parts=parts)


def _carries(report: Report) -> Section:
    parts = []
    if report.stabilities:
        ways = tuple(
            Part(title=sentence, tables=(tables.stability_rows(rows),), folded=True)
            for sentence, rows in report.stabilities
        )
        parts.append(Part(title="Does the verdict survive other choices?", parts=ways, folded=len(ways) > HEADLINES))
    if report.extrapolations:
        said = (*report.extrapolations, BEYOND)
        parts.append(Part(title="Beyond the measured sizes", sentences=said, folded=len(said) > HEADLINES))
    simulated = tuple(
        Part(title=sentence, tables=_filled(tables.calibration_rows(rows)), folded=len(report.pairs) > 1)
        for sentence, rows in report.calibrations
    )
    how = "Repetitions of this design with a known N* are simulated; power needs a crossing as steep as measured."
    if not simulated:
        of_curves = " curves=" in report.findings.command
        sweep = f"make report SWEEP={report.findings.title} ARGS=calibrate=500"
        command = f"{report.findings.command} calibrate=500" if of_curves else sweep
        how = f"Whether this design could find the crossover was not simulated here: {command}"
    if simulated or report.stabilities:
        parts.append(Part(title="Could this design find the crossover?", sentences=(how,), parts=simulated))
    return Section(name="carries", title="How far the verdict carries", parts=tuple(parts))


def _laws(report: Report) -> Section:
    said = (
        f"{study['dataset']}, {entry['model']}: {entry['note']}"
        for study in report.result["studies"]
        for entry in study["laws"]
        if entry["fits"] and entry["note"]
    )
    table = tables.law_table(report)
    return Section(name="laws", title="Fitted laws", sentences=tuple(said), tables=_filled(table))


def _runs(report: Report) -> Section:
    table = tables.run_table(report)
    if len(table.rows) > MOST_RUNS:
        said = f"{len(report.runs):,} rows are too many for a page; they are in runs.csv."
        return Section(name="runs", title="All runs", sentences=(said,))
    return Section(name="runs", title="All runs", tables=(table,))


def _missing(report: Report) -> Section:
    found = report.findings
    said = tuple(report.trouble) or (f"Nothing: all {found.planned:,} runs are done.",)
    failed = tuple(
        Part(title=run_id, code=text.strip() or NO_MESSAGE, folded=True) for run_id, text in found.errors.items()
    )
    return Section(name="missing", title="What failed or is missing", sentences=said, parts=failed)


def _repeat(report: Report) -> Section:
    conditions = report.findings.conditions
    rows = tuple((title(name), ", ".join(map(_condition, values))) for name, values in conditions.items())
    table = Table(caption="", columns=columns("condition", "of the runs", left=2), rows=rows)
    parts = (Part(title="Command", code="\n".join(report.commands)), *_part("Conditions", table))
    said = ("The code had changes that are in no commit.",) if True in conditions.get("dirty", []) else ()
    return Section(name="repeat", title="Repeat it", sentences=said, parts=parts)


def _condition(value: Fact) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not known" if value is None else str(value)


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
            console.print(line, style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal)

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
