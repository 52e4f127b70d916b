"""Claims about the band of the gap and the confidence set of N*."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from crossover.analysis.band import band, confidence_set, infer, root, root_probabilities, verdict
from crossover.analysis.estimate import estimate, trend, without_replicates
from crossover.analysis.runs import AnalysisError, read_curves
from tests.curves import SIZES, falling, known_values, noisy_curve_file, only_pair, table


def test_band_at_one_size_is_the_t_interval() -> None:
    runs = table(lambda n: 0.1, sizes=(1024,), chains=6)
    logs = np.log(runs.pivot_table(index="chain", columns="model", values="test_error"))
    known = stats.ttest_1samp(logs["vit_tiny"] - logs["resnet_tiny"], 0).confidence_interval(0.95)
    (row,) = only_pair(runs)["gap"]
    middle = row["log_error_ratio"]
    assert row["ci_high"] - middle == pytest.approx(known.high - middle, rel=0.05)
    assert middle - row["ci_low"] == pytest.approx(middle - known.low, rel=0.05)


def test_variances_that_agree_are_pooled_and_those_that_differ_are_not() -> None:
    pattern = np.array([[1.0], [-1.0], [0.0]])
    n = np.geomspace(100, 1e5, 4)
    alike = estimate(n, pattern * [0.1, -0.1, 0.1, -0.1])
    differing = estimate(n, pattern * [0.001, -1.0, 0.002, -2.0])
    assert np.sqrt(3) * alike.se == pytest.approx(0.1, rel=1e-6)
    assert alike.df == pytest.approx(2 * 4)
    assert differing.df < 4
    assert differing.se[3] > 10 * differing.se[0]


def test_sizes_that_move_together_give_fewer_degrees_of_freedom() -> None:
    rng = np.random.default_rng(0)
    n, freedom = np.geomspace(100, 1e5, 6), []
    for own in (0.1, 1.0):
        drawn = [rng.standard_normal((3, 1)) * (1 - own) + own * rng.standard_normal((3, 6)) for _ in range(50)]
        freedom.append(np.median([estimate(n, values).df for values in drawn]))
    assert 2 <= freedom[0] < 3
    assert freedom[1] > 6  # 12 if the variances were known to be equal


def test_band_covers_all_sizes_at_once() -> None:
    rng, held, apart = np.random.default_rng(0), 0, 0
    for _ in range(400):
        values = estimate(np.array(SIZES, float), rng.standard_normal((5, 5)))
        bounds, _ = infer(values, 0.95, rng)
        held += bool((np.abs(values.mean) <= bounds.critical * values.se).all())
        apart += bool((np.abs(values.mean) <= stats.t.ppf(0.975, values.df) * values.se).all())
    assert held / 400 >= 0.92
    assert apart / 400 < 0.85  # what intervals for one size at a time would hold


def test_eight_chains_are_resampled_whole() -> None:
    n = np.geomspace(100, 1e5, 4)
    values = estimate(n, np.random.default_rng(0).standard_normal((8, 1)) * np.ones(4) + 0.0)
    drawn = values.deviations(np.random.default_rng(1), 500)
    assert np.ptp(drawn, axis=1).max() < 1e-9  # sizes that move together in every chain do so in every draw
    assert len(np.unique(drawn[:, 0])) > 100


def test_confidence_widens_the_interval() -> None:
    runs = table(falling(3000))
    narrow, wide = (only_pair(runs, confidence=c) for c in (0.8, 0.99))
    assert wide["ci_low"] < narrow["ci_low"] < narrow["ci_high"] < wide["ci_high"]
    assert "80% CI" in narrow["summary"]
    with pytest.raises(AnalysisError, match=r"confidence must be in \[0\.5, 1\); got 95"):
        only_pair(runs, confidence=95)


def test_same_seed_same_interval_and_global_random_state_untouched() -> None:
    np.random.seed(5)  # noqa: NPY002
    untouched = np.random.rand(3).tolist()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    runs = table(falling(3000))
    first, second = (json.dumps(only_pair(runs, 7)) for _ in range(2))
    assert first == second
    assert np.random.rand(3).tolist() == untouched  # noqa: NPY002


def test_probabilities_of_the_root_are_those_of_isotonic_fits() -> None:
    rng = np.random.default_rng(0)
    values = estimate(np.array(SIZES, float), np.linspace(0.1, -0.06, 5) + 0.1 * rng.standard_normal((4, 5)))
    draws = values.mean + values.deviations(np.random.default_rng(3))
    fits = [optimize.isotonic_regression(d, weights=1 / values.se**2, increasing=False).x for d in draws[:800]]
    before, inside, beyond = root_probabilities(values, True, np.random.default_rng(3))
    assert np.mean([fit[0] < 0 for fit in fits]) == pytest.approx(before, abs=0.03)
    assert np.mean([fit[-1] > 0 for fit in fits]) == pytest.approx(beyond, abs=0.03)
    assert before + inside + beyond == pytest.approx(1)


def test_root_pools_sizes_that_disagree_with_a_fall() -> None:
    values = without_replicates(np.exp([0.0, 1, 2, 3]), np.array([1.0, -0.5, 0.5, -1.0]))
    assert root(values, falling=True) == pytest.approx(np.exp(1.5))  # 0, 0 in the middle: a symmetric plateau


def test_means_cross_where_a_gap_closes_that_widened_before() -> None:
    n = np.geomspace(1e3, 1e6, 4)
    widening = np.array([0.01, 0.1, 0.3, -0.1])
    assert 1e5 < (root(without_replicates(n, widening), None) or 0) < 1e6
    assert 1e5 < (root(without_replicates(n, -widening), None) or 0) < 1e6
    assert root(without_replicates(n, abs(widening)), None) is None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ([1, 1, 0], "undecided"),
        ([0, 1, 1], "a_better"),
        ([0, 0, -1], "b_better"),
        ([1, 0, -1], "crossover"),
        ([-1, 0, 1], "crossover"),
        ([1, -1, 1], "several_crossings"),
        ([0, 0, 0], "undecided"),
    ],
)
def test_verdict_of_a_pattern_of_signs(pattern: list[int], expected: str) -> None:
    assert verdict(np.array(pattern, float)) == expected


def test_confidence_set_is_where_the_band_holds_zero() -> None:
    n = np.exp([0.0, 1, 2, 3])
    values = without_replicates(n, np.array([3.0, 1, -1, -3]))
    ((low, high),) = confidence_set(band(values, 0.5))
    assert low is not None
    assert high is not None
    # the centre is 3 - 2x; the half width 0.5 sqrt((1-u)^2 + u^2) between sizes
    for edge in (np.log(low), np.log(high)):
        half = 0.5 * np.hypot(edge - 1, 2 - edge)
        assert abs(3 - 2 * edge) == pytest.approx(half, rel=0.02)


def test_exact_ties_at_small_sizes_do_not_make_a_widening_gap_parallel() -> None:
    base = np.array([[1.0, 1.0, 0.8, 0.6, 0.5], [1.0, 1.0, 0.81, 0.59, 0.5], [1.0, 1.0, 0.79, 0.61, 0.49]])
    better = (
        base * np.exp([0, 0, -0.22, -0.39, -0.61]) * np.exp(0.01 * np.random.default_rng(0).standard_normal((3, 5)))
    )
    better[:, :2] = 1.0
    pair = only_pair(known_values({"resnet": base.tolist(), "vit": better.tolist()}))
    assert pair["trend"] == "widening"
    assert pair["trend_high"] < -0.05


def test_a_gap_that_swings_is_not_parallel() -> None:
    assert only_pair(table(lambda n: 0.1 * np.cos(np.log(n / 256)), sd=0.005))["trend"] != "parallel"
    assert only_pair(table(lambda n: 0.2, sd=0.005))["trend"] == "parallel"


def test_trend_interval_is_the_t_interval_of_the_slopes_of_the_chains() -> None:
    rng = np.random.default_rng(0)
    n = np.array(SIZES, float)
    values = 0.1 * rng.standard_normal((4, 1)) * np.log(n / 4096) + 0.02 * rng.standard_normal((4, 5))
    slopes = [np.polyfit(np.log(n), row, 1)[0] for row in values]
    known = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    measured = estimate(n, values)
    assert trend(measured, 0.95)[1:] == pytest.approx((known.low, known.high))


def test_a_change_between_two_sizes_may_lie_anywhere_between_them() -> None:
    pair = only_pair(table(lambda n: 0.3 if n < 4000 else -0.3, sd=1e-4))
    assert pair["ci_low"] == pytest.approx(1024, rel=0.1)
    assert pair["ci_high"] == pytest.approx(4096, rel=0.1)
    straight = only_pair(table(falling(3000), sd=1e-4))
    assert straight["ci_high"] / straight["ci_low"] < 1.01


def test_the_band_never_trusts_a_size_more_than_its_own_spread() -> None:
    values = np.array([[0.1, 0.1, 0.5, 0.1], [-0.1, -0.1, -0.5, -0.1], [0.0, 0.0, 0.0, 0.0]])
    found = estimate(np.geomspace(100, 1e5, 4), values)
    assert np.sqrt(3) * found.se[2] >= 0.5 - 1e-9


def test_two_chains_and_smoothed_curves_say_what_their_interval_is(tmp_path: Path) -> None:
    two = only_pair(table(falling(3000), chains=2, sd=0.01))
    assert two["verdict"] == "crossover"
    assert "95% CI from only 2 chains" in two["summary"]
    smooth_one = only_pair(read_curves(noisy_curve_file(tmp_path / "c.csv", falling(30_000, 0.1))))
    assert smooth_one["interval"] == "roughness"
    assert "from the roughness of single curves, not from repeated training" in smooth_one["summary"]
