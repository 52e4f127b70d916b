"""A report as a self-contained page, as Markdown and in the terminal: its sections in order, and their rendering."""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.console import Console

from crossover.analysis.contract import Analysis
from crossover.analysis.sentences import named_verdict
from crossover.analysis.testset import telling_classes
from crossover.record import title
from crossover.report import tables
from crossover.report.contents import HEADLINES, METHODS, OF_SWEEPS, Fact, Report, notes_of
from crossover.report.figures import families_of
from crossover.report.section import (
    PAGE,
    Drawing,
    Part,
    Section,
    markdown_part,
    plain,
    read_sections,
    report_files,
    table_of,
    terminal_table,
)
from crossover.report.style import inline_svg, styles
from crossover.text import say

MOST_CLASSES = 10
BEYOND = "Laws cannot be checked beyond the largest size: an extrapolation is a range, never an N*."
SIMULATED = "Repetitions of this design with a known N* are simulated; power needs a crossing as steep as measured."
MOST_BYTES = 400_000
"""Largest file embedded in the page as a download, in bytes."""
QUESTION = "At how many training images does one model overtake another?"
NOTES = 6
"""Notes and sentences printed in the terminal."""
ONLY_ON_PAGE = ("runs", "samples")
"""Sections left out of Markdown, as runs.csv and figures/ have them."""
MOST_ROWS = 20
"""Most sizes for which the terminal shows a table."""


def report_sections(report: Report, drawings: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """Return all sections with content; `drawings` are those of each data set."""
    analyses = report.result["studies"]
    influential = [found for _, pair in report.pairs for found in pair["influential"]]
    limits = {
        "Data or budget?": tables.saturation_table(report),
        "Runs far from their replicates": tables.named_table(influential, ("error", "typical")),
    }
    data_sets = tuple(_data_set(report, analysis, drawings[analysis["dataset"]]) for analysis in analyses)
    laws = [(analysis["dataset"], entry) for analysis in analyses for entry in analysis["laws"] if entry["fits"]]
    noted = tuple(f"{dataset}, {entry['model']}: {entry['note']}" for dataset, entry in laws if entry["note"])
    own = report.inputs.is_own
    made = [
        Section(name="verdicts", title="Verdicts", tables=(tables.verdict_table(report),)),
        Section(name="curves", title="Learning curves", parts=data_sets),
        Section(
            name="limits",
            title="What the verdict is about",
            sentences=tuple(dict.fromkeys(analysis["estimand"] for analysis in analyses)),
            parts=tuple(Part(title=title, tables=(table,)) for title, table in limits.items()),
        ),
        Section(name="carries", title="How far the verdict carries", parts=tuple(_carries(report))),
        Section(name="laws", title="Fitted laws", sentences=noted, tables=(tables.law_table(report),)),
        Section(name="cost", title="Cost", tables=(tables.cost_table(report), tables.totals(report))),
        Section(name="runs", title="All runs", tables=(tables.run_table(report),)),
        _missing(report),
        Section(name="methods", title="Methods", sentences=METHODS if own else METHODS[OF_SWEEPS:]),
        _repeat(report),
    ]
    for section in (*report.inputs.sections, *read_sections(report.directory)):
        names = [one.name for one in made]
        after = section.after in names
        made.insert(names.index(section.after) + 1 if after else names.index("cost"), section)
    return [section for section in made if section.has_content]


def _data_set(report: Report, analysis: Analysis, drawings: Sequence[Drawing]) -> Part:
    """Return the results for one data set: notes, figures, numbers by size, and by class where that is known."""
    pairs, dataset = analysis["pairs"], analysis["dataset"]
    short = "; ".join(dict.fromkeys(named_verdict(p["a"], p["b"], p["verdict"], p["direction"]) for p in pairs))
    classes = report.classes[report.classes["dataset"] == dataset]
    names, count = telling_classes(classes, MOST_CLASSES), classes["class"].nunique()
    most = f"The {len(names)} of {count} classes in which the models differ most; all are in classes.csv."
    table = tables.class_table(classes, dataset, names)
    by_class = Part(title="Single classes", sentences=(most,) if count > len(names) else (), tables=(table,))
    return Part(
        title=f"{dataset}: {short}" if 0 < len(pairs) <= HEADLINES else f"{dataset}: {len(pairs)} pairs",
        sentences=(*(pair["summary"] for pair in pairs if len(report.pairs) > HEADLINES), *notes_of(analysis)),
        drawings=tuple(drawings),
        tables=tuple(tables.size_tables(report, analysis)),
        parts=(by_class,),
        folded=len(report.result["studies"]) > 1,
    )


def _carries(report: Report) -> Iterator[Part]:
    """Yield what other analyses, laws and simulations say of the verdict."""
    ways = [(said, tables.stability_rows(rows)) for said, rows in report.stabilities]
    if ways:
        parts = tuple(Part(title=said, tables=(table,), folded=True) for said, table in ways)
        yield Part(title="Does the verdict survive other choices?", parts=parts, folded=len(ways) > HEADLINES)
    if report.extrapolations:
        said = (*report.extrapolations, BEYOND)
        yield Part(title="Beyond the measured sizes", sentences=said, folded=len(said) > HEADLINES)
    simulated = tuple(
        Part(
            title=f"{one['dataset']}, {one['a']} and {one['b']}: {one['note']}",
            tables=(tables.named_table(one["rows"]),),
            folded=len(report.pairs) > 1,
        )
        for one in report.calibration
    )
    if simulated or ways:
        command = f"make report SWEEP={report.inputs.title} ARGS=calibrate=500"
        if not report.inputs.is_own:
            command = f"{report.inputs.command} calibrate=500"
        how = SIMULATED if simulated else f"Whether it could was not simulated here: {command}"
        yield Part(title="Could this design find the crossover?", sentences=(how,), parts=simulated)


def _missing(report: Report) -> Section:
    found = report.inputs
    said = tuple(report.trouble) or (f"Nothing: all {found.planned:,} runs are done.",)
    parts = tuple(Part(title=run_id, code=text, folded=True) for run_id, text in found.errors.items())
    return Section(name="missing", title="What failed or is missing", sentences=said, parts=parts)


def _repeat(report: Report) -> Section:
    """Return the commands that repeat the study; a clone of the code lacks what differed from the commit."""
    known = report.inputs.conditions
    commits = [str(commit) for commit in known.get("commit", []) if commit and not any(known.get("dirty", []))]
    commands = [*(f"git checkout {shlex.quote(commit)}" for commit in commits[:1]), report.inputs.command]
    words = ({"condition": title(name), "of the runs": ", ".join(map(_condition, known[name]))} for name in known)
    command = Part(title="Command", code="\n".join(commands))
    return Section(
        name="repeat", title="Repeat it", parts=(command, Part(title="Conditions", tables=(table_of(words),)))
    )


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
        title=report.inputs.title,
        question=QUESTION,
        headline=report.headline,
        trouble=report.trouble,
        colours={model: style.colour for model, style in models.items()},
        sections=sections,
        downloads=[(path.name, data_uri(path) if path.stat().st_size <= MOST_BYTES else None) for path in files],
    )


