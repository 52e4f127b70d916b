"""Sentences that state verdicts, extrapolation and what limits a comparison."""

from collections.abc import Sequence

from crossover.analysis.contract import Extrapolation, Pair, Saturation
from crossover.analysis.runs import listed
from crossover.record import title


def images(n: float | None) -> str:
    """Return a number of images to two digits: 730, 2.1k, 45k, 1.3M, 3.4B; `?` if it is not known."""
    if n is None:
        return "?"
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


def size(n: int) -> str:
    """Return a measured number of images in full, abbreviated from a million on."""
    return f"{n:,}" if n < 1e6 else images(n)


def verdict_words(a: str, b: str, verdict: str, direction: str | None = None) -> str:
    """Return the verdict of a pair in a few words, which name both models where one of them leads."""
    known = {"a_better": f"{a} leads {b}", "b_better": f"{b} leads {a}"}
    known |= {"b_overtakes_a": f"{b} overtakes {a}", "a_overtakes_b": f"{a} overtakes {b}"}
    return known.get(direction or verdict) or title(verdict)


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
        said.append(f"Both models are near chance {where} (guessing: {100 * chance:.3g}% error).")
    if pair["gap"]:
        said.append(saturation_sentence(pair, points))
    return " ".join(said)


def limits(pair: Pair, points: Sequence[Saturation]) -> dict[str, list[int]]:
    """Return the sizes where `data` or the `budget` limit a pair, and those left `open`; none if none was checked."""
    states = {(point["model"], point["n_train"]): point["state"] for point in points}
    found: dict[str, list[int]] = {"data": [], "budget": [], "open": []}
    sizes = [row["n_train"] for row in pair["gap"]]
    both = {n: {states.get((model, n), "not checked") for model in (pair["a"], pair["b"])} for n in sizes}
    for n, of_models in both.items() if any("not checked" not in one for one in both.values()) else ():
        data = "data" if of_models == {"data-limited"} else "open"
        found["budget" if "budget-limited" in of_models else data].append(n)
    return found


def saturation_sentence(pair: Pair, points: Sequence[Saturation]) -> str:
    """Return a sentence on the sizes at which the comparison of a pair is limited by data."""
    sizes = limits(pair, points)
    own = [point for point in points if point["model"] in (pair["a"], pair["b"]) and point["n_train"] in sizes["data"]]
    most = max((abs(end or 0.0) for point in own for end in (point["ci_low"], point["ci_high"])), default=0.0)
    at = {kind: ", ".join(f"{n:,}" for n in some) for kind, some in sizes.items()}
    words = {
        "data": f"limited by data at {at['data']} images (twice the budget changes errors by at most {most:.0%})",
        "budget": f"limited by the budget at {at['budget']}",
        "open": f"not known at {at['open']}",
    }
    text = "; ".join(words[kind] for kind in words if at[kind])
    return f"{text[0].upper()}{text[1:]}." if text else "Whether more training would change it was not checked."


def overlap_note(pair: Pair) -> str:
    """Return what the shared images of the chains mean for the intervals, and the verdict for new images."""
    sizes = listed(f"{n:,}" for n in pair["overlapping"])
    start = (
        f"At {sizes} images the chains hold many of the same images (above a fifth of the pool of {pair['n_pool']:,}):"
        " the intervals are about this pool."
    )
    wider = pair["new_images"]
    if wider is None:
        return f"{start} For new images no interval can be given."
    low, high = (None if end is None else f"{end:,.0f}" for end in (wider["ci_low"], wider["ci_high"]))
    where = ""
    if low or high:
        where = f", N* within {low} to {high}" if low and high else f", N* above {low} or never"
        where = where if low else f", N* below {high} or never"
    said = named_verdict(pair["a"], pair["b"], wider["verdict"])
    return f"{start} For new images, up to {wider['n_max']:,}: {said}{where}."


