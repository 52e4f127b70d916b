"""Sentences that state verdicts, extrapolation and calibration."""

from collections.abc import Sequence

from crossover.analysis.contract import Extrapolation, Pair, Saturation
from crossover.record import title


def images(n: float) -> str:
    """Return a number of images to two digits: 730, 2.1k, 45k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


def size(n: int) -> str:
    """Return a measured number of images in full, abbreviated from a million on."""
    return f"{n:,}" if n < 1e6 else images(n)


def verdict_words(a: str, b: str, verdict: str, direction: str | None = None) -> str:
    """Return the verdict of a pair in a few words, which name both models where one of them leads."""
    if verdict == "crossover" and direction is not None:
        return f"{b} overtakes {a}" if direction == "b_overtakes_a" else f"{a} overtakes {b}"
    return {"a_better": f"{a} leads {b}", "b_better": f"{b} leads {a}"}.get(verdict) or title(verdict)


def named_verdict(a: str, b: str, verdict: str, direction: str | None = None) -> str:
    """Return verdict_words with both names in any case, for a place where no column or title says them."""
    words = verdict_words(a, b, verdict, direction)
    return f"{words} ({b} and {a})" if words == title(verdict) else words


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


def limits(pair: Pair, points: Sequence[Saturation]) -> dict[str, list[int]]:
    """Return the sizes where `data` or the `budget` limit a pair, and those left `open`; none if none was checked."""
    states = {(point["model"], point["n_train"]): point["state"] for point in points}
    found: dict[str, list[int]] = {"data": [], "budget": [], "open": []}
    checked = False
    for n in (row["n_train"] for row in pair["gap"]):
        both = {states.get((model, n), "not checked") for model in (pair["a"], pair["b"])}
        kind = "budget" if "budget-limited" in both else "data" if both == {"data-limited"} else "open"
        found[kind].append(n)
        checked = checked or "not checked" not in both
    return found if checked else {kind: [] for kind in found}


def saturation_sentence(pair: Pair, points: Sequence[Saturation]) -> str:
    """Return a sentence on the sizes at which the comparison of a pair is limited by data."""
    sizes = limits(pair, points)
    models, data = (pair["a"], pair["b"]), sizes["data"]
    ends = [p["ci_high"] for p in points if p["model"] in models and p["n_train"] in data and p["ci_high"] is not None]
    bound = f" images (twice the budget changes errors by at most {max(ends, default=0.0):.0%})"
    words = {
        "data": ("limited by data at ", bound),
        "budget": ("limited by the budget at ", ""),
        "open": ("not known at ", ""),
    }
    said = [
        f"{start}{', '.join(f'{n:,}' for n in sizes[kind])}{end}" for kind, (start, end) in words.items() if sizes[kind]
    ]
    if not said:
        return "Whether more training would change it was not checked."
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _verdict(pair: Pair) -> str:
    a, b, last = pair["a"], pair["b"], size(pair["n_max"] or 0)
    if pair["n_min"] is None:
        return f"{a} and {b} cannot be compared: no size has runs of both."
    low, high = (None if end is None else images(end) for end in (pair["ci_low"], pair["ci_high"]))
    match pair["verdict"]:
        case "crossover":
            first, second = (a, b) if pair["direction"] == "b_overtakes_a" else (b, a)
            return (
                f"{second} overtakes {first} at N* = {_n(pair['n_star'])} images ({_source(pair, 'CI')}:"
                f" {low or '?'} to {high or '?'}; P(in range) {pair['p_in_range']:.2f})."
            )
        case "several_crossings":
            places = " and ".join(f"{_n(start)} to {_n(end)}" for start, end in pair["confidence_set"])
            return f"{a} and {b} cross more than once {_span(pair)}: between {places} images ({_source(pair, 'band')})."
        case "a_better":
            return _leads(pair, a, b, +1, f"N* > {last} or never")
        case "b_better":
            return _leads(pair, b, a, -1, f"N* < {high or '?'} or no crossover")
    if pair["p_in_range"] is None:
        means = pair["crossing_of_means"]
        seen = "" if means is None else f" (their means cross near {images(means)})"
        return f"Undecided: nothing says how noisy {a} and {b} are {_span(pair)}{seen}."
    if low is not None:
        return f"Undecided: {a} leads, but not clearly up to {last} images; N* > {low} or never."
    if high is not None:
        lost = f"Undecided: {b} leads, but not clearly up to {last} images, where {a} may be ahead"
        return f"{lost}; if {b} overtook {a}, then below {high}."
    return f"Undecided: {a} and {b} cannot be told apart {_span(pair)}."


def _n(value: float | None) -> str:
    return "?" if value is None else images(value)


def _source(pair: Pair, what: str) -> str:
    """Return what kind of interval it is, such as `95% CI from 3 chains`."""
    count = f"from {'only ' if pair['chains'] == 2 else ''}{pair['chains']}"
    kinds = {
        "chains": f"{count} chains",
        "seeds": f"{count} seeds of one chain",
        "unpaired": f"{count} chains of each, not paired",
        "roughness": "from the roughness of single curves, not from repeated training",
    }
    return f"{100 * pair['confidence']:g}% {what} {kinds[pair['interval']]}"


def _span(pair: Pair, first: int | None = None) -> str:
    first, last = first or pair["n_min"] or 0, pair["n_max"] or 0
    return f"at {size(first)} images" if first == last else f"from {size(first)} to {size(last)} images"


def _leads(pair: Pair, leader: str, other: str, sign: int, where: str) -> str:
    ends = [row["ci_low"] if sign > 0 else row["ci_high"] for row in pair["gap"]]
    clear = [end is not None and sign * end > 0 for end in ends]
    where = f"{where} ({_source(pair, 'band')})"
    if all(clear):
        throughout = "throughout, " if len(clear) > 1 else ""
        return f"{leader} leads {other} {throughout}{_span(pair)}; {where}."
    since = next(row["n_train"] for i, row in enumerate(pair["gap"]) if all(clear[i:]))
    return f"{leader} leads {other} clearly {_span(pair, since)}, but not clearly at every smaller size; {where}."


def extrapolation_sentence(pair: Pair, found: Extrapolation) -> str:
    """Return the labelled extrapolation of a pair, or why there is none."""
    if found["low"] is None:
        return f"Extrapolated (not measured): refused, since {found['refused']}."
    end = f"and {images(found['high'])}" if found["high"] is not None else "and never"
    return (
        f"Extrapolated (not measured): fitted laws let {pair['b']} overtake {pair['a']} between"
        f" {images(found['low'])} {end} images; {size(pair['n_max'] or 0)} is the largest size measured."
    )
