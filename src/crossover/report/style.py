"""The look of all figures: colours and markers of models, axes, panels, and saving to files."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from crossover.analysis.runs import bias_rank
from crossover.analysis.sentences import images
from crossover.store import write_atomically

mpl.rcParams["text.parse_math"] = False  # a name may contain a dollar sign, and is drawn as it is

FAMILY_COLOURS = {
    "resnet": ("#0072B2", "#3D93C4", "#4F74E0"),
    "hybrid": ("#009E73", "#3F8F5C", "#1F7F8F"),
    "vit": ("#D55E00", "#C4573D", "#B57A3A"),
}
"""Colours of a family and its members, the families by the rank of their bias. After Okabe and Ito 2008, so that the
colour-blind can tell them apart; darkened so that all have a contrast of 3 on a white and on a dark page."""
OTHERS = ("#B65C8F", "#A87900", "#7A68D8", "#808080", "#2F8F8F", "#C05050", "#6F8F20")
"""Colours of models whose family is not known."""
MARKERS = {"resnet": "o^<hp8H", "hybrid": "DdPX*", "vit": "sv>XP", "": "^vPXDo<>ds*p"}
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
INK, SOFT, FAINT, PAPER = "#222222", "#555555", "#999999", "#ffffff"
"""Colours of axes and text; on the page they follow its light or dark theme."""
DASHES = (0, (4, 2))
ROUND = {10: (1, 2, 3, 5, 7), 100: (1, 2, 5), 3000: (1, 3)}
"""First digits of the numbers on a logarithmic axis whose ends have at most this ratio; powers of ten beyond."""
MANY_TICKS = 12
TOP = 1.3
"""Upper limit of an error axis: an interval may exceed 100 %, an error cannot."""
DPI = 200
"""Resolution of PNG files, and of rasterised parts of the others."""
WIDTH = 4.8
"""Width in inches of a figure with one panel, so that its text is readable on a phone."""
_RC: Any = {
    "svg.hashsalt": "crossover",
    "svg.fonttype": "none",  # text stays text: it can be selected, and the file is small
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


class Style(NamedTuple):
    """How a model is drawn, in every figure."""

    colour: str
    marker: str
    line: Any


def styles(models: Sequence[str], families: Mapping[str, str] | None = None) -> dict[str, Style]:
    """Return as many styles as models: a family shares colours, and its members differ in marker, shade and line.

    `families` maps a model to its family; otherwise the name tells it.
    """
    chosen: dict[str, Style] = {}
    members: Counter[str] = Counter()
    for model in models:
        rank = bias_rank((families or {}).get(model, ""), model)
        family = "" if rank is None else list(FAMILY_COLOURS)[rank]
        colours, markers, place = FAMILY_COLOURS.get(family, OTHERS), MARKERS[family], members[family]
        members[family] += 1
        again = place // len(colours)
        line = LINES[again] if again < len(LINES) else (0, (again, 1.5))
        chosen[model] = Style(colours[place % len(colours)], markers[place % len(markers)], line)
    return chosen


def panels(
    count: int, columns: int = 1, size: tuple[float, float] = (WIDTH, 3.5), **grid: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes of a size in inches, in rows of `columns`; `grid` goes to plt.subplots."""
    rows = -(-count // columns)
    with sns.axes_style("ticks"), mpl.rc_context(_RC):
        shape = (size[0] * columns, size[1] * rows)
        figure, cells = plt.subplots(rows, columns, figsize=shape, squeeze=False, **({"layout": "constrained"} | grid))
    drawn = list(cells.flat)
    for axes in drawn[count:]:
        axes.remove()
    sns.despine(fig=figure)
    return figure, drawn[:count]


def cut(text: str, most: int) -> str:
    """Return a text with an ellipsis after `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def round_ticks(axis: Axis, ratio: float, words: Callable[[float], str]) -> None:
    """Put round numbers in `words` on a logarithmic axis whose ends have a ratio: fewer where that is large."""
    digits = next((digits for most, digits in ROUND.items() if ratio <= most), (1,))
    axis.set_major_locator(LogLocator(subs=digits, numticks=20))
    axis.set_major_formatter(lambda value, _: words(value))
    axis.set_minor_locator(NullLocator())


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Make x logarithmic in n_train: every size in full, or round numbers if those would be too many or too long."""
    axes.set_xscale("log")
    if len(sizes) > MANY_TICKS or max(sizes) >= 1e7:
        round_ticks(axes.xaxis, max(sizes) / min(sizes), images)
    else:
        axes.set_xticks(sizes, [f"{int(n):,}" for n in sizes], rotation=30 if len(sizes) > 4 else 0)
        axes.xaxis.set_minor_locator(NullLocator())


def error_axis(axes: Axes) -> None:
    """Make y a logarithmic error in percent, with round numbers and little room above 100 %."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(top=min(high, TOP))
    round_ticks(axes.yaxis, high / low, lambda value: f"{100 * value:g} %")


def save(figure: Figure, folder: Path, name: str, kinds: Sequence[str] = ("svg", "png")) -> None:
    """Write a figure in each format, the same bytes for the same figure, and close it."""
    with mpl.rc_context(_RC):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once; otherwise each format would do it again
        # not with savefig, which draws everything twice
        writers: Any = {"svg": FigureCanvasSVG(figure).print_svg, "png": FigureCanvasAgg(figure).print_png}
        for kind in kinds:
            figure.set_dpi(DPI)  # a writer leaves its own
            changing = {"svg": "Date", "png": "Software"}[kind]
            write_atomically(folder / f"{name}.{kind}", partial(writers[kind], metadata={changing: None}))
    plt.close(figure)


def inline_svg(path: Path, name: str, alt: str) -> str:
    """Return a saved SVG as an element of a page, with alt text, the page's colours and unique ids."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    text = re.sub(r"font: (\d+px) [^;\"]*", r"font-size: \1", text)
    for colour, variable in ((INK, "--ink"), (SOFT, "--soft"), (FAINT, "--faint"), (PAPER, "--paper")):
        text = text.replace(colour, f"var({variable})")
    start, width, rest = re.split(r'width="([\d.]+)pt" height="[\d.]+pt"', text, maxsplit=1)
    wide = ' class="wide"' if float(width) > 1.2 * 72 * WIDTH else ""
    head = f'<svg role="img" aria-label="{escape(alt)}"{wide} style="max-width: {width}pt"'
    return re.sub(r"\n\s*", "\n", head + start.removeprefix("<svg") + rest)
