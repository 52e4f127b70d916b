"""Whether a point of a learning curve is limited by data or by budget, judged by runs with half the budget."""

from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
from scipy import stats

from crossover.analysis.estimate import estimate

TOLERANCE = 0.05
"""Largest gain in log error from the last doubling of the budget that counts as small; declared beforehand."""
RATIO = (0.45, 0.55)
"""Images seen by a twin, as a share of its run's: half, up to rounding to whole steps."""
KEYS = ["model", "n_train", "chain", "seed", "augment", "recipe"]
State = Literal["data-limited", "budget-limited", "not established", "not checked"]


class Saturation(TypedDict):
    """One size of one model in crossover.json.

    `gain` is the mean of log e(B/2) - log e(B) over chains. Gains of successive doublings shrink, so `ci_high` bounds
    what twice the budget could still change. Only a t interval decides; without two chains it is not established.
    """

    model: str
    n_train: int
    state: State
    gain: float | None
    ci_low: float | None
    ci_high: float | None
    chains: int


def saturation(runs: pd.DataFrame, chosen: pd.DataFrame, metric: str, confidence: float) -> list[Saturation]:
    """Return the state of every size of every model among the `chosen` runs; `runs` may contain their twins."""
    keys = [name for name in KEYS if name in chosen]
    both = chosen.iloc[:0]
    if "images_seen" in chosen:
        both = chosen.merge(runs, on=keys, suffixes=("", "_twin"))
        both = both[(both["images_seen_twin"].astype(float) / both["images_seen"].astype(float)).between(*RATIO)]
    found: list[Saturation] = []
    for model, part in chosen.groupby("model", sort=False):
        own = both[both["model"] == model]
        gains: dict[float, tuple[float, float | None, int]] = {}
        if len(own):
            change = own.assign(gain=np.log(own[f"{metric}_twin"]) - np.log(own[metric]))
            table = change.pivot_table(index="chain", columns="n_train", values="gain")
            joint = estimate(table.columns.to_numpy(float), table.to_numpy())
            critical = None if joint is None else float(stats.t.ppf((1 + confidence) / 2, joint.df))
            for i, n in enumerate(table):
                half = None if joint is None or critical is None else critical * float(joint.se[i])
                gains[float(str(n))] = float(table[n].mean()), half, int(table[n].notna().sum())
        for n in sorted(part["n_train"].unique()):
            gain, half, chains = gains.get(float(n), (None, None, 0))
            low, high = (None, None) if gain is None or half is None else (gain - half, gain + half)
            row = Saturation(
                model=str(model),
                n_train=round(n),
                state=_state(gain, low, high),
                gain=gain,
                ci_low=low,
                ci_high=high,
                chains=chains,
            )
            found.append(row)
    return found


def _state(gain: float | None, low: float | None, high: float | None) -> State:
    if gain is None:
        return "not checked"
    if high is not None and high < TOLERANCE:
        return "data-limited"
    return "budget-limited" if low is not None and low > TOLERANCE else "not established"


def safe_signs(pair: Any, points: list[Saturation]) -> list[bool | None]:
    """Return by size of the pair whether twice the budget could change who leads; None where it was not checked.

    Safe where the log error ratio minus its half band exceeds the difference of the two gains.
    """
    gains = {(point["model"], point["n_train"]): point["gain"] for point in points}
    safe: list[bool | None] = []
    for row in pair["gap"]:
        one, other = (gains.get((pair[side], row["n_train"])) for side in ("a", "b"))
        if one is None or other is None or row["ci_low"] is None:
            safe.append(None)
            continue
        sure = max(row["ci_low"], -row["ci_high"])
        safe.append(sure > abs(one - other))
    return safe


def saturation_sentence(pair: Any, points: list[Saturation]) -> str:
    """Return a sentence on the sizes at which the comparison of a pair is limited by data."""
    sizes = [row["n_train"] for row in pair["gap"]]
    states = {(point["model"], point["n_train"]): point["state"] for point in points}
    each = {n: {states.get((pair[side], n), "not checked") for side in ("a", "b")} for n in sizes}
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
