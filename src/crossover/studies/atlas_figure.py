"""The figure of the atlas: which model of each pair leads at which sizes, and N* with its interval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf, log, log10
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossover.analysis.sentences import images
from crossover.report.style import FAINT, INK, SOFT, cut, panels, round_ticks

COLOURS = {"CNN": "#0072B2", "hybrid": "#009E73", "transformer": "#D55E00", "": "#c4c4c4"}
"""Colours by the leading family; the last where the leader is not clear."""
RANGE, SMALL = (1e3, 1e10), 1e4
"""Images on the axis of all groups but those that end below SMALL."""
PAGE, LABELS, RIGHT, LEGEND, LINE, BETWEEN = 5.4, 2.15, 5.24, 0.75, 0.135, 0.5
"""Inches: the width, where labels and panels end in it; the height of the legend, of a line, and between two panels."""
EDGE = -(LABELS - 0.04) / (RIGHT - LABELS)
"""The left edge of the figure, as a share of a panel's width."""
WORDS = 7.5
"""Points of a label."""
NAME, HEAD, TITLE = 17, 64, 80
"""Most characters of a model's name in a label, of what n counts, and of the title of a set."""


@dataclass(frozen=True)
class Line:
    """A line of the figure: a pair, or all pairs of a model that end alike and do not cross."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    tasks: tuple[str, ...]
    hollow: bool
    """One run per size."""
    says: str
    strips: tuple[tuple[float, float, str], ...]
    """From, to, and the leader in between."""
    order: float
    """Its place in the set: b leads, crossings by size, not clear, a leads."""
    mark: float | None = None
    interval: tuple[float, float] | None = None
    arrow: str = ""
    """Where the crossing would be, if there is one: < below the measured sizes, > above."""
    pairs: int = 1


def line_of(row: Any) -> Line:
    """Return the line of a row of the atlas."""
    a, b = ("CNN" if family == "cnn" else family for family in (row.family_a, row.family_b))
    first, last = float(row.n_min), float(row.n_max)
    low, high = (end if pd.isna(value) else float(value) for value, end in ((row.ci_low, first), (row.ci_high, last)))
    names = (row.a,), (row.b,), (row.task,), row.replicates_max == 1
    if row.verdict == "crossover":
        before, after = (a, b) if row.direction == "b_overtakes_a" else (b, a)
        says = f"{images(row.n_star)} ({images(low)} to {images(high)})"
        strips = (first, low, before), (high, last, after)
        return Line(*names, says, strips, log(row.n_star), mark=row.n_star, interval=(low, high))
    if pd.isna(row.p_in_range):
        start, end = (a if ratio > 0 else b for ratio in (row.log_ratio_n_min, row.log_ratio_n_max))
        cross = row.crossing_of_means
        if pd.notna(cross):
            strips = (first, cross, start), (cross, last, end)
            return Line(*names, f"means cross near {images(cross)}", strips, log(cross), mark=cross)
        order, arrow = (100, ">") if end == a else (-1, "<")
        return Line(*names, f"means: {end} ahead", ((first, last, end),), order, arrow=arrow)
    if row.verdict == "a_better":
        return Line(*names, f"beyond {images(last)}, if at all", ((first, last, a),), 100, arrow=">")
    if row.verdict == "b_better":
        strips = (first, high, ""), (high, last, b)
        return Line(*names, f"below {images(high)}, if at all", strips, -1, arrow="<")
    if row.verdict == "several_crossings":
        return Line(*names, "cross more than once", ((first, last, ""),), 90)
    low = first if pd.isna(row.ci_low) else low
    says = "not clear" + (f" beyond {images(low)}" if low > first else f" below {images(high)}" if high < last else "")
    return Line(*names, says, ((first, low, a), (low, high, ""), (high, last, b)), 99)


def merged(lines: Iterable[Line]) -> list[Line]:
    """Return the lines of a set in order, merging those with the same result for a model, or for the same rivals."""
    lines = list(lines)
    for names in (("a",), ("b", "tasks")):
        found: dict[Any, Line] = {}
        for line in lines:
            same = (line.order, line.says.split()[0], line.hollow, *(getattr(line, name) for name in names))
            key = same if line.mark is None else (line.a, line.b, line.tasks)
            found[key] = _joined(found[key], line) if key in found else line
        lines = list(found.values())
    return sorted(lines, key=lambda line: line.order)


def _joined(one: Line, other: Line) -> Line:
    """Return two lines as one: the names of both, and the strips of the one with the smaller clear range."""
    clear = [sum(log(high / low) for low, high, who in line.strips if who) for line in (one, other)]
    a, b, tasks = (
        tuple(dict.fromkeys(x + y)) for x, y in ((one.a, other.a), (one.b, other.b), (one.tasks, other.tasks))
    )
    worse = one if clear[0] <= clear[1] else other
    return replace(worse, a=a, b=b, tasks=tasks, pairs=one.pairs + other.pairs)


def draw_atlas(table: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Return a figure with one panel per meaning of n, with its sets and their lines."""
    table = table[table["n_min"].notna()]
    groups = {str(name): group for name, group in table.groupby("n_counts", sort=False)}
    content = {
        name: [
            (titles[str(key)], merged(map(line_of, rows.itertuples())))
            for key, rows in group.groupby("set", sort=False)
        ]
        for name, group in groups.items()
    }
    heights = [LINE * (sum(1.6 + len(lines) for _, lines in sets) + 0.4) for sets in content.values()]
    whole = LEGEND + sum(heights) + BETWEEN * len(groups)
    room = {"left": LABELS / PAGE, "right": RIGHT / PAGE, "top": 1 - (LEGEND + 0.8 * BETWEEN) / whole}
    room |= {"bottom": 0.2 / whole, "hspace": BETWEEN * len(groups) / sum(heights)}
    size = PAGE, whole / len(groups)
    figure, drawn = panels(len(groups), size=size, layout=None, height_ratios=heights, gridspec_kw=room)
    for axes, (name, sets) in zip(drawn, content.items(), strict=True):
        low, high = groups[name]["n_min"].min(), groups[name]["n_max"].max()
        low, high = (low, 1000 * high) if high < SMALL else (min(RANGE[0], low), max(RANGE[1], high))
        _draw_group(axes, sets, (10.0 ** floor(log10(low)), 10.0 ** ceil(log10(high))))
        axes.set_title(cut(f"n counts {name}", HEAD), fontsize=9.5, loc="left", weight="bold", color=INK, x=EDGE, pad=4)
    figure.legend(handles=_handles(), loc="upper center", ncols=2, frameon=False, fontsize=WORDS + 0.5)
    return figure


