"""The pages of the ledger of claims: figures, a section of a report, Markdown and HTML, all from claims.json."""

import math
import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossover.report.page import section_page
from crossover.report.section import DASH, Drawing, Part, Section, Table, columns, markdown_part, write_section
from crossover.report.style import save
from crossover.store import write_json, write_text

COLOURS = {"holds": "#00695c", "fails": "#b00020", "open": "#8a6d00", "no data": "#777777"}
HEADING = 118
"""Characters that fit in one line of a heading."""
SIGNS = {"holds": "holds", "fails": "does not hold", "open": "open", "no data": "no data"}
TITLE = "The article's claims, measured"
SHADED = "every number with its interval, beside the claimed side (shaded)"
METHOD = (
    "Two cues: images made by the code, 16 x 16 pixels, ten classes. Each class has a faint pattern over the whole"
    " image, fixed to its place (the global cue), and a strong motif of 5 x 5 pixels anywhere in it (the local cue),"
    " which names the right class in 82% of the images. Only the local motif, only the global pattern: the other one is"
    " left out.",
    "Each number is a mean over chains (independent draws of the training subset, with their own initial weights) with"
    " its 95% t interval; a number without one is counted or computed. In the figures the claimed side is shaded.",
    "A rule holds when the whole interval is on the claimed side, fails when it is on the other, and is open else: with"
    " three chains a true effect can stay open.",
    "A case holds when all its rules do, and fails when one does. A claim is supported when all its cases hold, refuted"
    " when all fail, supported under stated conditions when some hold, and undecided else; cases without data do not"
    " count, so that a verdict may change when they are filled.",
    "Published evidence is the atlas: curves of others through our engine, each number with the band or interval it has"
    " there. N* over the largest size is 1 where no crossing is seen within it.",
    "The rules were committed before the numbers were seen, but for those of the atlas and of the studies cues-global"
    " and cifar10-cpu, which were published before; they are not corrected for their number.",
    "Our own evidence is about small networks, short training and these images; it says how far a claim carries there.",
)


def write_ledger(ledger: Mapping[str, Any], directory: Path) -> None:
    """Write claims.json, claims.md, claims.html and the figures into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "claims.json", ledger)
    for name, claims in grouped(ledger).items():
        save(draw(claims), directory / "figures", slug(name))
    section = ledger_section(ledger, drawn=True)
    write_section(section, directory)
    write_text(directory / "claims.md", "\n".join(markdown_part(section, 1)))
    write_text(directory / "claims.html", section_page(section, directory))


def grouped(ledger: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the claims by group, in order."""
    return {name: list(part) for name, part in groupby(ledger["claims"], lambda claim: claim["group"])}


def slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def number(rule: Mapping[str, Any]) -> str:
    """Return such as `×1.52 [1.31, 1.76]` for a ratio, `0.12 [0.08, 0.16]` for a value, or a dash.

    Chains that all have the same number, as when it is counted, need no interval.
    """
    if rule["mean"] is None:
        return DASH
    mean, *ends = (f"{_natural(rule, rule[name]):.3g}" for name in ("mean", "low", "high") if rule[name] is not None)
    spread = any(end != mean for end in ends)
    return ("×" if rule["scale"] == "log" else "") + mean + (f" [{', '.join(ends)}]" if spread else "")


def claimed(rule: Mapping[str, Any]) -> str:
    """Return the claimed side, such as `above 0`, in the units of `number`."""
    sides = [(side, rule[side]) for side in ("above", "below") if rule[side] is not None]
    return " and ".join(f"{side} {_side(rule, value)}" for side, value in sides)


def _natural(rule: Mapping[str, Any], value: float) -> float:
    return math.exp(value) if rule["scale"] == "log" else value


def _side(rule: Mapping[str, Any], value: float) -> str:
    return ("×" if rule["scale"] == "log" else "") + f"{_natural(rule, value):.3g}"


def conditions(claim: Mapping[str, Any]) -> str:
    """Return where a claim holds and where it does not, or why it was not tested."""
    if claim["untestable"]:
        return str(claim["untestable"])
    cases = {said: [c["when"] for c in claim["cases"] if c["outcome"] == outcome] for outcome, said in SIGNS.items()}
    return ". ".join(f"{said}: {'; '.join(when)}" for said, when in cases.items() if when)


