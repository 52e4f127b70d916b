"""What a report is made of: sections of sentences, figures and typed tables, as a file, Markdown or in the terminal."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any, Literal

from matplotlib.ticker import EngFormatter
from pydantic import ConfigDict, Field, ValidationError
from rich.markup import escape
from rich.table import Table as TerminalTable

from crossover.analysis.sentences import images
from crossover.config import CrossoverError, describe
from crossover.fields import Frozen
from crossover.store import write_text

Number = int | float | None
Cell = str | int | float | tuple[Number, ...] | None
"""A word, a number, or a number with the two ends of its interval; None is unknown, and an unknown end unbounded."""
DASH = "–"
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


def _percent(value: float, sign: str = "") -> str:
    """Return a fraction in percent to one decimal, one below 1 % to two digits; rounding errors are zero."""
    digits = ".2g" if 1e-9 < abs(value) < 1e-2 else ".1f"
    return f"{100 * value:{sign}{digits}}"


FORMATS: dict[str, Callable[[float], str]] = {
    "%": lambda value: f"{_percent(value)} %",
    "points": lambda value: _percent(value, "+"),
    "ratio": lambda value: f"{value:.2f}",
    "images": images,
    "SI": EngFormatter(places=1),
    "B": EngFormatter("B", places=1),
}
"""By the unit of a column; others are appended to the number."""
FileName = Annotated[str, Field(pattern=r"^[\w][\w.+,=@-]*$")]
"""The name of a file next to the report, without a folder."""


class Column(Frozen):
    """Heading, unit and side of the cells below it."""

    title: str
    unit: str = ""
    """`%` shows a fraction in percent, `points` a difference of fractions, `images`, `SI` and `B` round to a prefix."""
    left: bool = False
    """Text is aligned left, numbers right."""


class Table(Frozen):
    """Rows of cells under columns, with a caption."""

    model_config = ConfigDict(allow_inf_nan=True)  # NaN is a dash

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def header(self) -> list[str]:
        return [column.title for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The rows as displayed."""
        return [[shown(cell, column.unit) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]


def table_of(rows: Iterable[Mapping[Any, Any]], units: Mapping[str, str] | None = None, caption: str = "") -> Table:
    """Return a table of rows by title of their columns, without columns in which nothing is known."""
    known, units = list(rows), units or {}
    cells = {name: [row.get(name) for row in known] for name in dict.fromkeys(name for row in known for name in row)}
    cells = {name: column for name, column in cells.items() if any(cell is not None for cell in column)}
    heads = [
        Column(title=name, unit=units.get(name, ""), left=all(cell is None or isinstance(cell, str) for cell in column))
        for name, column in cells.items()
    ]
    return Table(caption=caption, columns=tuple(heads), rows=tuple(zip(*cells.values(), strict=True)))


def shown(cell: Cell, unit: str = "") -> str:
    """Return a cell as a reader sees it, such as `12.3 % [11.0 %, 14.1 %]`, `576.0 G` or `–`."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, tuple):
        value, *ends = cell
        bounded = any(end is not None and not isnan(end) for end in ends)
        return _number(value, unit) + (f" [{', '.join(_number(end, unit) for end in ends)}]" if bounded else "")
    return _number(cell, unit)


def _number(value: Number, unit: str) -> str:
    if value is None or isnan(value):
        return DASH
    if unit in FORMATS:
        return FORMATS[unit](value).strip()
    number = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{number} {unit}".strip()


def markdown_table(table: Table) -> list[str]:
    sides = "".join("---|" if column.left else "---:|" for column in table.columns)
    return [_row(table.header), f"|{sides}", *(_row(row) for row in table.cells)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def plain(text: str) -> str:
    """Return text escaped for one line of Markdown: no HTML, emphasis, formula, link or cell boundary."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([`$|~]|(?<!\w)\*(?=\S)|\*(?=\w)|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return text.replace("](", "]\\(").replace("][", "]\\[")


def terminal_table(table: Table) -> TerminalTable:
    """Return a table for a console; names are literal, not markup."""
    made = TerminalTable(title=escape(table.caption) or None, box=None)
    for column in table.columns:
        # fold: a narrow terminal breaks a number over two lines, rather than cut its end off
        made.add_column(escape(column.title), justify="left" if column.left else "right", overflow="fold")
    for row in table.cells:
        made.add_row(*map(escape, row))
    return made


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

    @property
    def has_content(self) -> bool:
        """Whether anything but its title is to be shown."""
        own = self.sentences or self.drawings or self.code or any(table.rows for table in self.tables)
        return bool(own) or any(part.has_content for part in self.parts)


class Section(Part):
    """A section of the page. A study writes it as section-NAME.json next to the report."""

    name: FileName
    after: str = ""
    """The section of the page that it follows; by default it precedes those on cost, runs and methods."""
    files: tuple[FileName, ...] = ()
    """Tables of the study next to the report, to be downloaded and published with it."""


def write_section(section: Section, directory: Path) -> None:
    """Write a section next to a report; `make report` puts it on the page."""
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
    lines = ["#" * level + " " + plain(part.title), ""]
    for sentence in part.sentences:
        lines += [plain(sentence), ""]
    for drawing in part.drawings:
        lines += [f"![{plain(drawing.alt)}](figures/{drawing.name}.{drawing.kind})", ""]
    for table in filter(lambda table: table.rows, part.tables):
        lines += [*([plain(table.caption), ""] if table.caption else []), *markdown_table(table), ""]
    if part.code:
        lines += ["```", *part.code.replace("```", "'''").splitlines(), "```", ""]
    for one in filter(lambda part: part.has_content, part.parts):
        lines += markdown_part(one, min(level + 1, 6))
    return lines
