"""Sentences that state verdicts, stability, extrapolation and calibration."""

from collections.abc import Sequence

import pandas as pd

from crossover.analysis.contract import Calibration, Pair, Saturation


def images(n: float) -> str:
    """Return a number of images to two digits: 730, 2.1k, 45k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


def size(n: int) -> str:
    """Return a measured number of images in full, abbreviated from a million on."""
    return f"{n:,}" if n < 1e6 else images(n)


def summarise(pair: Pair, points: Sequence[Saturation] = (), chance: float | None = None) -> str:
    """Return the verdict of a pair, the source of its interval, and its caveats."""
    said = [_verdict(pair)]
    if pair["family"]["holds"] is False:
        said.append(f"Taken alone: among the {pair['family']['pairs']} pairs of this data set it is not clear.")
    near = pair["near_chance"]
    if near and chance is not None:
        where = "throughout" if len(near) == len(pair["gap"]) else f"at {', '.join(size(n) for n in near)} images"
        said.append(f"Both models are near chance {where} (guessing: {chance:.0%} error).")
    if pair["gap"]:
        said.append(saturation_sentence(pair, points))
    return " ".join(said)


def saturation_sentence(pair: Pair, points: Sequence[Saturation]) -> str:
    """Return a sentence on the sizes at which the comparison of a pair is limited by data."""
    sizes = [row["n_train"] for row in pair["gap"]]
    points = [point for point in points if point["model"] in (pair["a"], pair["b"])]
    states = {(point["model"], point["n_train"]): point["state"] for point in points}
    each = {n: {states.get((model, n), "not checked") for model in (pair["a"], pair["b"])} for n in sizes}
    data = [n for n in sizes if each[n] == {"data-limited"}]
    budget = [n for n in sizes if "budget-limited" in each[n]]
    if all("not checked" in found for found in each.values()):
        return "Whether more training would change it was not checked."
    bound = max((p["ci_high"] for p in points if p["ci_high"] is not None and p["n_train"] in data), default=0.0)
    said = (
        f"Limited by data at {_named(data)} images (twice the budget changes errors by at most {bound:.0%})"
        if data
        else ""
    )
    more = f"limited by the budget at {_named(budget)}" if budget else ""
    rest = [n for n in sizes if n not in data and n not in budget]
    open_ = f"not known at {_named(rest)}" if rest else ""
    text = "; ".join(part for part in (said, more, open_) if part)
    return f"{text[0].upper()}{text[1:]}."


def _named(sizes: list[int]) -> str:
    return ", ".join(f"{n:,}" for n in sizes)


def _verdict(pair: Pair) -> str:
    a, b = pair["a"], pair["b"]
    if pair["n_min"] is None:
        return f"{a} and {b} cannot be compared: no size has runs of both."
    match pair["verdict"]:
        case "crossover":
            first, second = (a, b) if pair["direction"] == "b_overtakes_a" else (b, a)
            return (
                f"{second} overtakes {first} at N* = {_n(pair['n_star'])} images ({_source(pair, 'CI')}:"
                f" {_n(pair['ci_low'])} to {_n(pair['ci_high'])}; P(in range) {pair['p_in_range']:.2f})."
            )
        case "several_crossings":
            places = " and ".join(f"{_n(low)} to {_n(high)}" for low, high in pair["confidence_set"])
            return f"{a} and {b} cross more than once {_span(pair)}: between {places} images ({_source(pair, 'band')})."
        case "a_better":
            return _leads(pair, a, b, +1, f"N* > {size(pair['n_max'] or 0)} or never")
        case "b_better":
            return _leads(pair, b, a, -1, f"N* < {_n(pair['ci_high'])} or no crossover")
    return _undecided(pair, a, b)


def _n(value: float | None) -> str:
    return "?" if value is None else images(value)


def _source(pair: Pair, what: str) -> str:
    """Return what kind of interval it is, such as `95% CI from 3 chains`."""
    only = "only " if pair["chains"] == 2 else ""
    kinds = {
        "chains": f"from {only}{pair['chains']} chains",
        "seeds": f"from {only}{pair['chains']} seeds of one chain",
        "unpaired": f"from {only}{pair['chains']} chains of each, not paired",
        "roughness": "from the roughness of single curves, not from repeated training",
        "none": "from nothing",
    }
    return f"{100 * pair['confidence']:g}% {what} {kinds[pair['interval']]}"


def _span(pair: Pair) -> str:
    return _sizes(pair["n_min"] or 0, pair["n_max"] or 0)


def _sizes(first: int, last: int) -> str:
    return f"at {size(first)} images" if first == last else f"from {size(first)} to {size(last)} images"


def _leads(pair: Pair, leader: str, other: str, sign: int, where: str) -> str:
    ends = [row["ci_low"] if sign > 0 else row["ci_high"] for row in pair["gap"]]
    clear = [end is not None and sign * end > 0 for end in ends]
    where = f"{where} ({_source(pair, 'band')})"
    if all(clear):
        throughout = "throughout, " if len(clear) > 1 else ""
        return f"{leader} leads {other} {throughout}{_span(pair)}; {where}."
    since = next(row["n_train"] for i, row in enumerate(pair["gap"]) if all(clear[i:]))
    span = _sizes(since, pair["n_max"] or 0)
    return f"{leader} leads {other} clearly {span}, but not clearly at every smaller size; {where}."


def _undecided(pair: Pair, a: str, b: str) -> str:
    low, high = pair["ci_low"], pair["ci_high"]
    if pair["p_in_range"] is None:
        means = pair["crossing_of_means"]
        seen = "" if means is None else f" (their means cross near {images(means)})"
        return f"Undecided: nothing says how noisy {a} and {b} are {_span(pair)}{seen}."
    if low is not None:
        lead = f"Undecided: {a} leads, but not clearly up to {size(pair['n_max'] or 0)} images"
        return f"{lead}; N* > {images(low)} or never."
    if high is not None:
        lost = f"Undecided: {b} leads, but not clearly up to {size(pair['n_max'] or 0)} images, where {a} may be ahead"
        return f"{lost}; if {b} overtook {a}, then below {images(high)}."
    return f"Undecided: {a} and {b} cannot be told apart {_span(pair)}."


def stability_sentence(rows: pd.DataFrame) -> str:
    """Return a sentence that summarises the rows of one pair in the stability table."""
    others = rows[(rows["choice"] != "as analysed") & rows["verdict"].notna()]
    if others.empty:
        return "The runs allow no alternative analysis."
    said = []
    for change, words in (
        ("contradicts", "another leader"),
        ("weaker", "no clear verdict"),
        ("stronger", "a clearer one"),
    ):
        part = [f"{row.choice} {row.value} ({row.verdict})" for row in others[others["change"] == change].itertuples()]
        if part:
            said.append(f"{len(part)} give {words} ({', '.join(part)})")
    same = int((others["change"] == "same").sum())
    if not said:
        return f"The verdict is the same under all {len(others)} alternative analyses."
    return f"Of {len(others)} alternative analyses {same} give the same verdict; {'; '.join(said)}."


def extrapolation_sentence(pair: Pair) -> str | None:
    """Return the labelled extrapolation of a pair, why there is none, or None if none is needed."""
    found = pair["extrapolation"]
    if found is None:
        return None
    if found["low"] is None:
        return f"Extrapolated (not measured): refused, since {found['refused']}."
    end = f"and {images(found['high'])}" if found["high"] is not None else "and never"
    return (
        f"Extrapolated (not measured): fitted laws let {pair['b']} overtake {pair['a']} between"
        f" {images(found['low'])} {end} images; {size(pair['n_max'] or 0)} is the largest size measured."
    )


def calibration_sentence(entry: Calibration) -> str:
    """Return a sentence on the number of chains from a calibration."""
    if entry["chains_needed"] is None or entry["n_star"] is None:
        return entry["note"]
    return (
        f"A crossing as steep as measured, at {images(entry['n_star'])} images, would be found in at least 80% of"
        f" repetitions with {entry['chains_needed']} chains."
    )
