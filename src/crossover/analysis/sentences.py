"""What does a verdict say in one sentence?"""

from typing import Any


def images(n: float) -> str:
    """Return a number of images with two figures: 730, 2.1k, 45k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


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
            return _leads(pair, a, b, +1, f"N* > {pair['n_max']:,} or never")
        case "b_better":
            return _leads(pair, b, a, -1, f"N* < {images(pair['ci_high'])} or no crossover")
    return _undecided(pair, a, b)


def _span(pair: dict[str, Any]) -> str:
    if pair["n_min"] == pair["n_max"]:
        return f"at {pair['n_min']:,} images"
    return f"from {pair['n_min']:,} to {pair['n_max']:,} images"


def _leads(pair: dict[str, Any], leader: str, other: str, sign: int, where: str) -> str:
    clear = [sign * row["ci_low" if sign > 0 else "ci_high"] > 0 for row in pair["gap"]]
    if all(clear):
        throughout = "throughout, " if len(clear) > 1 else ""
        return f"{leader} leads {other} {throughout}{_span(pair)}; {where}."
    since = next(row["n_train"] for i, row in enumerate(pair["gap"]) if all(clear[i:]))
    return (
        f"{leader} leads {other} clearly from {since:,} to {pair['n_max']:,} images, not at all smaller sizes; {where}."
    )


def _undecided(pair: dict[str, Any], a: str, b: str) -> str:
    low, high = pair["ci_low"], pair["ci_high"]
    if pair["p_in_range"] is None:
        means = pair["crossing_of_means"]
        seen = "" if means is None else f" (their means cross near {images(means)})"
        return f"Undecided: nothing says how noisy {a} and {b} are {_span(pair)}{seen}."
    if low is not None:
        return f"Undecided: {a} leads, but not clearly up to {pair['n_max']:,} images; N* > {images(low)} or never."
    if high is not None:
        return f"Undecided: {b} leads, but not clearly up to {pair['n_max']:,} images; N* < {images(high)} or none."
    return f"Undecided: {a} and {b} cannot be told apart {_span(pair)}."