def _verdict(pair: Pair) -> str:
    a, b, last = pair["a"], pair["b"], size(pair["n_max"] or 0)
    if pair["n_min"] is None:
        return f"{a} and {b} cannot be compared: no size has runs of both."
    low, high = pair["ci_low"], pair["ci_high"]
    match pair["verdict"]:
        case "crossover":
            words = verdict_words(a, b, "crossover", pair["direction"])
            return (
                f"{words} at N* = {images(pair['n_star'])} images ({_source(pair, 'CI')}: {images(low)} to"
                f" {images(high)}; P(in range) {pair['p_in_range']:.2f})."
            )
        case "several_crossings":
            places = " and ".join(f"{images(start)} to {images(end)}" for start, end in pair["confidence_set"])
            return f"{a} and {b} cross more than once {_span(pair)}: at {places} images ({_source(pair, 'band')})."
        case "a_better":
            return f"{_lead(pair, +1)}; N* > {last} or never ({_source(pair, 'band')})."
        case "b_better":
            return f"{_lead(pair, -1)}; N* < {images(high)} or no crossover ({_source(pair, 'band')})."
    means = pair["crossing_of_means"]
    seen = "" if means is None else f" (their means cross near {images(means)})"
    if pair["p_in_range"] is None:
        return f"Undecided: nothing says how noisy {a} and {b} are {_span(pair)}{seen}."
    if low is not None:
        return f"Undecided: {_lost_lead(pair, +1)}; N* > {images(low)} or never."
    if high is not None:
        return f"Undecided: {_lost_lead(pair, -1)}; if {b} overtook {a}, then below {images(high)}."
    return f"Undecided: {a} and {b} cannot be told apart {_span(pair)}{seen}."


def _source(pair: Pair, what: str) -> str:
    """Return what kind of interval it is, such as `95% CI from 3 chains`."""
    count = f"from {'only ' if pair['chains'] == 2 else ''}{pair['chains']}"
    kinds = {
        "chains": f"{count} chains",
        "seeds": f"{count} seeds of one chain",
        "unpaired": f"{count} replicates of each, not paired",
        "roughness": "from the roughness of single curves, not from repeated training",
    }
    return f"{100 * pair['confidence']:g}% {what} {kinds[pair['interval']]}"


def _span(pair: Pair, first: int | None = None, last: int | None = None) -> str:
    first, last = first or pair["n_min"] or 0, last or pair["n_max"] or 0
    return f"at {size(first)} images" if first == last else f"from {size(first)} to {size(last)} images"


def _lead(pair: Pair, sign: int) -> str:
    """Return who leads (a if `sign` is positive) and where the lead is clear."""
    words = verdict_words(pair["a"], pair["b"], "a_better" if sign > 0 else "b_better")
    clear = _is_clear(pair, sign)
    if all(clear):
        return f"{words} {'throughout, ' if len(clear) > 1 else ''}{_span(pair)}"
    since = next(row["n_train"] for i, row in enumerate(pair["gap"]) if all(clear[i:]))
    return f"{words} clearly {_span(pair, since)}, but not clearly at every smaller size"


def _lost_lead(pair: Pair, sign: int) -> str:
    """Return where the only clear lead (of a if `sign` is positive) is, and who is ahead at the largest size."""
    sizes, last = [row["n_train"] for row in pair["gap"]], pair["gap"][-1]["log_error_ratio"]
    clear = [n for n, leads in zip(sizes, _is_clear(pair, sign), strict=True) if leads]
    where = _span(pair, clear[0], clear[-1])
    if clear == sizes[: len(clear)] and len(clear) > 1:
        where = f"up to {size(clear[-1])} images"
    elif clear != sizes[sizes.index(clear[0]) :][: len(clear)]:
        where = f"at some sizes {where}"
    ahead = f"{pair['a' if last > 0 else 'b']} is ahead, but not clearly" if last else "they are equal"
    return f"{pair['a' if sign > 0 else 'b']} leads clearly {where}; at {size(sizes[-1])} {ahead}"


def _is_clear(pair: Pair, sign: int) -> list[bool]:
    """Return for every size whether a (b, if `sign` is negative) leads clearly."""
    ends = [row["ci_low"] if sign > 0 else row["ci_high"] for row in pair["gap"]]
    return [end is not None and sign * end > 0 for end in ends]


def extrapolation_sentence(pair: Pair, found: Extrapolation) -> str:
    """Return the labelled extrapolation of a pair, or why there is none."""
    if found["low"] is None:
        return f"Extrapolated (not measured): refused, since {found['refused']}."
    where = f"between {images(found['low'])} and {images(found['high'])} images"
    if found["high"] is None:
        where = f"from {images(found['low'])} images on, or never"
    return (
        f"Extrapolated (not measured): fitted laws let {pair['b']} overtake {pair['a']} {where};"
        f" {size(pair['n_max'] or 0)} is the largest size measured."
    )
