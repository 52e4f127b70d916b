"""The pages of the ledger of claims: a section of a report, Markdown and HTML, all from claims.json."""

import math
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from crossover.report.page import section_page
from crossover.report.section import DASH, Part, Section, markdown_part, table_of, write_section
from crossover.store import write_json, write_text

SIGNS = {"holds": "holds", "fails": "does not hold", "open": "open", "no data": "no data"}
TITLE = "The article's claims, measured"
METHOD = (
    "Two cues: images made by the code, 16 x 16 pixels, ten classes. Each class has a faint pattern over the whole"
    " image, fixed to its place (the global cue), and a strong motif of 5 x 5 pixels anywhere in it (the local cue),"
    " which names the right class in 82% of the images. Only the local motif, only the global pattern: the other one is"
    " left out.",
    "Each number is a mean over chains (independent draws of the training subset, with their own initial weights) with"
    " its 95% t interval; a number without one is counted or computed.",
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
    section = ledger_section(ledger)
    write_section(section, directory)
    write_json(directory / "claims.json", ledger)
    write_text(directory / "claims.md", "\n".join(markdown_part(section, 1)))
    write_text(directory / "claims.html", section_page(section, directory))


def number(rule: Mapping[str, Any]) -> str:
    """Return such as `×1.52 [1.31, 1.76]` for a ratio, `0.12 [0.08, 0.16]` for a value, or a dash.

    Chains that all have the same number, as when it is counted, need no interval.
    """
    if rule["mean"] is None:
        return DASH
    mean, *ends = (_natural(rule, rule[name]) for name in ("mean", "low", "high") if rule[name] is not None)
    return _times(rule) + mean + (f" [{', '.join(ends)}]" if {*ends} - {mean} else "")


def claimed(rule: Mapping[str, Any]) -> str:
    """Return the claimed side, such as `above 0`, in the units of `number`."""
    sides = [side for side in ("above", "below") if rule[side] is not None]
    return " and ".join(f"{side} {_times(rule)}{_natural(rule, rule[side])}" for side in sides)


def _times(rule: Mapping[str, Any]) -> str:
    return "×" if rule["scale"] == "log" else ""


def _natural(rule: Mapping[str, Any], value: float) -> str:
    return f"{math.exp(value) if rule['scale'] == 'log' else value:.3g}"


def counts(ledger: Mapping[str, Any]) -> str:
    """Return such as `25 claims: 9 supported, 2 refuted`."""
    said = ", ".join(f"{count} {verdict}" for verdict, count in ledger["verdicts"].items() if count)
    outcomes = [case["outcome"] for claim in ledger["claims"] for case in claim["cases"]]
    missing = outcomes.count("no data")
    left = f"; {missing} of {len(outcomes)} cases have no data yet" if missing else ""
    return f"{len(ledger['claims'])} claims: {said}{left}"


def ledger_section(ledger: Mapping[str, Any]) -> Section:
    """Return the ledger for readers who know only the article."""
    groups = groupby(ledger["claims"], lambda claim: claim["group"])
    parts = tuple(Part(title=name, parts=tuple(map(_claim_part, claims))) for name, claims in groups)
    sentences = (f"{counts(ledger)}.", *METHOD)
    return Section(name="claims", title=TITLE, sentences=sentences, parts=parts, files=("claims.json",))


def _claim_part(claim: Mapping[str, Any]) -> Part:
    cases = claim["cases"]
    said = {said: [case["when"] for case in cases if case["outcome"] == outcome] for outcome, said in SIGNS.items()}
    conditions = ". ".join(f"{words}: {'; '.join(when)}" for words, when in said.items() if when)
    rows = [
        {
            "case": case["when"],
            "number": rule["says"],
            "measured": number(rule),
            "claimed": claimed(rule),
            "outcome": SIGNS[rule["outcome"]],
        }
        for case in cases
        for rule in case["rules"]
    ]
    cost = f"{claim['runs']} runs, {claim['seconds'] / 60:.1f} minutes of one core as they ran"
    return Part(
        title=f"{claim['verdict']}: {claim['text']}",
        folded=True,
        sentences=(
            claim["experiment"],
            f"{claim['untestable'] or conditions}.",
            f"{claim['command']}; {cost if claim['runs'] else 'no training run'}. Evidence: {claim['evidence']}.",
        ),
        tables=(table_of(rows),) if rows else (),
    )
