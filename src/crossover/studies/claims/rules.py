"""Rules that decide claims, declared before the numbers are seen, and the verdicts they give on a table of measures.

A rule compares one measure with a threshold. With chains, its 95% t interval decides: a single rule is wrong in one
direction in at most 2.5% of cases if the values of chains are normal, which three of them cannot show. Rules are not
corrected for their number.
"""

import math
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy import stats

from crossover.analysis.runs import AnalysisError
from crossover.fields import Frozen

KEYS = ("study", "world", "augment", "model", "n_train", "layer", "state")
"""The keys that identify a measure, besides its name and chain."""
COLUMNS = (*KEYS, "chain", "measure", "value")
EXACT = -1
"""The chain of a deterministic value: counted, or computed without training."""
ENDS = ("_low", "_high")
"""Suffixes of the measures that are the ends of an interval."""
PUBLISHED = "published"
"""The state of published numbers: the atlas."""
TINY = 1e-12
"""Smaller values are raised to this in a log ratio, as 0 has no log."""
Place = dict[str, str | int]
Outcome = Literal["holds", "fails", "open", "no data"]
Verdict = Literal[
    "supported",
    "refuted",
    "supported under stated conditions",
    "undecided",
    "not testable here",
    "no data",
]


class Rule(Frozen):
    """One comparison of a measure with a threshold."""

    says: str
    """What the number is, in words."""
    measure: str
    at: Place = {}
    """Where it is measured: values of KEYS, overriding those of the case and of the defaults."""
    against: Place | None = None
    """What changes at the place it is compared with; `measure` may change too."""
    between: Place | None = None
    """What changes at the pair of places whose comparison is subtracted."""
    scale: Literal["value", "log"] = "value"
    """log: the log of the ratio of the two places."""
    above: float | None = None
    below: float | None = None
    """The claimed side; with both, between them."""

    @model_validator(mode="after")
    def _has_a_side(self) -> "Rule":
        if self.above is None and self.below is None:
            raise ValueError(f"the rule {self.says!r} has no side; give it above or below")
        if self.between is not None and self.against is None:
            raise ValueError(f"the rule {self.says!r} has between but nothing to compare; give it against")
        unknown = sorted({*self.at, *(self.against or {}), *(self.between or {})} - {*KEYS, "measure"})
        if unknown:
            raise ValueError(f"the rule {self.says!r} names {', '.join(unknown)}; there is {', '.join(KEYS)}")
        return self


class Case(Frozen):
    """A condition under which a claim is tested; it holds when all its rules hold."""

    when: str
    at: Place = {}
    rules: list[Rule] = Field(min_length=1)


