"""The types of crossover.json; docs/estimators.md says how each number is computed."""

from typing import Any, Literal, TypedDict

from crossover.analysis.band import Verdict
from crossover.analysis.pairing import Kind
from crossover.analysis.saturation import Saturation
from crossover.analysis.testset import McNemar


class Gap(TypedDict):
    """The difference at one size; the interval is the band that holds at all sizes."""

    n_train: int
    log_error_ratio: float
    ci_low: float | None
    ci_high: float | None
    accuracy_gap: float
    safe: bool | None
    """Whether the leader would stay with twice the budget; null where it was not checked."""


class Equivalence(TypedDict):
    """How many times n images b needs for the error of a at n; null beyond its curve."""

    n_train: int
    factor: float | None
    ci_low: float | None
    ci_high: float | None


class Family(TypedDict):
    """The verdict among all pairs of the data set (Holm)."""

    pairs: int
    p_value: float | None
    holds: bool | None
    """Null without a verdict."""


class NewImages(TypedDict):
    """The verdict for chains of new images instead of subsets of this pool, at the sizes below the pool's."""

    n_max: int
    verdict: Verdict
    ci_low: float | None
    ci_high: float | None


class Influential(TypedDict):
    """A run far from its replicates, and the verdict without it."""

    run_id: str
    n_train: int
    error: float
    typical: float
    verdict_without: str


class Pair(TypedDict):
    """One pair of models."""

    a: str
    b: str
    n_min: int | None
    n_max: int | None
    chains: int
    interval: Kind
    confidence: float
    verdict: Verdict
    n_star: float | None
    ci_low: float | None
    ci_high: float | None
    p_in_range: float | None
    p_beyond: float | None
    p_before: float | None
    direction: Literal["b_overtakes_a", "a_overtakes_b"] | None
    confidence_set: list[list[float | None]]
    crossing_of_means: float | None
    trend: Literal["closing", "parallel", "widening", "undecided"]
    trend_slope: float | None
    trend_low: float | None
    trend_high: float | None
    gap: list[Gap]
    data_equivalence: list[Equivalence]
    mcnemar: list[McNemar]
    family: Family
    n_pool: int | None
    overlapping: list[int]
    """Sizes above a fifth of the pool."""
    new_images: NewImages | None
    influential: list[Influential]
    near_chance: list[int]
    """Sizes at which both models are little better than guessing."""
    notes: list[str]
    extrapolation: dict[str, Any] | None
    summary: str


class Study(TypedDict):
    """One data set."""

    dataset: str
    setting: dict[str, dict[str, str]]
    """Column to model to value."""
    chance: float | None
    estimand: str
    notes: list[str]
    pairs: list[Pair]
    saturation: list[Saturation]
    laws: list[dict[str, Any]]


class Result(TypedDict):
    """crossover.json."""

    metric: str
    confidence: float
    studies: list[Study]