def _draw_group(axes: Axes, sets: Sequence[tuple[str, list[Line]]], limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    look: dict[str, Any] = {"fontsize": WORDS + 0.5, "color": SOFT, "va": "center"}
    labels, y = {}, 0.0
    for title, lines in sets:
        axes.text(EDGE, y, cut(title, TITLE), transform=axes.get_yaxis_transform(), **look)
        tasks = [task.split() for task in dict.fromkeys(task for line in lines for task in line.tasks)]
        common = {word for word in tasks[0] if all(word in task for task in tasks)}
        for place, line in enumerate(lines, 1):
            _draw_line(axes, line, y + place, limits)
            labels[y + place] = _label(line, common)
        y += len(lines) + 1.6
    axes.set_ylim(y - 0.2, -0.8)
    axes.set_yticks(list(labels), list(labels.values()), fontsize=WORDS)
    axes.tick_params(axis="y", length=0, pad=5)
    axes.tick_params(axis="x", labelsize=WORDS, pad=2)
    round_ticks(axes.xaxis, inf, images)
    axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.5)
    axes.spines["left"].set_visible(False)


def _draw_line(axes: Axes, line: Line, y: float, limits: tuple[float, float]) -> None:
    alpha = 0.35 if line.says.startswith("means") else 0.75
    for low, high, who in line.strips:
        axes.plot([low, high], [y, y], color=COLOURS[who], lw=4.5, alpha=alpha, solid_capstyle="butt")
    if line.interval is not None:
        axes.plot(line.interval, [y, y], color=INK, lw=1.6, solid_capstyle="butt", zorder=3)
    first, last = line.strips[0][0], line.strips[-1][1]
    ends = {"<": (first, line.strips[-1][2]), ">": (last, line.strips[0][2])}
    if line.mark is not None:
        axes.plot(line.mark, y, "o", ms=4, mfc="white" if line.hollow else INK, mec=INK, zorder=4)
    elif line.arrow:
        place, who = ends[line.arrow]
        face = "white" if line.hollow else COLOURS[who]
        axes.plot(place, y, line.arrow, ms=5.5, mfc=face, mec=COLOURS[who], zorder=4, clip_on=False)
    says = line.says if line.pairs == 1 else f"{line.says}: {line.pairs} pairs"
    x, side, away = (last, "left", 7) if limits[1] / last >= first / limits[0] else (first, "right", -7)
    words: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "fontsize": WORDS, "color": INK}
    axes.annotate(says, (x, y), (away, 0), ha=side, **words)


def _label(line: Line, common: set[str]) -> str:
    """Return such as `resnet50 / deit_small`, with the words of the task that distinguish it in the set."""
    pair = f"{_names(line.a)} / {_names(line.b)}"
    own = " ".join(word for word in line.tasks[0].split() if word not in common)
    own = own if len(line.tasks) == 1 else f"{len(line.tasks)} tasks"
    return f"{pair}, {own}" if own else pair


def _names(models: Sequence[str]) -> str:
    """Return models without their remarks in brackets; if too long, the first and how many more."""
    short = [cut(model.split(" (")[0], NAME) for model in models]
    listed = ", ".join(short)
    return listed if len(short) == 1 or len(listed) < 20 else f"{short[0]} +{len(short) - 1}"


def _handles() -> list[Line2D]:
    dot: dict[str, Any] = {"color": INK, "marker": "o", "ms": 4}
    return [
        *(
            Line2D([], [], color=colour, lw=4.5, alpha=0.75, label=f"the {who} leads" if who else "not clear")
            for who, colour in COLOURS.items()
        ),
        Line2D([], [], **dot, lw=1.6, label="N* with its 95% interval"),
        Line2D([], [], **dot, lw=1.6, mfc="white", label="the same from one run a size (hollow)"),
        Line2D([], [], **dot, lw=0, mfc="white", label="means cross: one run a size, no interval"),
        Line2D([], [], color=SOFT, marker=">", ms=5.5, lw=0, label="not in range: N* beyond it, or never"),
    ]
