"""The dose of bias: verdict and N* by share of permuted patches or by the dials of the embedded world."""

import textwrap
from collections.abc import Iterable, Mapping
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from rich.console import Console

from crossover.analysis.sentences import images
from crossover.config import CrossoverError, parse_run
from crossover.fields import CuesData
from crossover.report.section import Drawing, Section, table_of, terminal_table, write_section
from crossover.report.style import INK, panels, save
from crossover.store import read_json, read_sweep, write_text
from crossover.sweep.plan import sweep_dir

COLUMNS = ("dose", "dataset", "a", "b", "verdict", "direction", "n_star", "ci_low", "ci_high", "p_in_range")
GAP = ("n_train", "log_error_ratio", "band_low", "band_high")
NAME = "dose.csv"
CAPTION = (
    "Error of the second model over that of the first; in brackets where the simultaneous 95% band contains 1. The"
    " diamond is N*, its line the confidence set."
)
COLOURS = LinearSegmentedColormap.from_list("leads", ["#e3823f", "#fdfdfd", "#579fd0"])
"""Orange where the second of a pair leads, blue where the first does: light tints of the families' colours,
distinguishable by the colour-blind."""
WORDS = "#1a1a1a"
"""Text on those tints, on a light or dark page; INK would turn light on a dark one."""


def main(values: dict[str, Any], console: Console) -> None:
    """Write dose.csv, the figure dose and a section of a sweep's report; raise CrossoverError if it has no verdicts.

    `output` replaces the sweep's folder.
    """
    sweep = read_sweep(Path(values["outputs"]), values["name"])
    if not sweep.records:
        raise CrossoverError(f"no run of sweep {sweep.name} is done; run {sweep.command} first")
    beside = sweep_dir(values["outputs"], sweep.name)
    if not (beside / "crossover.json").exists():
        raise CrossoverError(f'sweep {sweep.name} has no report yet; make report SWEEP="{sweep.name}" writes it')
    folder = Path(values["output"] or beside)
    doses, label = doses_of(sweep.records)
    table = dose_table(read_json(beside / "crossover.json", "result"), doses)
    section = dose_section(table)
    write_section(section, folder)
    write_text(folder / NAME, table.to_csv(index=False, float_format="%.6g"))
    save(draw_dose(table, label), folder / "figures", "dose")
    console.print(terminal_table(section.tables[0]))
    print(f"table: {folder / NAME}", f"figure: {folder / 'figures' / 'dose.png'}", sep="\n")
    print("make report puts both on its page")


def doses_of(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float | str], str]:
    """Return the dose of each dataset, in table order, and its meaning: a share permuted, or the world's dials.

    Where these do not distinguish the datasets, the dose is their name.
    """
    data = {record["dataset"]: parse_run(record["config"]).data for record in records}
    kinds = sorted({one.permute.kind for one in data.values()} - {"none"})
    names: dict[str, float | str] = {name: name for name in data}
    own: dict[str, float | str]
    if len(kinds) == 1:
        own = {name: 0.0 if one.permute.kind == "none" else one.permute.share for name, one in data.items()}
        doses, label = dict(sorted(own.items(), key=lambda item: item[1])), f"share of {kinds[0]} permuted"
    else:
        worlds = {k: one for k, one in data.items() if isinstance(one, CuesData) and one.permute.kind == "none"}
        own = {k: f"alpha {one.alpha:g}, beta {one.beta:g}, q {one.q:g}" for k, one in worlds.items()}
        doses, label = names | own, "world"
    return (doses, label) if len(set(doses.values())) == len(doses) else (names, "data set")


def dose_table(result: Mapping[str, Any], doses: Mapping[str, float | str]) -> pd.DataFrame:
    """Return the verdicts of crossover.json by dose, with the log error ratio (b over a) at every size.

    `doses` maps a dataset to its dose, in the order of the rows: the share permuted, or the setting of the dials.
    """
    rows = []
    order = list(doses)
    for study in sorted(result["studies"], key=lambda study: order.index(study["dataset"])):
        for pair in study["pairs"]:
            facts = {"dose": doses[study["dataset"]], "dataset": study["dataset"]} | {k: pair[k] for k in COLUMNS[2:]}
            gaps = ([gap[k] for k in ("n_train", "log_error_ratio", "ci_low", "ci_high")] for gap in pair["gap"])
            rows += [facts | dict(zip(GAP, gap, strict=True)) for gap in gaps]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *GAP])
    return table.sort_values(["a", "b"], kind="stable").reset_index(drop=True)


