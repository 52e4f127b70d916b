"""What does a verdict say in one sentence?"""

from typing import Any

import pandas as pd


def images(n: float) -> str:
    """Return a number of images with two figures: 730, 2.1k, 45k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


def size(n: int) -> str:
    """Return a measured number of images in full, short from a million on."""
    return f"{n:,}" if n < 1e6 else images(n)


def summarise(pair: dict[str, Any], confidence: float = 0.95) -> str:
    """Return the verdict of a pair of crossover.json as a sentence."""
    a, b = pair["a"], pair["b"]
    if pair["n_min"] is None:
        return f"{a} and {b} cannot be compared: no size has runs of both."
    match pair["verdict"]:
        case "crossover":
            first, second = (a, b) if pair["direction"] == "b_overtakes_a" else (b, a)
            return (
                f"{second} overtakes {first} at N* = {images(pair['n_star'])} images ({100 * confidence:g}% CI"
                f" {images(pair['ci_low'])} to {images(pair['ci_high'])}; P(in range) {pair['p_in_range']:.2f})."
            )
        case "several_crossings":
            places = " and ".join(f"{images(low)} to {images(high)}" for low, high in pair["confidence_set"])
            return f"{a} and {b} cross more than once {_span(pair)}: between {places} images."
        case "a_better":
            return _leads(pair, a, b, +1, f"N* > {size(pair['n_max'])} or never")
        case "b_better":
            return _leads(pair, b, a, -1, f"N* < {images(pair['ci_high'])} or no crossover")
    return _undecided(pair, a, b)


def _span(pair: dict[str, Any]) -> str:
    if pair["n_min"] == pair["n_max"]:
        return f"at {size(pair['n_min'])} images"
    return f"from {size(pair['n_min'])} to {size(pair['n_max'])} images"


def _leads(pair: dict[str, Any], leader: str, other: str, sign: int, where: str) -> str:
    clear = [sign * row["ci_low" if sign > 0 else "ci_high"] > 0 for row in pair["gap"]]
    if all(clear):
        throughout = "throughout, " if len(clear) > 1 else ""
        return f"{leader} leads {other} {throughout}{_span(pair)}; {where}."
    since = next(row["n_train"] for i, row in enumerate(pair["gap"]) if all(clear[i:]))
    span = _span(pair | {"n_min": since})
    return f"{leader} leads {other} clearly {span}, but not clearly at every smaller size; {where}."


def _undecided(pair: dict[str, Any], a: str, b: str) -> str:
    low, high = pair["ci_low"], pair["ci_high"]
    if pair["p_in_range"] is None:
        means = pair["crossing_of_means"]
        seen = "" if means is None else f" (their means cross near {images(means)})"
        return f"Undecided: nothing says how noisy {a} and {b} are {_span(pair)}{seen}."
    if low is not None:
        return f"Undecided: {a} leads, but not clearly up to {size(pair['n_max'])} images; N* > {images(low)} or never."
    if high is not None:
        lost = f"Undecided: {b} leads, but not clearly up to {size(pair['n_max'])} images, where {a} may be ahead"
        return f"{lost}; if {b} overtook {a}, then below {images(high)}."
    return f"Undecided: {a} and {b} cannot be told apart {_span(pair)}."


def stability_sentence(rows: pd.DataFrame) -> str:
    """Return what the rows of one pair in the stability table say together."""
    others = rows[(rows["choice"] != "as analysed") & rows["verdict"].notna()]
    if others.empty:
        return "The runs allow no alternative analysis."
    flips = [f"{row.choice} {row.value} ({row.verdict})" for row in others[others["flips"].astype(bool)].itertuples()]
    if not flips:
        return f"The verdict is the same under all {len(others)} alternative analyses."
    return f"The verdict changes under {len(flips)} of {len(others)} alternative analyses: {', '.join(flips)}."


def extrapolation_sentence(pair: dict[str, Any]) -> str | None:
    """Return the labelled extrapolation of a pair, why there is none, or None where none is called for."""
    found = pair["extrapolation"]
    if found is None:
        return None
    if found["refused"] is not None:
        return f"Extrapolated (not measured): refused, since {found['refused']}."
    end = f"and {images(found['high'])}" if found["high"] is not None else "and never"
    return (
        f"Extrapolated (not measured): fitted laws let {pair['b']} overtake {pair['a']} between"
        f" {images(found['low'])} {end} images; {size(pair['n_max'])} is the largest size measured."
    )


def calibration_sentence(entry: dict[str, Any]) -> str:
    """Return what a calibration says about the number of chains."""
    if not entry["rows"]:
        return entry["note"]
    if entry["chains_needed"] is None:
        return entry["note"]
    return (
        f"A crossing as steep as measured, at {images(entry['n_star'])} images, would be found in at least 80% of"
        f" repetitions with {entry['chains_needed']} chains."
    )
