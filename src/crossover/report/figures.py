"""The figures of a report: learning curves, the gap and data-equivalence."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from crossover.analysis.contract import Pair, Study
from crossover.analysis.sentences import images
from crossover.report.style import DASHES, FAINT, INK, PAPER, SOFT, WIDTH, Style, error_axis, panels, size_axis, styles

MANY = 20
"""Number of sizes of a curve from which only its points and its law are drawn."""
X_LABEL = "training images (n_train)"
MOST_CROSSINGS = 3
"""Most crossings drawn with the learning curves; more would be unreadable."""
BUDGET = "budget-limited"
LAW: dict[str, Any] = {"linestyle": DASHES, "linewidth": 1.2}
LEGEND_COLUMNS = 3
SMALL = 9.5
"""Font size of small text in points: 9 px on a phone."""
FAR_BELOW = 0.5
"""Ceilings below this share of the lowest error are not drawn as lines."""


@dataclass(frozen=True)
class Ceiling:
    """A known lowest error (a fraction), drawn as a line."""

    label: str
    error: float


def learning_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, study: Study, ceilings: Sequence[Ceiling], x_label: str = X_LABEL
) -> Figure:
    """Return error over n_train, log-log: means, chains as points, intervals, laws, ceilings, N* with its interval.

    A ceiling far below all errors is named below the axis, since a line would squeeze the curves; zero has no place on
    a logarithmic axis.
    """
    lowest = float(curves["error_mean"].min())
    below = [ceiling for ceiling in ceilings if 0 < ceiling.error < FAR_BELOW * lowest]
    ceilings = [ceiling for ceiling in ceilings if ceiling.error >= FAR_BELOW * lowest > 0]
    models = list(dict.fromkeys(curves["model"]))
    legend_rows = -(-len(models) // LEGEND_COLUMNS)
    figure, (axes,) = panels(1, size=(WIDTH, 3.6 + 0.2 * legend_rows))
    chosen = styles(models, families_of(runs))
    laws = {entry["model"]: pd.DataFrame(entry["curve"]) for entry in study["laws"] if entry["curve"]}
    limited = {(point["model"], point["n_train"]) for point in study["saturation"] if point["state"] == BUDGET}
    for model, rows in curves.groupby("model", sort=False):
        colour, marker, _ = chosen[str(model)]
        points = runs[runs["model"] == model]
        many = len(rows) > MANY  # then the points show it, and the law is the line
        xy = points["n_train"], points["test_error"]
        axes.scatter(*xy, s=10, color=colour, alpha=0.5, linewidth=0, zorder=3, rasterized=many)
        _plot_model(axes, rows[:0] if many else rows, str(model), chosen[str(model)], 1.8, 5)
        hollow = rows[[(model, n) in limited for n in rows["n_train"]]]
        axes.plot(hollow["n_train"], hollow["error_mean"], marker, color=colour, markerfacecolor=PAPER, zorder=5)
        low, high = rows["error_low"], rows["error_high"]
        axes.fill_between(rows["n_train"], low, high, color=colour, alpha=0.15, linewidth=0)
        if model in laws:
            law = laws[str(model)]
            axes.plot(law["n_train"], law["error"], color=colour, **LAW, zorder=4)
    if laws:
        axes.plot([], [], color=SOFT, label="fitted laws", **LAW)
    if limited:
        axes.plot([], [], "o", color=SOFT, markerfacecolor=PAPER, label="limited by the budget")
    for ceiling in ceilings:
        axes.axhline(ceiling.error, color=SOFT, linestyle=":", linewidth=1)
    crossings = [pair for pair in study["pairs"] if pair["n_star"] is not None]
    for row, pair in enumerate(crossings if len(crossings) <= MOST_CROSSINGS else []):
        _draw_crossing(axes, pair, row)
    size_axis(axes, sorted(curves["n_train"].unique()))
    axes.set_xlabel("\n".join([x_label, *(f"below: {one.label}, {100 * one.error:.2g} %" for one in below)]))
    error_axis(axes)
    axes.set_ylabel("test error")
    _legend_above(figure, axes)
    if ceilings:
        figure.draw_without_rendering()  # now the layout is known
        _label_ceilings(axes, ceilings)
    return figure


def _plot_model(axes: Axes, rows: pd.DataFrame, model: str, style: Style, width: float, size: float) -> None:
    """Draw the mean error of a model in its style."""
    look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
    axes.plot(rows["n_train"], rows["error_mean"], label=model, linewidth=width, markersize=size, **look)


def families_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return the family of each model, where the runs have it."""
    return dict(zip(runs["model"], runs["family"], strict=True)) if "family" in runs else {}


def _legend_above(figure: Figure, *drawn: Axes) -> None:
    """Put the legend above the figure, where it covers no curve."""
    named: dict[str, Artist] = {}
    for axes in drawn:
        named |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        look = {"ncols": min(LEGEND_COLUMNS, len(named)), "frameon": False, "fontsize": SMALL}
        figure.legend(list(named.values()), list(named), loc="outside upper center", **look)