def dose_words(row: Any) -> str:
    """Return N* with its confidence set, or else the verdict, of a row of dose_table."""
    match row["verdict"]:
        case "crossover":
            ends = " to ".join("…" if pd.isna(row[end]) else images(row[end]) for end in ("ci_low", "ci_high"))
            winner = row["a"] if row["direction"] == "a_overtakes_b" else row["b"]
            return f"N* = {images(row['n_star'])} ({ends}), {winner} overtakes"
        case "a_better" | "b_better":
            return f"not in range: {row[row['verdict'][0]]} leads"
        case "several_crossings":
            return "several crossings"
    return "undecided" + ("" if pd.isna(row["p_in_range"]) else f", P(N* in range) {row['p_in_range']:.2f}")


def dose_section(table: pd.DataFrame) -> Section:
    """Return the section of a report with dose_table and the figure `dose`."""
    firsts = table.drop_duplicates(["a", "b", "dose"]).to_dict("records")
    heads = ("pair", "dose", "N* (95% CI), or the verdict")
    rows = [(f"{row['b']} / {row['a']}", str(row["dose"]), dose_words(row)) for row in firsts]
    alt = "Who leads, by number of training images and dose; where they cross, N*. " + " ".join(
        f"{pair}, {dose}: {said}." for pair, dose, said in rows
    )
    return Section(
        name="dose",
        title="The dose of bias",
        drawings=(Drawing(name="dose", alt=alt, caption=CAPTION),),
        tables=(table_of(dict(zip(heads, row, strict=True)) for row in rows),),
        files=(NAME,),
    )


def draw_dose(table: pd.DataFrame, label: str) -> Figure:
    """Return a panel for each pair of dose_table: error of b over that of a by size and dose, and N* or the verdict.

    `label` describes the dose. A ratio in brackets has a band that contains 1.
    """
    clear = (table["band_low"] > 0) | (table["band_high"] < 0)
    ratios = np.exp(table["log_error_ratio"]).map("{:,.2f}".format)
    table = table.assign(said=ratios.where(clear, "(" + ratios + ")"))
    pairs = table.groupby(["a", "b"], sort=False)
    doses = list(dict.fromkeys(table["dose"]))
    figure, drawn = panels(pairs.ngroups, size=(9.5, 1.2 + 0.42 * len(doses)))
    # small differences stay pale, and a huge one, where an error is nearly zero, does not make the others pale
    largest = min(max(float(table["log_error_ratio"].abs().max()), log(1.5)), log(4))
    for axes, ((a, b), rows) in zip(drawn, pairs, strict=True):
        _draw_pair(axes, rows, doses, largest)
        said = f"error of {b} / error of {a}: blue where {a} leads, orange where {b} does"
        axes.set_title(said, fontsize=10, loc="left", color=INK)
        axes.set(xlabel="", ylabel=textwrap.fill(label, 16))
    drawn[-1].set_xlabel("training images (n_train); in brackets: the simultaneous 95% band contains 1")
    return figure


def _draw_pair(axes: Axes, rows: pd.DataFrame, doses: list[Any], largest: float) -> None:
    ratios, said = (rows.pivot(index="dose", columns="n_train", values=k) for k in ("log_error_ratio", "said"))
    ratios, said = ratios.reindex(doses), said.reindex(doses)
    sizes = np.log(ratios.columns.to_numpy(float))
    look = {"fontsize": 8.5, "color": WORDS, "va": "bottom"}
    shades: dict[str, Any] = {"vmin": -largest, "vmax": largest, "cmap": COLOURS, "cbar": False}
    sns.heatmap(ratios, annot=said, fmt="", annot_kws=look, ax=axes, **shades)
    axes.set_xticklabels([f"{n:,}" for n in ratios], rotation=0)
    axes.tick_params(axis="y", rotation=0)
    firsts = rows.drop_duplicates("dose").set_index("dose", drop=False)
    for place, dose in enumerate(doses, 1):
        words = dose_words(firsts.loc[dose]) if dose in firsts.index else "no data"
        axes.text(1.01, place - 0.5, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
        if words.startswith("N*"):  # at the foot of the row; an unknown end is drawn to the end of the sizes
            ends = (
                firsts.loc[dose, ["ci_low", "n_star", "ci_high"]].astype(float).fillna({"ci_low": 1, "ci_high": np.inf})
            )
            low, n_star, high = np.interp(np.log(ends), sizes, np.arange(len(sizes)) + 0.5)
            axes.plot([low, high], [place - 0.25] * 2, color=WORDS, lw=2, solid_capstyle="butt")
            axes.plot(n_star, place - 0.25, "D", color=WORDS, ms=5)