def section_page(section: Section, directory: Path) -> str:
    nothing = dict.fromkeys(("question", "headline", "trouble", "downloads"), ())
    return _render(directory, title=section.title, sections=[section], colours={}, **nothing)


def _render(directory: Path, **values: object) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(values, picture=lambda drawing: picture(drawing, directory))


def picture(drawing: Drawing, directory: Path) -> Markup:
    path = directory / "figures" / f"{drawing.name}.{drawing.kind}"
    if drawing.kind == "svg":
        return Markup(inline_svg(path, drawing.name, drawing.alt))  # noqa: S704 - our own SVG
    return Markup('<img src="{}" alt="{}">').format(data_uri(path, "image/png"), drawing.alt)


def data_uri(path: Path, kind: str = "text/plain") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def markdown_page(report: Report, sections: Sequence[Section]) -> str:
    lines = [f"# {plain(report.inputs.title)}", "", *(f"**{plain(said)}**\n" for said in report.headline)]
    lines += [f"- {plain(note)}" for note in report.trouble]
    for section in sections:
        if section.name not in ONLY_ON_PAGE:
            lines += ["", *markdown_part(section)]
    return "\n".join(lines).rstrip() + "\n"


def terminal_summary(report: Report, console: Console) -> None:
    """Print the tables of mean errors, what is missing or left out, the verdict and the path of the page."""

    def show(lines: Sequence[str], style: str = "") -> None:
        for line in lines:
            say(console, line, style)

    for analysis in report.result["studies"]:
        errors = tables.size_table(report, analysis)
        if 0 < len(errors.rows) <= MOST_ROWS:
            console.print(terminal_table(errors))
    notes = [f"{analysis['dataset']}: {note}" for analysis in report.result["studies"] for note in notes_of(analysis)]
    more = [f"and {len(notes) - NOTES} more notes on the page"] if len(notes) > NOTES else []
    show(report.trouble, "red")
    show(notes[:NOTES] + more, "dim")
    show([*report.extrapolations, *(sentence for sentence, _ in report.stabilities)][:NOTES])
    show([f"{one['a']} and {one['b']} on {one['dataset']}: {one['note']}" for one in report.calibration])
    if len(report.pairs) > HEADLINES:
        console.print(terminal_table(tables.verdict_table(report)))
    show(report.headline, "bold")
    console.print(f"page: {report.directory / PAGE}", highlight=False, markup=False, soft_wrap=True)
