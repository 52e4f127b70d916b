"""What does a crossover look like? Learning curves and the gap, the same colour for the same model everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from crossover.analysis.sentences import images
from crossover.files import write_atomically

FAMILIES = {"resnet": ("#0072B2", "o"), "hybrid": ("#009E73", "D"), "vit": ("#D55E00", "s")}
OTHERS = (("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#000000", "X"))
"""Okabe and Ito 2008: told apart by the colour-blind, and each has its marker."""
MANY = 20
"""Sizes of one curve from which on only its points and its law are drawn."""
MANY_TICKS = 12
DASHES = (0, (4, 2))


@dataclass(frozen=True)
class Ceiling:
    """A known lowest error (a fraction), drawn as a line."""

    label: str
    error: float


def styles(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each model: the first of a family has the family's, others take what is left."""
    chosen: dict[str, tuple[str, str]] = {}
    spare = iter(OTHERS)
    for model in models:
        family = next((f for f in FAMILIES if model.startswith(f)), None)
        free = family is not None and FAMILIES[family] not in chosen.values()
        chosen[model] = FAMILIES[family] if family is not None and free else next(spare, OTHERS[-1])
    return chosen


def learning_curves(
    runs: pd.DataFrame, curves: pd.DataFrame, study: Mapping[str, Any], ceilings: Sequence[Ceiling]
) -> Figure:
    """Return error over n_train, log-log: means, chains as points, intervals, laws, ceilings, N* with its interval."""
    figure, (axes,) = _panels(1)
    chosen = styles(list(dict.fromkeys(curves["model"])))
    for model, rows in curves.groupby("model", sort=False):
        colour, marker = chosen[str(model)]
        points = runs[runs["model"] == model]
        many = len(rows) > MANY  # then the points say it, and the law is the line
        dots: dict[str, Any] = {"s": 12, "color": colour, "alpha": 0.5, "linewidth": 0, "zorder": 3, "rasterized": many}
        axes.scatter(points["n_train"], points["test_error"], **dots)
        line = rows[:0] if many else rows
        axes.plot(line["n_train"], line["error_mean"], color=colour, marker=marker, label=str(model), linewidth=2)
        low, high = rows["error_low"], rows["error_high"]
        axes.fill_between(rows["n_train"], low, high, color=colour, alpha=0.15, linewidth=0)
        law = next((entry["curve"] for entry in study["laws"] if entry["model"] == model), None)
        if law is not None:
            fitted = pd.DataFrame(law)
            axes.plot(fitted["n_train"], fitted["error"], color=colour, linestyle=DASHES, linewidth=1.2, zorder=4)
    _draw_ceilings(axes, ceilings)
    for pair in study["pairs"]:
        if pair["n_star"] is not None:
            _draw_crossing(axes, pair)
    _log_axes(axes, sorted(curves["n_train"].unique()))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.set_yticks(_error_ticks(*axes.get_ylim()))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("test error")
    if any(entry["curve"] for entry in study["laws"]):
        axes.plot([], [], color="#666666", linestyle=DASHES, linewidth=1.2, label="fitted laws")
    axes.legend(frameon=False)
    return figure


def _draw_ceilings(axes: Axes, ceilings: Sequence[Ceiling]) -> None:
    for ceiling in ceilings:
        axes.axhline(ceiling.error, color="#666666", linestyle=":", linewidth=1)
        axes.annotate(
            f"{ceiling.label}: {100 * ceiling.error:.1f} %",
            (0.01, ceiling.error),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color="#444444",
        )


def _draw_crossing(axes: Axes, pair: Mapping[str, Any]) -> None:
    low, high = pair["ci_low"] or pair["n_min"], pair["ci_high"] or pair["n_max"]
    axes.axvspan(low, high, color="#999999", alpha=0.25, linewidth=0)
    axes.axvline(pair["n_star"], color="#333333", linewidth=1)
    axes.annotate(
        f"N* = {images(pair['n_star'])}",
        (pair["n_star"], 0.95),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=9,
    )


def _error_ticks(low: float, high: float) -> list[float]:
    """Return round errors between the limits: 1-2-5 steps, or every first digit when those are fewer than three."""
    decades = [10.0**k for k in range(-6, 1)]
    for digits in ((1, 2, 5), range(1, 10)):
        ticks = [d * decade for decade in decades for d in digits if low <= d * decade <= min(high, 1.0)]
        if len(ticks) >= 3:
            break
    return ticks


