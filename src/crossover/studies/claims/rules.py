"""Rules that decide claims, declared before the numbers are seen, and the verdicts they give on a table of measures.

A rule compares one measure with a threshold. With chains, its 95% t interval decides: a single rule is wrong in one
direction in at most 2.5% of cases if the values of chains are normal, which three of them cannot show. Rules are not
corrected for their number.
"""

import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from crossover.analysis.estimate import t_value
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
"""Values of some of the KEYS and `measure`."""
Outcome = Literal["holds", "fails", "open", "no data"]
Verdict = Literal[
    "supported", "refuted", "supported under stated conditions", "undecided", "not testable here", "no data"
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

    def places(self, base: Place) -> list[Place]:
        """Return its own place, the one compared with, and both again for the difference subtracted."""
        own = {"measure": self.measure} | base | self.at
        pairs = [own] if self.between is None else [own, own | self.between]
        return [place for pair in pairs for place in ([pair] if self.against is None else [pair, pair | self.against])]


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

    def places(self, default: Place) -> list[Place]:
        return [place for case in self.cases for rule in case.rules for place in rule.places(default | case.at)]


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

    @property
    def places(self) -> list[Place]:
        """Every place at which some rule needs a measure."""
        return [place for claim in self.claims for place in claim.places(self.default)]


def judge(rules: Rules, measures: pd.DataFrame) -> dict[str, Any]:
    """Return claims.json: every claim with its numbers and its verdict. `measures` has COLUMNS."""
    claims = [_judge_claim(claim, rules, measures) for claim in rules.claims]
    counts = Counter(claim["verdict"] for claim in claims)
    tested = sum(rule["low"] is not None for claim in claims for case in claim["cases"] for rule in case["rules"])
    verdicts = {verdict: counts[verdict] for verdict in get_args(Verdict)}
    return {"confidence": rules.confidence, "intervals": tested, "verdicts": verdicts, "claims": claims}


def _judge_claim(claim: Claim, rules: Rules, measures: pd.DataFrame) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    for case in claim.cases:
        results = [_judge_rule(rule, rules.default | case.at, measures, rules.confidence) for rule in case.rules]
        outcome = case_outcome([result["outcome"] for result in results])
        cases.append({"when": case.when, "outcome": outcome, "rules": results})
    places = claim.places(rules.default)
    published = {place["state"] == PUBLISHED for place in places}
    seconds = measures.loc[at_any(measures, map(cost_of, places)), "value"]
    return {
        **claim.model_dump(include={"name", "group", "text", "experiment", "command", "untestable"}),
        "verdict": verdict([case["outcome"] for case in cases]),
        "evidence": "both" if len(published) > 1 else "published" if True in published else "ours",
        "runs": len(seconds),
        "seconds": float(seconds.sum()),
        "cases": cases,
    }


def case_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the joint outcome of several rules: failure takes precedence, then missing data, then open."""
    order: tuple[Outcome, ...] = ("fails", "no data", "open")
    return next((decisive for decisive in order if decisive in outcomes), "holds")


def verdict(cases: Sequence[Outcome]) -> Verdict:
    """Return the verdict of a claim from the outcomes of its cases; cases without data do not count."""
    seen = set(cases) - {"no data"}
    if not seen:
        return "no data" if cases else "not testable here"
    if "holds" in seen:
        return "supported" if len(seen) == 1 else "supported under stated conditions"
    return "refuted" if seen == {"fails"} else "undecided"


def _judge_rule(rule: Rule, base: Place, measures: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Return a rule's number with its interval over chains, and its outcome.

    `low` and `high` are null for an exact number, and for a single chain, which decides nothing. A published number has
    the interval published with it: the measures of its name with ENDS.
    """
    places = rule.places(base)
    values = _contrast([_values(measures, place) for place in places], rule)
    exact = list(values.index) == [EXACT]
    chains = 0 if exact else len(values)
    mean = float(values.mean()) if len(values) else None
    ends = (_values(measures, places[0] | {"measure": f"{places[0]['measure']}{end}"}) for end in ENDS)
    low, high = (None if end.empty else float(end.iloc[0]) for end in ends)
    if low is None and mean is not None and chains > 1:
        half = float(t_value(confidence, chains - 1) * values.to_numpy(float).std(ddof=1) / np.sqrt(chains))
        low, high = mean - half, mean + half
    decisive = (mean, mean) if exact and low is None else (low, high)
    return {
        **rule.model_dump(include={"says", "scale", "above", "below"}),
        "mean": mean,
        "low": low,
        "high": high,
        "chains": chains,
        "outcome": "no data" if mean is None else _outcome(rule, *decisive),
    }


def _outcome(rule: Rule, low: float | None, high: float | None) -> Outcome:
    if low is None or high is None:
        return "open"
    above = -np.inf if rule.above is None else rule.above
    below = np.inf if rule.below is None else rule.below
    if low > above and high < below:
        return "holds"
    return "fails" if high <= above or low >= below else "open"


def _values(measures: pd.DataFrame, place: Place) -> "pd.Series[float]":
    """Return the values at a place by chain."""
    rows = measures[at_any(measures, [place])]
    if rows["chain"].duplicated().any():
        raise AnalysisError(f"there are several values for one chain at {place}; name more of {', '.join(KEYS)}")
    return rows.set_index("chain")["value"].dropna()


def at_any(measures: pd.DataFrame, places: Iterable[Place]) -> "pd.Series[bool]":
    """Return which rows are at one of the places."""
    found = pd.Series(False, index=measures.index)
    for place in places:
        found |= reduce(operator.and_, (measures[key] == value for key, value in place.items()))
    return found


def cost_of(place: Place) -> Place:
    """Return the place of the cost of the runs at a place; it has neither layer nor state."""
    return {key: value for key, value in place.items() if key not in ("layer", "state")} | {"measure": "total_seconds"}


def _contrast(columns: Sequence["pd.Series[float]"], rule: Rule) -> "pd.Series[float]":
    """Return the rule's number for each chain that all places share; an exact place goes with every chain."""
    chains = [column.index for column in columns if EXACT not in column.index]
    shared = reduce(pd.Index.intersection, chains or [columns[0].index])
    parts = [pd.Series(c.iloc[0], shared) if EXACT in c.index else c.loc[shared] for c in columns]
    if rule.scale == "log":
        parts = [part.clip(lower=TINY).map(math.log) for part in parts]
    while len(parts) > 1:  # of two pairs the differences, then their difference
        parts = [one - other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0].sort_index()