def _label_ceilings(axes: Axes, ceilings: Sequence[Ceiling]) -> None:
    """Place each label where it overlaps least: above its line or below, left or right."""
    filled = [patch.get_transform().transform_path(patch.get_path()) for patch in axes.patches]
    filled += [axes.transData.transform_path(path) for band in axes.collections for path in band.get_paths()]
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    taken: list[Bbox] = []
    for ceiling in ceilings:
        said, where = f"{ceiling.label}: {100 * ceiling.error:.1f} %", ("axes fraction", "data")
        place: dict[str, Any] = {"xycoords": where, "xytext": (0, 0), "textcoords": "offset points"}
        text = axes.annotate(said, (0, ceiling.error), **place, fontsize=8.5, color=SOFT)
        tried: list[tuple[int, int, tuple[str, int, str, float]]] = []
        for (va, up), (ha, x) in itertools.product((("baseline", 3), ("top", -3)), (("left", 0.01), ("right", 0.99))):
            text.set(va=va, ha=ha, position=(0, up))
            text.xy = (x, ceiling.error)
            box = text.get_window_extent()
            hits = sum(path.intersects_bbox(box, filled=True) for path in filled)
            hits += sum(path.intersects_bbox(box, filled=False) for path in lines) + box.count_overlaps(taken)
            tried.append((hits + (not axes.bbox.contains(*box.min)), len(tried), (va, up, ha, x)))
        _, _, (va, up, ha, x) = min(tried)
        text.set(va=va, ha=ha, position=(0, up))
        text.xy = (x, ceiling.error)
        taken.append(text.get_window_extent())


def _draw_crossing(axes: Axes, pair: Pair, row: int) -> None:
    n_star = pair["n_star"] or 0.0
    low, high = pair["ci_low"] or pair["n_min"] or 0, pair["ci_high"] or pair["n_max"] or 0
    axes.axvspan(low, high, color=FAINT, alpha=0.25, linewidth=0)
    axes.axvline(n_star, color=INK, linewidth=1)
    offset = (0, 2 + 11 * row)  # one above the other: crossings may be close
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": offset, "textcoords": "offset points"}
    axes.annotate(f"N* = {images(n_star)}", (n_star, 1), **place, ha="center", fontsize=SMALL)


def by_pair(draw: Callable[[Axes, Pair, str], None], pairs: Sequence[Pair], x_label: str = X_LABEL) -> Figure:
    """Return a panel for each pair, drawn by `draw_gap` or `draw_equivalence`."""
    figure, drawn = panels(len(pairs))
    for axes, pair in zip(drawn, pairs, strict=True):
        draw(axes, pair, x_label)
    _legend_above(figure, *drawn)
    return figure


def draw_gap(axes: Axes, pair: Pair, x_label: str) -> None:
    """Draw D(n) with its simultaneous band, zero, and the confidence set of N* on the axis."""
    table = pd.DataFrame(pair["gap"])
    axes.plot(table["n_train"], table["log_error_ratio"], color=INK, marker="o", linewidth=2)
    low, high = (table[name].astype(float) for name in ("ci_low", "ci_high"))
    if low.notna().any():
        band = "simultaneous 95% band"
        axes.fill_between(table["n_train"], low, high, color=FAINT, alpha=0.3, linewidth=0, label=band)
    axes.axhline(0, color=SOFT, linewidth=1)
    label = "95% confidence set of N*"
    for start, stop in pair["confidence_set"] if pair["verdict"] == "crossover" else []:
        ends = [start or pair["n_min"] or 0, stop or pair["n_max"] or 0]
        axes.plot(ends, [0, 0], color=INK, linewidth=6, alpha=0.6, solid_capstyle="butt", label=label)
    size_axis(axes, list(table["n_train"]))
    axes.margins(y=0.14)  # room for text above and below
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"log error ratio,\n{pair['b']} / {pair['a']}", linespacing=1.4)
    for y, side, model, va in ((0.99, "above", pair["a"], "top"), (0.02, "below", pair["b"], "baseline")):
        said = f"{side} zero: {model} leads"
        axes.text(0.01, y, said, va=va, transform=axes.transAxes, fontsize=SMALL, color=SOFT)


def draw_equivalence(axes: Axes, pair: Pair, x_label: str) -> None:
    """Draw rho(n): how many times n_train b needs for the error of a."""
    columns = ["n_train", "factor", "ci_low", "ci_high"]
    table = pd.DataFrame(pair["data_equivalence"], columns=columns).astype(float)
    known = table.dropna(subset=["factor"])
    axes.plot(known["n_train"], known["factor"], color=INK, marker="o", linewidth=1.5)
    whole = table.dropna(subset=["ci_low", "ci_high"])
    axes.vlines(whole["n_train"], whole["ci_low"], whole["ci_high"], color=INK, linewidth=1.5)
    open_above = table[table["ci_high"].isna()].dropna(subset=["ci_low"])
    open_below = table[table["ci_low"].isna()].dropna(subset=["ci_high"])
    for rows, end, marker, label in (
        (open_above, "ci_low", "^", "more than (95%)"),
        (open_below, "ci_high", "v", "less than (95%)"),
    ):
        if not rows.empty:
            axes.plot(rows["n_train"], rows[end], marker, label=label, color=INK, fillstyle="none", linestyle="none")
    sizes = [row["n_train"] for row in pair["gap"]]
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    size_axis(axes, sizes)
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"images {pair['b']} needs\nper image of {pair['a']}", linespacing=1.4)
    if not table[["factor", "ci_low", "ci_high"]].notna().any(axis=None):
        said = f"at no measured size is it known\nhow many images {pair['b']} needs"
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    axes.axhline(1, color=SOFT, linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"× {value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