class Claim(Frozen):
    """A sentence of the article, and the rules that decide it."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    group: str
    text: str
    experiment: str
    command: str
    cases: list[Case] = []
    untestable: str | None = None
    """Why it cannot be tested here."""

    @model_validator(mode="after")
    def _tested_or_not(self) -> "Claim":
        if bool(self.cases) == (self.untestable is not None):
            raise ValueError(f"the claim {self.name} needs either cases or a reason why it is untestable")
        return self


class Rules(Frozen):
    """All claims, and the defaults their places share."""

    claims: list[Claim] = Field(min_length=1)
    default: Place = {}
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _one_name_each(self) -> "Rules":
        names = [claim.name for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"two claims are called {max(names, key=names.count)}")
        return self


def places(rules: Rules) -> list[tuple[str, Place]]:
    """Return every measure that some rule needs, with its complete place."""
    return [place for claim in rules.claims for place in _places_of(claim, rules)]


def _places_of(claim: Claim, rules: Rules) -> list[tuple[str, Place]]:
    cases = ((case, rule) for case in claim.cases for rule in case.rules)
    return [place for case, rule in cases for place in _compared(rule, rules.default | case.at)]


def _compared(rule: Rule, base: Place) -> list[tuple[str, Place]]:
    """Return the places of a rule: its own, the one compared with, and both again for the difference subtracted."""
    sides: list[Place] = [{}] if rule.against is None else [{}, rule.against]
    pairs: list[Place] = [{}] if rule.between is None else [{}, rule.between]
    found = []
    for pair in pairs:
        for side in sides:
            whole: Place = {"measure": rule.measure} | base | rule.at | pair | side
            found.append((str(whole.pop("measure")), whole))
    return found


def judge(rules: Rules, measures: pd.DataFrame) -> dict[str, Any]:
    """Return claims.json: every claim with its numbers and its verdict. `measures` has COLUMNS."""
    claims = [_judge_claim(claim, rules, measures) for claim in rules.claims]
    counts = {verdict: sum(claim["verdict"] == verdict for claim in claims) for verdict in get_args(Verdict)}
    tested = sum(rule["low"] is not None for claim in claims for case in claim["cases"] for rule in case["rules"])
    return {"confidence": rules.confidence, "intervals": tested, "verdicts": counts, "claims": claims}


def _judge_claim(claim: Claim, rules: Rules, measures: pd.DataFrame) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    for case in claim.cases:
        results = [_judge_rule(rule, rules.default | case.at, measures, rules.confidence) for rule in case.rules]
        outcome = case_outcome([result["outcome"] for result in results])
        cases.append({"when": case.when, "outcome": outcome, "rules": results})
    used = _places_of(claim, rules)
    states = {place["state"] == PUBLISHED for _, place in used}
    behind = pd.Series(False, index=measures.index)
    for _, place in used:
        behind |= costs_at(measures, place)
    return {
        **claim.model_dump(include={"name", "group", "text", "experiment", "command", "untestable"}),
        "verdict": verdict([case["outcome"] for case in cases]),
        "evidence": "both" if len(states) > 1 else "published" if True in states else "ours",
        "runs": int(behind.sum()),
        "seconds": float(measures["value"][behind].sum()),
        "cases": cases,
    }


def case_outcome(outcomes: list[Outcome]) -> Outcome:
    """Return the joint outcome of several rules: failure takes precedence, then missing data, then open."""
    order: tuple[Outcome, ...] = ("fails", "no data", "open")
    for decisive in order:
        if decisive in outcomes:
            return decisive
    return "holds"


def verdict(cases: list[Outcome]) -> Verdict:
    """Return the verdict of a claim from the outcomes of its cases; cases without data do not count."""
    seen = [outcome for outcome in cases if outcome != "no data"]
    if not seen:
        return "no data" if cases else "not testable here"
    if all(outcome == "holds" for outcome in seen):
        return "supported"
    if "holds" in seen:
        return "supported under stated conditions"
    return "refuted" if all(outcome == "fails" for outcome in seen) else "undecided"


def _judge_rule(rule: Rule, base: Place, measures: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Return a rule's number with its interval over chains, and its outcome.

    `low` and `high` are null for an exact number, and for a single chain, which decides nothing. A published number has
    the interval published with it: the measures of its name with ENDS.
    """
    compared = _compared(rule, base)
    values = _contrast([_values(measures, *place) for place in compared], rule)
    exact, chains = list(values.index) == [EXACT], len(values)
    mean = float(values.mean()) if chains else None
    measure, place = compared[0]
    low, high = (next(iter(_values(measures, measure + end, place)), None) for end in ENDS)
    if low is None and mean is not None and chains > 1:
        spread = values.to_numpy(float).std(ddof=1)
        half = float(stats.t.ppf((1 + confidence) / 2, chains - 1) * spread / np.sqrt(chains))
        low, high = mean - half, mean + half
    if mean is None:
        outcome: Outcome = "no data"
    elif exact and low is None:
        outcome = _outcome(rule, mean, mean)
    else:
        outcome = "open" if low is None or high is None else _outcome(rule, low, high)
    return {
        **rule.model_dump(include={"says", "scale", "above", "below"}),
        "mean": mean,
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "chains": 0 if exact else chains,
        "outcome": outcome,
    }


def _values(measures: pd.DataFrame, measure: str, place: Place) -> "pd.Series[float]":
    """Return the measure at a place by chain."""
    rows = measures[matches(measures, measure, place)]
    if rows["chain"].duplicated().any():
        raise AnalysisError(f"{measure} at {place} has several values for one chain; name more of {', '.join(KEYS)}")
    return rows.set_index("chain")["value"].dropna()


def matches(measures: pd.DataFrame, measure: str, place: Place) -> "pd.Series[bool]":
    """Return which rows hold a measure at a place."""
    chosen = measures["measure"] == measure
    for key, value in place.items():
        chosen &= measures[key] == value
    return chosen


def costs_at(measures: pd.DataFrame, place: Place) -> "pd.Series[bool]":
    """Return which rows hold the cost of the runs at a place; it has neither layer nor state."""
    return matches(measures, "total_seconds", {k: v for k, v in place.items() if k not in ("layer", "state")})


def _contrast(columns: list["pd.Series[float]"], rule: Rule) -> "pd.Series[float]":
    """Return the rule's number for each chain that all places share; an exact place goes with every chain."""
    chains = [column.index for column in columns if EXACT not in column.index]
    shared = reduce(pd.Index.intersection, chains or [columns[0].index])
    parts = [pd.Series(c.iloc[0], shared) if EXACT in c.index else c.loc[shared] for c in columns]
    if rule.scale == "log":
        parts = [part.clip(lower=TINY).map(math.log) for part in parts]
    number = parts[0] if rule.against is None else parts[0] - parts[1]
    return (number if rule.between is None else number - (parts[2] - parts[3])).sort_index()


def _outcome(rule: Rule, low: float, high: float) -> Outcome:
    above = -np.inf if rule.above is None else rule.above
    below = np.inf if rule.below is None else rule.below
    if low > above and high < below:
        return "holds"
    return "fails" if high <= above or low >= below else "open"
