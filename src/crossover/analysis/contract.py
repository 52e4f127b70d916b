"""The types of crossover.json and calibration.json; docs/estimators.md says what each is and how it is computed."""

from typing import Literal, NotRequired, TypedDict

from crossover.analysis.band import Verdict
from crossover.analysis.pairing import Kind
from crossover.analysis.testset import McNemar

State = Literal["data-limited", "budget-limited", "not established", "not checked"]


class Interval(TypedDict):
    """Null where it is open or unknown."""

    ci_low: float | None
    ci_high: float | None


class Saturation(Interval):
    """What limits a model at one size; `gain` is the mean of log e(B/2) - log e(B) over chains.

    Gains of successive doublings usually shrink: `ci_high` then bounds what twice the budget could still change.
    """

    model: str
    n_train: int
    state: State
    gain: float | None
    chains: int


class Gap(Interval):
    n_train: int
    log_error_ratio: float
    accuracy_gap: float
    safe: bool | None
    """Whether the leader would stay with twice the budget; null where it was not checked."""


class Equivalence(Interval):
    """How many times n images b needs for the error of a at n; null beyond its curve."""

    n_train: int
    factor: float | None


class AmongPairs(TypedDict):
    """The verdict among all pairs of the data set (Holm)."""

    pairs: int
    p_value: float | None
    holds: bool | None


class NewImages(Interval):
    """The verdict for chains of new images instead of subsets of this pool, at the sizes below the pool's."""

    n_max: int
    verdict: Verdict


class Influential(TypedDict):
    """A run far from its replicates, and the verdict without it."""

    run_id: str
    n_train: int
    error: float
    typical: float
    verdict_without: str


class Extrapolation(TypedDict):
    """The sizes beyond the measured ones at which b could overtake a; the dicts are by side (a, b)."""

    label: str
    low: float | None
    high: float | None
    """Null where some law has no crossing up to `limit`."""
    limit: int
    holdout_rmse: dict[str, dict[str, float]]
    laws: dict[str, list[str]]
    refused: str | None
    """Why there is no range."""


class Pair(Interval):
    """Every `p_*` is about b overtaking a, or what `direction` says; the trend is seen from the leader at the end."""

    a: str
    b: str
    n_min: int | None
    n_max: int | None
    chains: int
    interval: Kind
    confidence: float
    verdict: Verdict
    n_star: float | None
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
    family: AmongPairs
    n_pool: int | None
    overlapping: list[int]
    """Sizes above a fifth of the pool."""
    new_images: NewImages | None
    influential: list[Influential]
    near_chance: list[int]
    """Sizes at which both models are little better than guessing."""
    notes: list[str]
    extrapolation: Extrapolation | None
    summary: str


class FittedLaw(TypedDict):
    """One law of one model; a standard error is null at a bound."""

    law: str
    params: dict[str, float]
    standard_errors: dict[str, float | None]
    sigma: float


class ModelFits(TypedDict):
    model: str
    fits: list[FittedLaw]
    holdout_rmse: dict[str, float]
    held_out: int
    """Largest sizes that the laws were tested on; 0: too few to choose among them."""
    spread: float | None
    """How far the laws of `curve` differ at most over the measured sizes, as a share of the error."""
    curve: list[dict[Literal["n_train", "error"], float]] | None
    note: str | None


class Analysis(TypedDict):
    """The results for one data set."""

    dataset: str
    setting: dict[str, dict[str, str]]
    """Column to model to value."""
    chance: float | None
    estimand: str
    notes: list[str]
    pairs: list[Pair]
    saturation: list[Saturation]
    laws: list[ModelFits]


class Result(TypedDict):
    """crossover.json."""

    metric: str
    confidence: float
    studies: list[Analysis]


class Repetitions(TypedDict):
    """What simulated repetitions of a design with so many chains find."""

    chains: int
    power: float
    power_low: float
    """Lower 95% limit of the simulation."""
    coverage: float | None
    """How often the set of N* holds the truth; null for curves that do not cross."""
    width: float | None
    """Median of ci_high / ci_low."""
    fieller_width: float | None
    """The same of a Fieller set for one size at a time (t instead of max-|t|) on the same data."""
    false_crossover: NotRequired[float]
    """How often a design without a crossing finds one."""


class Calibration(TypedDict):
    """What the simulated repetitions of the design of one pair say."""

    dataset: str
    a: str
    b: str
    designs: int
    n_star: float | None
    rows: list[Repetitions]
    chains_needed: int | None
    """The smallest number of chains whose power is at least POWER, at the lower 95% limit of the simulation."""
    note: str