def gap(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Return D(n) of each pair with its simultaneous band, zero, and the confidence set of N* on the axis."""
    figure, panels = _panels(len(pairs))
    for axes, pair in zip(panels, pairs, strict=True):
        _draw_gap(axes, pair)
    return figure


def _draw_gap(axes: Axes, pair: Mapping[str, Any]) -> None:
    table = pd.DataFrame(pair["gap"])
    axes.plot(table["n_train"], table["log_error_ratio"], color="#333333", marker="o", linewidth=2)
    low, high = (table[name].astype(float) for name in ("ci_low", "ci_high"))
    band = "simultaneous 95% band"
    axes.fill_between(table["n_train"], low, high, color="#333333", alpha=0.15, linewidth=0, label=band)
    axes.axhline(0, color="#666666", linewidth=1)
    for start, stop in pair["confidence_set"] if pair["verdict"] == "crossover" else []:
        axes.plot(
            [start or pair["n_min"], stop or pair["n_max"]],
            [0, 0],
            color="#D55E00",
            linewidth=6,
            alpha=0.5,
            solid_capstyle="butt",
            label="95% confidence set of N*",
        )
    _log_axes(axes, list(table["n_train"]))
    axes.set_ylabel(f"log error ratio, {pair['b']} / {pair['a']}")
    words: dict[str, Any] = {"transform": axes.transAxes, "fontsize": 8, "color": "#444444"}
    axes.text(0.01, 0.98, f"{pair['a']} leads above zero", va="top", **words)
    axes.text(0.01, 0.02, f"{pair['b']} leads below zero", **words)
    axes.legend(frameon=False)


def data_equivalence(pairs: Sequence[Mapping[str, Any]]) -> Figure:
    """Return rho(n) of each pair: how many times n_train b needs for the error of a."""
    figure, panels = _panels(len(pairs))
    for axes, pair in zip(panels, pairs, strict=True):
        _draw_equivalence(axes, pair)
    return figure


def _draw_equivalence(axes: Axes, pair: Mapping[str, Any]) -> None:
    columns = ["n_train", "factor", "ci_low", "ci_high"]
    every = pd.DataFrame(pair["data_equivalence"], columns=columns).astype(float)
    table, beyond = every.dropna(subset=["factor"]), every[every["factor"].isna()].dropna(subset=["ci_low"])
    error = np.abs(table[["ci_low", "ci_high"]].to_numpy().T - table["factor"].to_numpy())
    error = np.nan_to_num(error)  # an unbounded end has no cap
    axes.errorbar(table["n_train"], table["factor"], yerr=error, color="#333333", marker="o", capsize=3, linewidth=1.5)
    if not beyond.empty:
        axes.plot(beyond["n_train"], beyond["ci_low"], "^", color="#333333", fillstyle="none", label="more than (95%)")
        axes.legend(frameon=False)
    empty = table.empty and beyond.empty
    if not empty:
        axes.axhline(1, color="#666666", linewidth=1)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"× {value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    sizes = [row["n_train"] for row in pair["gap"]]
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    _log_axes(axes, sizes)
    axes.set_ylabel(f"images {pair['b']} needs,\nper image of {pair['a']}")
    if empty:
        said = f"the curve of {pair['b']} reaches the\nerror of {pair['a']} at no measured size"
        axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` axes side by side, at most three in a row."""
    columns = min(count, 2 if count == 4 else 3)
    rows = -(-count // columns)
    size = (7.2, 4.4) if count == 1 else (4.8 * columns, 3.6 * rows)
    with sns.axes_style("ticks"), mpl.rc_context({"svg.hashsalt": "crossover", "svg.fonttype": "path"}):
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.remove()
    sns.despine(fig=figure)
    return figure, panels[:count]


def _log_axes(axes: Axes, sizes: list[int]) -> None:
    """Label every size in full, or round numbers where there are too many sizes or too large ones for that."""
    axes.set_xscale("log")
    axes.set_xlabel("training images (n_train)")
    if len(sizes) > MANY_TICKS or max(sizes) >= 1e7:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: images(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        return
    crowded = len(sizes) > 6 or axes.get_figure().get_size_inches()[0] > 8  # type: ignore[union-attr]
    axes.set_xticks(sizes, [f"{int(n):,}" for n in sizes], rotation=30 if crowded else 0)
    axes.xaxis.set_minor_locator(NullLocator())


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write SVG, PNG and PDF, the same bytes for the same figure, and close it."""
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None},
        "png": {"Software": None},
        "pdf": {"CreationDate": None},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for kind, tags in metadata.items():
        with mpl.rc_context({"svg.hashsalt": "crossover"}):
            write_atomically(
                folder / f"{name}.{kind}",
                lambda path, k=kind, t=tags: figure.savefig(path, format=k, dpi=150, metadata=t),  # type: ignore[misc]
            )
    plt.close(figure)
