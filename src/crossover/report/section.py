"""A section of a report: sentences, figures and tables under a title, and the file that a study writes it to."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from crossover.config import CrossoverError, describe
from crossover.fields import Frozen
from crossover.report.table import Table, markdown_table, plain
from crossover.store import write_text

PAGE = "report.html"
"""Not tracked by git in results/: `make pages` rebuilds it from the other files."""
WRITTEN = (
    *(PAGE, "report.md"),
    *("crossover.json", "runs.csv", "curves.csv", "stability.csv", "environment.json"),
)
"""Files that every report has."""
PREDICTIONS = "predictions.npz"
"""Test images of each run and data set: `predicted-RUN_ID` (T,), `labels-NAME` (T,) and `classes-NAME` (K,)."""
WHERE_KNOWN = ("plan.json", PREDICTIONS, "classes.csv", "calibration.json")
"""Files that a report has if there is a plan, predictions or a simulation."""
FileName = Annotated[str, Field(pattern=r"^[\w][\w.+,=@-]*$")]
"""The name of a file next to the report, without a folder."""


class Drawing(Frozen):
    """A figure in figures/ next to the report."""

    name: FileName
    kind: Literal["svg", "png"] = "svg"
    alt: str
    """Says the same in words."""
    caption: str = ""
    """Empty: the text alternative."""


class Part(Frozen):
    """A heading and its content, in this order."""

    title: str
    sentences: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()
    code: str = ""
    """Commands or messages, verbatim."""
    parts: tuple["Part", ...] = ()
    folded: bool = False
    """Whether only its title is visible until it is opened."""


class Section(Part):
    """A section of the page. A study writes it as section-NAME.json next to the report."""

    name: FileName
    after: str = ""
    """The section of the page that it follows; by default it precedes those on cost, runs and methods."""
    files: tuple[FileName, ...] = ()
    """Tables of the study next to the report, to be downloaded and published with it."""


def write_section(section: Section, directory: Path) -> None:
    """Write a section next to a report; `make report` puts it on the page."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / f"section-{section.name}.json", section.model_dump_json(indent=1) + "\n")


def read_sections(directory: Path) -> list[Section]:
    """Return the sections that studies wrote next to a report; raise CrossoverError for a damaged one."""
    sections = []
    for path in sorted(directory.glob("section-*.json")):
        try:
            sections.append(Section.model_validate_json(path.read_bytes()))
        except (OSError, ValueError) as error:
            said = describe(error) if isinstance(error, ValidationError) else error
            raise CrossoverError(
                f"{path} cannot be read as a section of a report ({said}); repeat the command that wrote it, or move it"
                " to another folder"
            ) from None
    return sections


def report_files(directory: Path) -> list[str]:
    """Return the names of a report's existing files, without figures: those downloaded, published and logged."""
    sections = read_sections(directory)
    left = [name for section in sections for name in (f"section-{section.name}.json", *section.files)]
    return [name for name in dict.fromkeys((*WRITTEN, *WHERE_KNOWN, *left)) if (directory / name).exists()]


def markdown_part(part: Part, level: int = 2) -> list[str]:
    """Return the lines of a part in Markdown."""
    lines = ["#" * level + " " + plain(part.title), ""]
    for sentence in part.sentences:
        lines += [plain(sentence), ""]
    for drawing in part.drawings:
        lines += [f"![{plain(drawing.alt)}](figures/{drawing.name}.{drawing.kind})", ""]
    for table in part.tables:
        lines += [*([plain(table.caption), ""] if table.caption else []), *markdown_table(table), ""]
    if part.code:
        lines += ["```", *part.code.replace("```", "'''").splitlines(), "```", ""]
    for one in part.parts:
        lines += markdown_part(one, min(level + 1, 6))
    return lines
