"""The figures of a report: learning curves, the gap and data-equivalence."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossover.analysis.contract import Analysis, Pair
from crossover.analysis.sentences import images
from crossover.report.style import (
    DASHES,
    FAINT,
    INK,
    PAPER,
    SOFT,
    WIDTH,
    cut,
    error_axis,
    panels,
    round_ticks,
    size_axis,
    styles,
)

MANY = 20
"""Number of sizes of a curve from which only its points and its law are drawn."""
X_LABEL = "training images (n_train)"
MOST_CROSSINGS = 3
"""Most crossings drawn with the learning curves; more would be unreadable."""
BUDGET = "budget-limited"
LAW: dict[str, Any] = {"linestyle": DASHES, "linewidth": 1.2}
WIDEST = 48
"""Characters of small text that fit side by side."""
TALLEST, SHORT = 28, 22
"""Characters that fit beside an axis in a line of a label, and of a name within the axes."""
SMALL = 9.5
"""Font size of small text in points: 9 px on a phone."""
FAR_BELOW = 0.5
"""Ceilings below this share of the lowest error are not drawn as lines."""


def learning_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, analysis: Analysis, ceilings: Mapping[str, float], x_label: str = X_LABEL
) -> Figure:
    """Return error over n_train, log-log: means, chains as points, intervals, laws, ceilings, N* with its interval.

    A ceiling, the lowest error of what it names, is only named if it is far below: a line would squeeze the curves.
    """
    models = list(dict.fromkeys(curves["model"]))
    figure, (axes,) = panels(1, size=(WIDTH, 3.7 + 0.1 * (len(models) + len(ceilings))))
    chosen = styles(models, families_of(runs))
    laws = {entry["model"]: pd.DataFrame(entry["curve"]) for entry in analysis["laws"] if entry["curve"]}
    limited = {(point["model"], point["n_train"]) for point in analysis["saturation"] if point["state"] == BUDGET}
    for name, rows in curves.groupby("model", sort=False):
        model, sizes = str(name), rows["n_train"]
        colour, marker, line = chosen[model]
        points, many = runs[runs["model"] == model], len(rows) > MANY
        xy = points["n_train"], points["test_error"]
        axes.scatter(*xy, s=10, color=colour, alpha=0.5, linewidth=0, zorder=3, rasterized=many)
        shown = rows[:0] if many else rows  # many points show the curve themselves, and the law is the line
        look = {"color": colour, "marker": marker, "linestyle": line, "linewidth": 1.8, "markersize": 5}
        axes.plot(shown["n_train"], shown["error_mean"], label=model, **look)
        ends, edge = (rows["error_low"], rows["error_high"]), _edge(rows)
        axes.fill_between(sizes, *ends, color=colour, alpha=0.15, linewidth=edge)
        hollow = rows[[(model, n) in limited for n in sizes]]
        axes.plot(hollow["n_train"], hollow["error_mean"], marker, color=colour, markerfacecolor=PAPER, zorder=5)
        if model in laws:
            axes.plot(laws[model]["n_train"], laws[model]["error"], color=colour, **LAW, zorder=4)
    if laws:
        axes.plot([], [], color=SOFT, label="fitted laws", **LAW)
    if limited:
        axes.plot([], [], "o", color=SOFT, markerfacecolor=PAPER, label="limited by the budget")
    lowest = float(curves["error_mean"].min())
    for (name, error), line in zip(ceilings.items(), itertools.cycle((":", "-."))):
        label = f"{name}: {100 * error:.3g} %"
        if error >= FAR_BELOW * lowest > 0:
            axes.axhline(error, color=SOFT, linestyle=line, linewidth=1, label=label)
        else:
            axes.plot([], [], " ", label=f"{label} (below)")
    crossings = [pair for pair in analysis["pairs"] if pair["n_star"] is not None]
    for row, pair in enumerate(crossings if len(crossings) <= MOST_CROSSINGS else []):
        _draw_crossing(axes, pair, row)
    size_axis(axes, sorted(curves["n_train"].unique()))
    axes.set_xlabel(x_label)
    error_axis(axes)
    axes.set_ylabel("test error")
    _legend_above(figure, axes)
    return figure


def _edge(rows: pd.DataFrame) -> int:
    """Return the width of the edge of a band: the band of a single size is nothing but its edge."""
    return 6 if len(rows) == 1 else 0


def families_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return the family of each model, where the runs have it."""
    return dict(zip(runs["model"], runs["family"], strict=True)) if "family" in runs else {}


