"""The dose of bias: verdict and N* by share of permuted patches or by the dials of the embedded world."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from rich.console import Console

from crossover.analysis.sentences import images
from crossover.config import CrossoverError, parse_run
from crossover.fields import CuesData
from crossover.report.section import Drawing, Section, Table, columns, terminal_table, write_section
from crossover.report.style import INK, panels, save, size_axis
from crossover.store import read_sweep, write_text
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
    table = dose_table(json.loads((beside / "crossover.json").read_text(encoding="utf-8")), doses)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / NAME, table.to_csv(index=False, float_format="%.6g"))
    save(draw_dose(table, label), folder / "figures", "dose")
    section = dose_section(table)
    write_section(section, folder)
    console.print(terminal_table(section.tables[0]))
    print(f"table: {folder / NAME}", f"figure: {folder / 'figures' / 'dose.png'}", sep="\n")
    print("make report puts both on its page")


def doses_of(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float | str], str]:
    """Return the dose of each dataset, in table order, and its meaning: a share permuted, or the world's dials.

    Where these do not distinguish the datasets, the dose is their name.
    """
    data = {record["dataset"]: parse_run(record["config"]).data for record in records}
    kinds = sorted({one.permute.kind for one in data.values()} - {"none"})
    doses: dict[str, float | str]
    if len(kinds) == 1:
        shares = {name: 0.0 if one.permute.kind == "none" else one.permute.share for name, one in data.items()}
        doses, label = dict(sorted(shares.items(), key=lambda item: item[1])), f"share of {kinds[0]} permuted"
    else:
        doses, label = dict(zip(data, data, strict=True)), "world"
        for name, one in data.items():
            if isinstance(one, CuesData) and one.permute.kind == "none":
                doses[name] = f"alpha {one.alpha:g}, beta {one.beta:g}, q {one.q:g}"
    if len(set(doses.values())) < len(doses):
        return dict(zip(data, data, strict=True)), "data set"
    return doses, label


def dose_table(result: Mapping[str, Any], doses: Mapping[str, float | str]) -> pd.DataFrame:
    """Return the verdicts of crossover.json by dose, with the log error ratio (b over a) at every size.

    `doses` maps a dataset to its dose, in the order of the rows: the share permuted, or the setting of the dials.
    """
    rows = []
    order = {name: place for place, name in enumerate(doses)}
    for study in sorted(result["studies"], key=lambda study: order[study["dataset"]]):
        for pair in study["pairs"]:
            facts = {"dose": doses[study["dataset"]], "dataset": study["dataset"]} | {k: pair[k] for k in COLUMNS[2:]}
            for gap in pair["gap"]:
                ends = {"band_low": gap["ci_low"], "band_high": gap["ci_high"]}
                rows.append(facts | {k: gap[k] for k in GAP[:2]} | ends)
    table = pd.DataFrame(rows, columns=[*COLUMNS, *GAP])
    return table.sort_values(["a", "b"], kind="stable").reset_index(drop=True)


def dose_words(row: Mapping[Any, Any]) -> str:
    """Return N* with its confidence set, or else the verdict, of a row of dose_table."""
    match row["verdict"]:
        case "crossover":
            ends = " to ".join("…" if pd.isna(row[end]) else images(row[end]) for end in ("ci_low", "ci_high"))
            winner = row["a"] if row["direction"] == "a_overtakes_b" else row["b"]
            return f"N* = {images(row['n_star'])} ({ends}), {winner} overtakes"
        case "a_better":
            return f"not in range: {row['a']} leads"
        case "b_better":
            return f"not in range: {row['b']} leads"
        case "several_crossings":
            return "several crossings"
    return "undecided" + ("" if pd.isna(row["p_in_range"]) else f", P(N* in range) {row['p_in_range']:.2f}")


def draw_dose(table: pd.DataFrame, label: str) -> Figure:
    """Return a panel for each pair of dose_table: error of b over that of a by size and dose, and N* or the verdict.

    `label` describes the dose. A ratio in brackets has a band that contains 1.
    """
    pairs = list(table[["a", "b"]].drop_duplicates().itertuples(index=False, name=None))
    doses = list(dict.fromkeys(table["dose"]))
    figure, drawn = panels(len(pairs), size=(9.5, 1.2 + 0.42 * len(doses)))
    # small differences stay pale, and a huge one, where an error is nearly zero, does not make the others pale
    largest = min(max(float(table["log_error_ratio"].abs().max()), log(1.5)), log(4))
    for axes, (a, b) in zip(drawn, pairs, strict=True):
        _draw_pair(axes, table[(table["a"] == a) & (table["b"] == b)], doses, Normalize(-largest, largest))
        said = f"error of {b} / error of {a}: blue where {a} leads, orange where {b} does"
        axes.set_title(said, fontsize=10, loc="left", color=INK)
        axes.set_ylabel(textwrap.fill(label, 16))
    drawn[-1].set_xlabel("training images (n_train); in brackets: the simultaneous 95% band contains 1")
    return figure


def dose_section(table: pd.DataFrame) -> Section:
    """Return the section of a report with dose_table and the figure `dose`."""
    firsts = table.drop_duplicates(["a", "b", "dose"]).to_dict("records")
    rows = tuple((f"{row['b']} / {row['a']}", str(row["dose"]), dose_words(row)) for row in firsts)
    alt = "Who leads, by number of training images and dose; where they cross, N*. " + " ".join(
        f"{pair}, {dose}: {said}." for pair, dose, said in rows
    )
    return Section(
        name="dose",
        title="The dose of bias",
        drawings=(Drawing(name="dose", alt=alt, caption=CAPTION),),
        tables=(Table(caption="", columns=columns("pair", "dose", "N* (95% CI), or the verdict", left=3), rows=rows),),
        files=(NAME,),
    )


def _draw_pair(axes: Axes, rows: pd.DataFrame, doses: Sequence[Any], norm: Normalize) -> None:
    sizes = sorted(rows["n_train"].unique())
    edges = _edges(sizes)
    for place, dose in enumerate(doses):
        part = rows[rows["dose"] == dose].to_dict("records")
        for row in part:
            at = sizes.index(row["n_train"])
            colour = COLOURS(norm(row["log_error_ratio"]))
            axes.fill_between(edges[at : at + 2], place - 0.48, place + 0.48, color=colour, lw=0)
            clear = row["band_low"] > 0 or row["band_high"] < 0
            value = exp(row["log_error_ratio"])
            ratio = f"{value:.2f}" if value < 10 else f"{value:,.0f}"
            said = ratio if clear else f"({ratio})"
            axes.text(row["n_train"], place - 0.12, said, ha="center", va="center", fontsize=8.5, color=WORDS)
        if part and part[0]["verdict"] == "crossover":
            _draw_crossing(axes, part[0], place, sizes)
        said = dose_words(part[0]) if part else "no data"
        axes.text(1.01, place, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=INK)
    size_axis(axes, sizes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_yticks(range(len(doses)), [str(dose) for dose in doses])
    axes.set_ylim(len(doses) - 0.5, -0.5)


def _draw_crossing(axes: Axes, row: Mapping[Any, Any], place: int, sizes: Sequence[float]) -> None:
    """Draw N* and its confidence set at the foot of a row; an unknown end is drawn to the end of the sizes."""
    low, high = (
        end if pd.isna(row[name]) else row[name] for name, end in (("ci_low", sizes[0]), ("ci_high", sizes[-1]))
    )
    axes.plot([low, high], [place + 0.3] * 2, color=WORDS, lw=2, solid_capstyle="butt")
    axes.plot([row["n_star"]], [place + 0.3], "D", color=WORDS, ms=5)


def _edges(sizes: Sequence[float]) -> list[float]:
    """Return the borders of cells around sizes, half-way between them on a logarithmic axis."""
    if len(sizes) == 1:
        return [sizes[0] / 2, sizes[0] * 2]
    logs = np.log(np.asarray(sizes, float))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - middle[0], *middle, 2 * logs[-1] - middle[-1]]).tolist()
