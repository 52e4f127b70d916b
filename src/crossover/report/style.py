"""The look of all figures: colours and markers of models, axes, panels, and saving to files."""

import itertools
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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from crossover.analysis.sentences import images
from crossover.store import write_atomically

mpl.rcParams["text.parse_math"] = False  # a name may contain a dollar sign, and is drawn as it is

FAMILIES = {
    "resnet": ("#0072B2", "#3D93C4", "#4F74E0"),
    "hybrid": ("#009E73", "#3F8F5C", "#1F7F8F"),
    "vit": ("#D55E00", "#C4573D", "#B57A3A"),
}
"""Colours of a family and its members. After Okabe and Ito 2008: distinguishable by the colour-blind, darkened so
that all have a contrast of 3 on a white and on a dark page."""
OTHERS = ("#B65C8F", "#A87900", "#7A68D8", "#808080", "#2F8F8F", "#C05050", "#6F8F20")
"""Colours of models whose family is not known."""
MARKERS = {"resnet": "o^<hp8H", "hybrid": "DdPX*", "vit": "sv>XP", "": "^vPXDo<>ds*p"}
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1, 1.2)))
INK, SOFT, FAINT, PAPER = "#222222", "#555555", "#999999", "#ffffff"
"""Colours of axes and text; on the page they follow its light or dark theme."""
DASHES = (0, (4, 2))
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

    `families` maps a model to its family; otherwise the name begins with it.
    """
    chosen: dict[str, Style] = {}
    members: Counter[str] = Counter()
    for model in models:
        family = (families or {}).get(model) or next((f for f in FAMILIES if model.startswith(f)), "")
        family = family if family in FAMILIES else ""
        colours, markers, place = FAMILIES.get(family, OTHERS), MARKERS[family], members[family]
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


def size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Make x logarithmic in n_train: every size in full, or round numbers if those would be too many or too long."""
    axes.set_xscale("log")
    if len(sizes) > MANY_TICKS or max(sizes) >= 1e7:
        span = max(sizes) / min(sizes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if span > 3000 else (1, 3) if span > 100 else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: images(value)))
    else:
        close = len(sizes) > 1 and min(b / a for a, b in itertools.pairwise(sizes)) < 3
        crowded = len(sizes) > 6 or close
        axes.set_xticks(sizes, [f"{int(n):,}" for n in sizes], rotation=30 if crowded else 0)
    axes.xaxis.set_minor_locator(NullLocator())


def error_axis(axes: Axes) -> None:
    """Make y a logarithmic error in percent, with round numbers and little room above 100 %."""
    axes.set_yscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], TOP))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_yticks(_error_ticks(*axes.get_ylim()))
    axes.yaxis.set_minor_locator(NullLocator())


def _error_ticks(low: float, high: float) -> list[float]:
    """Return round errors between the limits: 1-2-5 steps, or every first digit where those are fewer than three, or
    even steps where errors are so near each other that these are fewer than two."""
    decades = [10.0**k for k in range(-6, 1)]
    for digits in ((1, 2, 5), range(1, 10)):
        ticks = [d * decade for decade in decades for d in digits if low <= d * decade <= min(high, 1.0)]
        if len(ticks) >= 3:
            return ticks
    if len(ticks) < 2:
        return [round(float(tick), 6) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    return ticks


def save(figure: Figure, folder: Path, name: str, kinds: Sequence[str] = ("svg", "png")) -> None:
    """Write a figure in each format, the same bytes for the same figure, and close it."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_RC):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # lay it out once; otherwise each format would do it again
        # not with savefig, which draws everything twice
        writers: dict[str, tuple[Callable[..., object], str]] = {
            "svg": (FigureCanvasSVG(figure).print_svg, "Date"),
            "png": (FigureCanvasAgg(figure).print_png, "Software"),
        }
        for kind in kinds:
            write, changing = writers[kind]
            figure.set_dpi(DPI)  # a writer leaves its own
            write_atomically(folder / f"{name}.{kind}", partial(write, metadata={changing: None}))
    plt.close(figure)


def inline_svg(path: Path, name: str, alt: str) -> str:
    """Return a saved SVG as an element of a page, with alt text, the page's colours and unique ids."""
    text = path.read_text(encoding="utf-8")
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r"font: (\d+px) [^;\"]*", r"font-size: \1", body)
    for colour, variable in ((INK, "--ink"), (SOFT, "--soft"), (FAINT, "--faint"), (PAPER, "--paper")):
        body = body.replace(colour, f"var({variable})")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    start = body.index(">") + 1
    wide = ' class="wide"' if float(width) > 1.2 * 72 * WIDTH else ""
    head = f'<svg{wide} role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}"'
    namespaces = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg"'
    return re.sub(r"\n\s*", "\n", f'{head} style="max-width: {width}pt" {namespaces}>{body[start:]}')
