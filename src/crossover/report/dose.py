"""What does a dose of bias look like? The gap of each pair over n_train, a line for each dose, and its crossing."""

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossover.analysis.sentences import images


def draw_dose(table: pd.DataFrame, label: str) -> Figure:
    """Return a panel for each pair: log error ratio with its band, by dose, and N*; `label` is of the dose."""
    pairs = list(table[["a", "b"]].drop_duplicates().itertuples(index=False, name=None))
    figure = Figure(figsize=(5.2 * len(pairs), 4.4))
    panels = figure.subplots(1, len(pairs), squeeze=False, sharey=True)[0]
    for axes, (a, b) in zip(panels, pairs, strict=True):
        rows = table[(table["a"] == a) & (table["b"] == b)]
        _draw_pair(axes, rows)
        axes.set_title(f"{b} / {a}", fontsize=11)
        axes.set_xlabel("training images")
        axes.legend(title=label, fontsize=8, title_fontsize=8, frameon=False)
    panels[0].set_ylabel("log error ratio with simultaneous 95% band\nabove 0: the first named has the higher error")
    figure.tight_layout()
    return figure


def _draw_pair(axes: Axes, rows: pd.DataFrame) -> None:
    doses = list(dict.fromkeys(rows["dose"]))
    colours = mpl.colormaps["viridis"]
    for number, dose in enumerate(doses):
        part = rows[rows["dose"] == dose].sort_values("n_train")
        colour = colours(0.9 * number / max(1, len(doses) - 1))
        n, gap = part["n_train"], part["log_error_ratio"]
        low, high = (part[name].astype(float) for name in ("band_low", "band_high"))
        row = part.iloc[0]
        star = "" if pd.isna(row["n_star"]) else f", N* = {images(row['n_star'])}"
        axes.plot(n, gap, "o-", color=colour, label=f"{dose}: {row['verdict'].replace('_', ' ')}{star}")
        axes.fill_between(n, low, high, color=colour, alpha=0.15, lw=0)
        if star:
            axes.plot([row["n_star"]], [0], "D", color=colour, ms=8, mec="black")
    axes.axhline(0, color="#666666", lw=1)
    axes.set_xscale("log")
    sizes = sorted(set(rows["n_train"]))
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.minorticks_off()
