"""What does a verdict say in one sentence?"""

from typing import Any


def images(n: float) -> str:
    """Return a number of images with two figures: 730, 2.1k, 45k, 1.3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= 0.9995 * limit:
            return f"{n / limit:.2g}{unit}" if n < 99.5 * limit else f"{n / limit:.0f}{unit}"
    return f"{n:.0f}"


def summarise(pair: dict[str, Any]) -> str:
    """Return the verdict of a pair of crossover.json as a sentence."""
    a, b = pair["a"], pair["b"]
    if pair["n_min"] is None:
        return f"{a} and {b} cannot be compared."
    span = f"at {pair['n_min']:,} images" if pair["n_min"] == pair["n_max"] else f"{pair['n_min']:,} to {pair['n_max']:,} images"
    match pair["verdict"]:
        case "crossover":
            first, second = (a, b) if pair["direction"] == "b_overtakes_a" else (b, a)
            interval = f"95% CI {images(pair['ci_low'])} to {images(pair['ci_high'])}"
            return (
                f"{second} overtakes {first} at N* = {images(pair['n_star'])} images"
                f" ({interval}; P(in range) {pair['p_in_range']:.2f})."
            )
        case "several_crossings":
            places = " and ".join(f"{images(low)} to {images(high)}" for low, high in pair["confidence_set"])
            return f"{a} and {b} cross more than once within {span}: between {places}."
        case "a_better":
            return _leads(pair, a, b, span, f"N* > {images(pair['n_max'])}, if there is one")
        case "b_better":
            return _leads(pair, b, a, span, f"N* < {images(pair['ci_high'])}, if there is one")
    return _undecided(pair, a, b, span)


def _leads(pair: dict[str, Any], leader: str, other: str, span: str, where: str) -> str:
    sign = 1 if leader == pair["a"] else -1
    clear = [sign * row["ci_low" if sign > 0 else "ci_high"] > 0 for row in pair["gap"]]
    if all(clear):
        return f"{leader} leads {other} throughout {span}; {where}."
    first = next(i for i in range(len(clear)) if all(clear[i:]))
    since = pair["gap"][first]["n_train"]
    return f"{leader} leads {other} from {since:,} images on, undecided below, within {span}; {where}."


def _undecided(pair: dict[str, Any], a: str, b: str, span: str) -> str:
    if pair["p_in_range"] is None:
        means = pair["crossing_of_means"]
        seen = "" if means is None else f"; their means cross near {images(means)}"
        return f"Undecided: nothing says how noisy {a} and {b} are within {span}{seen}."
    if pair["ci_low"] is not None:
        return f"Undecided: {a} leads below {images(pair['ci_low'])}, but no crossing is established within {span}; N* > {images(pair['ci_low'])}, if there is one."
    if pair["ci_high"] is not None:
        return f"Undecided: {b} leads from {images(pair['ci_high'])} on for a while, but not clearly at {pair['n_max']:,} images; N* < {images(pair['ci_high'])}, if there is one."
    return f"Undecided: {a} and {b} cannot be told apart anywhere within {span}."