def _legend_above(figure: Figure, *drawn: Axes) -> None:
    """Put the legend above the figure, where it covers no curve."""
    named: dict[str, Artist] = {}
    for axes in drawn:
        named |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        labels = [fill(label, WIDEST) for label in named]
        half = -(-len(labels) // 2)
        wide = sum(max(map(len, part), default=0) for part in (labels[:half], labels[half:]))
        look: dict[str, Any] = {"ncols": 2 if len(labels) > 1 and wide <= WIDEST else 1, "frameon": False}
        figure.legend(named.values(), labels, loc="outside upper center", fontsize=SMALL, **look)


def _draw_crossing(axes: Axes, pair: Pair, row: int) -> None:
    n_star = pair["n_star"] or 0.0
    low, high = pair["ci_low"] or pair["n_min"] or 0, pair["ci_high"] or pair["n_max"] or 0
    axes.axvspan(low, high, color=FAINT, alpha=0.25, linewidth=0)
    axes.axvline(n_star, color=INK, linewidth=1)
    offset = (0, 2 + 11 * row)  # one above the other: crossings may be close
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": offset, "textcoords": "offset points"}
    axes.annotate(f"N* = {images(n_star)}", (n_star, 1), **place, ha="center", fontsize=SMALL)


def by_pair(draw: Callable[[Axes, Pair], None], pairs: Sequence[Pair], x_label: str = X_LABEL) -> Figure:
    """Return a panel for each pair, drawn by `draw_gap` or `draw_equivalence`."""
    figure, drawn = panels(len(pairs))
    for axes, pair in zip(drawn, pairs, strict=True):
        draw(axes, pair)
        size_axis(axes, [row["n_train"] for row in pair["gap"]])
        axes.set_xlabel(x_label)
    _legend_above(figure, *drawn)
    return figure


def draw_gap(axes: Axes, pair: Pair) -> None:
    """Draw D(n) with its simultaneous band, zero, and the confidence set of N* on the axis."""
    table = pd.DataFrame(pair["gap"])
    axes.plot(table["n_train"], table["log_error_ratio"], color=INK, marker="o", linewidth=2)
    low, high = (table[name].astype(float) for name in ("ci_low", "ci_high"))
    if low.notna().any():
        band = "simultaneous 95% band"
        axes.fill_between(table["n_train"], low, high, color=FAINT, alpha=0.3, linewidth=_edge(table), label=band)
    axes.axhline(0, color=SOFT, linewidth=1)
    label = "95% confidence set of N*"
    for start, stop in pair["confidence_set"] if pair["verdict"] == "crossover" else []:
        ends = [start or pair["n_min"] or 0, stop or pair["n_max"] or 0]
        axes.plot(ends, [0, 0], color=INK, linewidth=6, alpha=0.6, solid_capstyle="butt", label=label)
    axes.margins(y=0.14)  # room for text above and below
    axes.set_ylabel("log error ratio,\n" + fill(f"{pair['b']} / {pair['a']}", TALLEST), linespacing=1.4)
    for y, side, model, va in ((0.99, "above", pair["a"], "top"), (0.02, "below", pair["b"], "baseline")):
        said = f"{side} zero: {cut(model, SHORT)} leads"
        axes.text(0.01, y, said, va=va, transform=axes.transAxes, fontsize=SMALL, color=SOFT)


def draw_equivalence(axes: Axes, pair: Pair) -> None:
    """Draw rho(n): how many times n_train b needs for the error of a."""
    columns = ["n_train", "factor", "ci_low", "ci_high"]
    table = pd.DataFrame(pair["data_equivalence"], columns=columns).astype(float)
    known = table.dropna(subset=["factor"])
    axes.plot(known["n_train"], known["factor"], color=INK, marker="o", linewidth=1.5)
    whole = table.dropna(subset=["ci_low", "ci_high"])
    axes.vlines(whole["n_train"], whole["ci_low"], whole["ci_high"], color=INK, linewidth=1.5)
    bounds = (("ci_low", "ci_high", "^", "more than (95%)"), ("ci_high", "ci_low", "v", "less than (95%)"))
    for end, other, marker, label in bounds:
        rows = table[table[other].isna()].dropna(subset=[end])
        if len(rows):
            axes.plot(rows["n_train"], rows[end], marker, label=label, color=INK, fillstyle="none", linestyle="none")
    sizes = [row["n_train"] for row in pair["gap"]]
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    lines = (f"images {pair['b']} needs", f"per image of {pair['a']}")
    axes.set_ylabel("\n".join(fill(line, TALLEST) for line in lines), linespacing=1.4)
    if table[columns[1:]].isna().all(axis=None):
        said = "at no measured size is it known\n" + fill(f"how many images {pair['b']} needs", TALLEST)
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    axes.axhline(1, color=SOFT, linewidth=1)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    round_ticks(axes.yaxis, high / low, lambda value: f"× {value:g}")