def counts(ledger: Mapping[str, Any]) -> str:
    """Return such as `25 claims: 9 supported, 2 refuted`."""
    said = ", ".join(f"{count} {verdict}" for verdict, count in ledger["verdicts"].items() if count)
    outcomes = [case["outcome"] for claim in ledger["claims"] for case in claim["cases"]]
    missing = outcomes.count("no data")
    left = f"; {missing} of {len(outcomes)} cases have no data yet" if missing else ""
    return f"{len(ledger['claims'])} claims: {said}{left}"


def cost(claim: Mapping[str, Any]) -> str:
    """Return the cost of the runs behind a claim."""
    if not claim["runs"]:
        return "no training run"
    return f"{claim['runs']} runs, {claim['seconds'] / 60:.1f} minutes of one core as they ran"


def draw(claims: list[dict[str, Any]]) -> Figure:
    """Return a block for every claim: each number with its interval on its own axis, the claimed side shaded."""
    blocks = [
        (
            textwrap.fill(f"{claim['text']} {claim['verdict'].upper()}", HEADING),
            [(case["when"], rule) for case in claim["cases"] for rule in case["rules"]],
        )
        for claim in claims
        if claim["cases"]
    ]
    heights = [height for title, lines in blocks for height in (0.75 + 0.5 * title.count("\n"), *(1.0 for _ in lines))]
    figure = Figure(figsize=(11, 0.42 * sum(heights) + 0.15))
    axes = iter(figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0])
    figure.subplots_adjust(left=0.5, right=0.8, top=1 - 0.05 / figure.get_figheight(), bottom=0.02, hspace=0.75)
    for title, lines in blocks:
        heading = next(axes)
        heading.axis("off")
        heading.text(-1.65, 0.3, title, transform=heading.transAxes, va="center", fontsize=9, weight="bold")
        before = ""
        for when, rule in lines:
            line = next(axes)
            if when != before:
                line.text(-1.63, 0.95, when, transform=line.transAxes, va="center", fontsize=8, color="#555555")
            line.text(-1.58, 0.25, rule["says"], transform=line.transAxes, va="center", fontsize=8)
            _draw_line(line, rule)
            before = when
    return figure


def _draw_line(axes: Axes, rule: Mapping[str, Any]) -> None:
    sides = [rule[side] for side in ("above", "below") if rule[side] is not None]
    ends = [value for value in (rule["mean"], rule["low"], rule["high"]) if value is not None] + sides
    span = max(ends) - min(ends) or max(abs(ends[0]), 1.0)
    low, high = min(ends) - 0.12 * span, max(ends) + 0.12 * span
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xticks(sides, [_side(rule, value) for value in sides], fontsize=7)
    axes.tick_params(length=2, pad=1)
    shade = (rule["above"] if rule["above"] is not None else low, rule["below"] if rule["below"] is not None else high)
    axes.axvspan(*shade, color="#d9ece9", lw=0)
    colour = COLOURS[rule["outcome"]]
    if rule["mean"] is not None:
        if rule["low"] is not None:
            axes.plot([rule["low"], rule["high"]], [0.5, 0.5], color=colour, lw=2, solid_capstyle="butt")
        axes.plot([rule["mean"]], [0.5], "o", color=colour, ms=4)
    said = f"{number(rule)}  {SIGNS[rule['outcome']]}"
    axes.text(1.03, 0.5, said, transform=axes.transAxes, va="center", fontsize=8, color=colour)


def ledger_section(ledger: Mapping[str, Any], *, drawn: bool) -> Section:
    """Return the ledger for readers who know only the article; with `drawn`, its figures are in the same folder."""
    groups = (
        Part(
            title=name,
            drawings=(Drawing(name=slug(name), alt=f"{name}: {SHADED}"),) if drawn else (),
            parts=tuple(map(_claim_part, claims)),
        )
        for name, claims in grouped(ledger).items()
    )
    sentences, files = (f"{counts(ledger)}.", *METHOD), () if drawn else ("claims.json",)
    return Section(name="claims", title=TITLE, sentences=sentences, parts=tuple(groups), files=files)


def _claim_part(claim: Mapping[str, Any]) -> Part:
    rows = tuple(
        (case["when"], rule["says"], number(rule), claimed(rule), SIGNS[rule["outcome"]])
        for case in claim["cases"]
        for rule in case["rules"]
    )
    heads = columns("case", "number", "measured", "claimed", "outcome", left=5)
    return Part(
        title=f"{claim['verdict']}: {claim['text']}",
        folded=True,
        sentences=(
            claim["experiment"],
            f"{conditions(claim)}.",
            f"{claim['command']}; {cost(claim)}. Evidence: {claim['evidence']}.",
        ),
        tables=(Table(caption="", columns=heads, rows=rows),) if rows else (),
    )
