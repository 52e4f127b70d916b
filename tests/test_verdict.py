import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from crossover.analysis import robustness
from crossover.analysis.band import band, confidence_set, infer, root, root_probabilities, verdict
from crossover.analysis.estimate import estimate, for_new_images, trend, without_replicates
from crossover.analysis.robustness import stability_table
from crossover.analysis.runs import AnalysisError, Method, ordered_pairs, primary_runs, read_curves, validate_runs
from crossover.analysis.sentences import images, summarise
from crossover.analysis.testset import class_table, sampling
from crossover.analysis.verdict import analyse, curve_summary

SIZES = (256, 1024, 4096, 16384, 65536)
Curve = Callable[[float], float]


def falling(n_star: float, slope: float = 0.25) -> Curve:
    """A log error ratio that is zero at n_star."""
    return lambda n: -slope * np.log(n / n_star)


def table(
    gap: Curve,
    *,
    sizes: tuple[int, ...] = SIZES,
    chains: int = 3,
    seeds: int = 1,
    sd: float = 0.02,
    subsets: float = 0.1,
    seed: int = 0,
    models: tuple[str, str] = ("vit_tiny", "resnet_tiny"),
) -> pd.DataFrame:
    """Runs of two models whose log error ratio (first over second) is `gap`, paired by chain."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        base = 0.08 + 0.8 * (n / 100) ** -0.5
        for chain in range(chains):
            shared = subsets * rng.standard_normal()  # of the subset: hits both models, and leaves the difference alone
            for one in range(seeds):
                for model, shift in zip(models, (gap(n), 0.0), strict=True):
                    error = min(0.99, 0.5 * base * np.exp(shift + shared + sd * rng.standard_normal() / np.sqrt(2)))
                    run = f"{model}-{n}-{chain}-{one}"
                    row = {"run_id": run, "dataset": "cues", "model": model, "n_train": n, "chain": chain, "seed": one}
                    rows.append(row | {"budget": "800 steps", "test_error": error, "val_error": error})
    return pd.DataFrame(rows)


def only_pair(
    runs: pd.DataFrame, seed: int = 0, chance: dict[str, float] | None = None, **options: Any
) -> dict[str, Any]:
    (study,) = analyse(runs, Method(seed, **options), chance=chance)["studies"]
    (pair,) = study["pairs"]
    return dict(pair)


def signs(pair: dict[str, Any]) -> list[int]:
    return [1 if row["ci_low"] > 0 else -1 if row["ci_high"] < 0 else 0 for row in pair["gap"]]


# What is found


def test_crossover_is_found_where_it_is() -> None:
    pair = only_pair(table(falling(3000)))
    assert (pair["a"], pair["b"]) == ("resnet_tiny", "vit_tiny")
    assert (pair["n_min"], pair["n_max"], pair["chains"]) == (256, 65536, 3)
    assert pair["verdict"] == "crossover"
    assert pair["direction"] == "b_overtakes_a"
    assert pair["n_star"] == pytest.approx(3000, rel=0.15)
    assert 2000 < pair["ci_low"] < 3000 < pair["ci_high"] < 4500
    assert pair["p_in_range"] > 0.99
    assert pair["summary"].startswith("vit_tiny overtakes resnet_tiny at N* = 3")


def test_gap_is_log_err_b_minus_log_err_a_and_positive_where_a_is_better() -> None:
    gap = only_pair(table(falling(3000), sd=1e-6))["gap"]
    assert [row["log_error_ratio"] for row in gap] == pytest.approx([falling(3000)(n) for n in SIZES], abs=1e-4)
    assert gap[0]["accuracy_gap"] > 0 > gap[-1]["accuracy_gap"]


def test_root_of_a_straight_line_is_exact() -> None:
    pair = only_pair(table(falling(3000), sd=0.0))
    assert pair["n_star"] == pytest.approx(3000, rel=1e-6)
    assert pair["ci_low"] == pytest.approx(3000, rel=1e-4)


def test_parallel_curves_are_no_crossover() -> None:
    pair = only_pair(table(lambda n: 0.2))
    assert pair["verdict"] == "a_better"
    assert pair["n_star"] is None
    assert (pair["ci_low"], pair["ci_high"]) == (65536, None)
    assert pair["p_beyond"] > 0.99
    assert pair["summary"] == (
        "resnet_tiny leads vit_tiny throughout, from 256 to 65,536 images; N* > 65,536 or never (95% band from 3"
        " chains). Whether more training would change it was not checked."
    )


def test_b_ahead_everywhere_means_n_star_is_before() -> None:
    pair = only_pair(table(lambda n: -0.2))
    assert pair["verdict"] == "b_better"
    assert (pair["ci_low"], pair["ci_high"]) == (None, 256)
    assert pair["p_before"] > 0.99


def test_a_may_overtake_b() -> None:
    pair = only_pair(table(lambda n: -falling(3000)(n)))
    assert (pair["verdict"], pair["direction"]) == ("crossover", "a_overtakes_b")
    assert pair["n_star"] == pytest.approx(3000, rel=0.15)
    assert pair["summary"].startswith("resnet_tiny overtakes vit_tiny")


def test_probabilities_are_about_b_overtaking_a_unless_a_clearly_overtakes_b() -> None:
    pair = only_pair(table(lambda n: 0.1 * np.log(n / 400), sd=0.05))  # a passes b near 400, but not clearly
    assert pair["verdict"] == "a_better"
    assert "N* > 65,536 or never" in pair["summary"]
    assert pair["crossing_of_means"] == pytest.approx(400, rel=0.5)
    assert (pair["p_in_range"] < 0.01, pair["p_beyond"] > 0.99) == (True, True)


def test_two_crossings_are_told_apart() -> None:
    pair = only_pair(table(lambda n: 0.3 * np.cos(np.pi * np.log(n / 256) / np.log(16))))
    assert pair["verdict"] == "several_crossings"
    assert pair["n_star"] is None
    (first_low, first_high), (second_low, second_high) = pair["confidence_set"]
    assert 256 < first_low < 1024 < first_high < 4096 < second_low < 16384 < second_high < 65536


def test_equal_models_are_undecided() -> None:
    pair = only_pair(table(lambda n: 0.0))
    assert pair["verdict"] == "undecided"
    assert pair["confidence_set"] == [[None, None]]


def test_lead_that_is_lost_in_noise_leaves_the_interval_open() -> None:
    pair = only_pair(table(lambda n: max(0.0, falling(4096)(n))))
    assert pair["verdict"] == "undecided"
    assert 1024 < pair["ci_low"] <= 4096
    assert pair["ci_high"] is None


@pytest.mark.parametrize(("clear", "span"), [((1, 1), "from 4,096 to 16,384 images"), ((0, 1), "at 16,384 images")])
def test_lead_that_is_not_clear_everywhere_says_where_it_is(clear: tuple[int, int], span: str) -> None:
    rows = zip((1024, 4096, 16384), (0, *clear), strict=True)
    gap = [{"n_train": n, "ci_low": 0.1 if leads else -0.1, "ci_high": 0.3} for n, leads in rows]
    pair: Any = only_pair(table(falling(3000)))
    pair |= {"a": "cnn", "b": "vit", "verdict": "a_better", "n_min": 1024, "n_max": 16384, "gap": gap}
    said = f"cnn leads vit clearly {span}, but not clearly at every smaller size; N* > 16,384 or never (95% band"
    assert summarise(pair).startswith(said)


def test_two_models_at_chance_first_do_not_open_the_interval() -> None:
    pair = only_pair(table(lambda n: 0.0 if n < 1000 else falling(9000)(n), sd=0.01))
    assert signs(pair) == [0, 1, 1, -1, -1]
    assert 4096 < pair["ci_low"] < pair["n_star"] < pair["ci_high"] < 16384


@pytest.mark.parametrize(
    ("gap", "trend"),
    [
        (lambda n: 0.5 - 0.06 * np.log(n / 256), "closing"),
        (lambda n: 0.2 + 0.06 * np.log(n / 256), "widening"),
        (lambda n: -0.5 + 0.06 * np.log(n / 256), "closing"),
        (lambda n: 0.3, "parallel"),
    ],
)
def test_trend_is_seen_from_the_model_ahead_at_the_largest_size(gap: Curve, trend: str) -> None:
    pair = only_pair(table(gap))
    assert pair["trend"] == trend
    truth = (gap(65536) - gap(256)) / np.log(256)
    assert pair["trend_low"] < truth < pair["trend_high"]


def test_trend_of_noisy_curves_is_undecided() -> None:
    assert only_pair(table(lambda n: 0.3, sd=0.3))["trend"] == "undecided"


def test_data_equivalence_is_the_factor_of_images_b_needs() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for model, times in (("resnet", 1), ("vit", 6)):  # the ViT needs six times the images
        for chain in range(3):
            for n in SIZES:
                error = 5 * (n / times) ** -0.5 * np.exp(0.01 * rng.standard_normal())
                row = {"dataset": "d", "model": model, "n_train": n, "chain": chain, "seed": 0, "budget": "x"}
                rows.append(row | {"run_id": f"{model}{n}{chain}", "test_error": min(error, 0.99)})
    found = only_pair(pd.DataFrame(rows))["data_equivalence"]
    for row in found[1:3]:
        assert row["factor"] == pytest.approx(6, rel=0.1)
        assert row["ci_low"] < 6 < row["ci_high"]
    assert found[4]["factor"] is None  # no ViT is as good as the best ResNet
    assert found[4]["ci_low"] == pytest.approx(1, rel=0.05)
    assert found[4]["ci_high"] is None


def test_published_table_of_cnn_and_vit_on_cifar10() -> None:
    """From trozki213/cnn-vit-cct-comparison: the gap in points closes while the error ratio grows; x6 images at 5k."""
    accuracy = {
        "cnn_5m": (79.8, 88.6, 92.2, 93.9, 94.9),
        "vit_5m": (54.4, 68.3, 77.5, 82.4, 85.8),
        "cnn_076m": (77.4, 83.4, 87.1, 88.3, 89.3),
        "cct_073m": (68.1, 79.2, 84.9, 87.6, 89.7),
    }
    sizes = (5000, 12500, 25000, 37500, 50000)
    rows = [
        {"run_id": f"{m}{n}", "dataset": "cifar10", "model": m, "n_train": n, "test_error": 1 - points / 100}
        for m, line in accuracy.items()
        for n, points in zip(sizes, line, strict=True)
    ]
    runs = pd.DataFrame(rows).assign(chain=0, seed=0, budget="150 epochs")
    (study,) = analyse(runs, Method(seed=0))["studies"]
    pairs = {(pair["a"], pair["b"]): pair for pair in study["pairs"]}
    large, small = pairs["cnn_5m", "vit_5m"], pairs["cnn_076m", "cct_073m"]
    assert [large["gap"][i]["accuracy_gap"] for i in (0, -1)] == pytest.approx([0.254, 0.091])
    assert [np.exp(large["gap"][i]["log_error_ratio"]) for i in (0, -1)] == pytest.approx([2.26, 2.79], abs=0.01)
    assert large["data_equivalence"][0]["factor"] == pytest.approx(6, abs=0.1)
    assert large["verdict"] == small["verdict"] == "undecided"  # one replicate says nothing about noise
    assert small["crossing_of_means"] == pytest.approx(44_600, rel=0.02)


def test_all_pairs_of_three_models_the_convolution_first() -> None:
    rows = [table(falling(n), models=("vit_b", other), seed=i) for i, (n, other) in enumerate([(1, "bit"), (2, "mlp")])]
    runs = pd.concat(rows).drop_duplicates(["model", "n_train", "chain"])
    (study,) = analyse(runs, Method(seed=0))["studies"]
    assert [(pair["a"], pair["b"]) for pair in study["pairs"]] == [("bit", "vit_b"), ("vit_b", "mlp"), ("bit", "mlp")]


def test_order_of_bias_is_that_of_the_names() -> None:
    assert ordered_pairs(pd.DataFrame({"model": ["vit", "hybrid_s", "resnet"]})) == [
        ("hybrid_s", "vit"),
        ("resnet", "vit"),
        ("resnet", "hybrid_s"),
    ]
    assert ordered_pairs(pd.DataFrame({"model": ["two", "one"]})) == [("two", "one")]
    named = pd.DataFrame({"model": ["attn", "mine", "other"], "family": ["vit", "resnet", ""]})
    assert ordered_pairs(named) == [("mine", "attn"), ("attn", "other"), ("mine", "other")]


# Intervals


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
        held += bool((np.abs(values.mean) <= bounds.half_at_knots).all())
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


# Test images and seeds


def with_predictions(runs: pd.DataFrame, images: int = 1000, seed: int = 0) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Give runs predictions whose error is theirs; hard images are wrong first, in all models."""
    rng = np.random.default_rng(seed)
    labels, hardness = rng.integers(0, 10, images), rng.random(images)
    predictions = {}
    for row in runs.itertuples():
        wrong = np.argsort(hardness + 0.3 * rng.random(images))[: round(float(row.test_error) * images)]  # type: ignore[arg-type]
        predicted = labels.copy()
        predicted[wrong] = (labels[wrong] + 1) % 10
        predictions[str(row.run_id)] = (labels, predicted)
    errors = [float(np.mean(predictions[str(r)][0] != predictions[str(r)][1])) for r in runs["run_id"]]
    return runs.assign(test_error=errors), predictions


def test_test_images_widen_the_band() -> None:
    runs, predictions = with_predictions(table(falling(3000)), images=500)
    without, more = only_pair(runs), only_pair(runs, predictions=predictions)
    assert more["ci_high"] / more["ci_low"] > 1.1 * without["ci_high"] / without["ci_low"]
    assert more["n_star"] == pytest.approx(without["n_star"], rel=0.05)


def test_mcnemar_of_one_pair_is_the_exact_test() -> None:
    runs, predictions = with_predictions(table(falling(3000), chains=1))
    (first, *_) = only_pair(runs, predictions=predictions)["mcnemar"]
    wrong = {m: predictions[f"{m}-256-0-0"][0] != predictions[f"{m}-256-0-0"][1] for m in ("resnet_tiny", "vit_tiny")}
    only_a = int((wrong["resnet_tiny"] & ~wrong["vit_tiny"]).sum())
    only_b = int((wrong["vit_tiny"] & ~wrong["resnet_tiny"]).sum())
    assert (first["only_a_wrong"], first["only_b_wrong"]) == (only_a, only_b)
    assert first["p_value"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_a_class_without_test_images_has_no_row_and_the_others_keep_their_names() -> None:
    labels = np.array([0, 0, 2, 2])
    runs = table(falling(3000), chains=1)
    predictions = {runs["run_id"].iloc[0]: (labels, np.array([0, 1, 2, 2]))}
    for names, expected in (({runs["dataset"].iloc[0]: ["a", "b", "c", "d"]}, ("a", "c")), ({}, ("0", "2"))):
        classes = class_table(runs, predictions, names)
        assert tuple(classes["class"]) == expected
        assert list(classes["error_mean"]) == [0.5, 0]


def test_mcnemar_says_that_it_leaves_out_the_variance_of_training() -> None:
    runs, predictions = with_predictions(table(falling(3000), chains=2))
    said = "McNemar's tests compare these trained networks: they leave out the variance of training."
    assert said in only_pair(runs, predictions=predictions)["notes"]
    assert said not in only_pair(runs)["notes"]


def test_missing_predictions_are_said() -> None:
    runs, predictions = with_predictions(table(falling(3000)))
    del predictions["vit_tiny-256-0-0"]
    assert any("Predictions are missing" in note for note in only_pair(runs, predictions=predictions)["notes"])


def test_seeds_stand_in_for_chains_and_it_is_said() -> None:
    pair = only_pair(table(falling(3000), chains=1, seeds=4))
    assert pair["verdict"] == "crossover"
    assert pair["chains"] == 4
    assert "variation between seeds, not between training subsets" in pair["notes"][0]


def test_seeds_of_a_chain_are_averaged() -> None:
    pair = only_pair(table(falling(3000), chains=3, seeds=4))
    assert pair["chains"] == 3
    assert pair["verdict"] == "crossover"


# Bad input


def refused(runs: pd.DataFrame, match: str, **options: Any) -> None:
    with pytest.raises(AnalysisError, match=match) as caught:
        analyse(runs, Method(seed=0, **options))
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_analysed_are_refused_in_one_line() -> None:
    runs = table(falling(3000))
    refused(runs.drop(columns=["chain", "budget"]), "lacks chain, budget; it has run_id")
    refused(runs, "lacks top5_error", metric="top5_error")
    refused(runs[:0], "empty: no run is finished yet")
    refused(runs.assign(test_error=100 * runs["test_error"]), "divide percent by 100")
    refused(runs.assign(test_error=-0.1), "must be a fraction")
    refused(runs.assign(test_error=np.inf), "check the values")
    refused(runs.assign(test_error="bad"), "must be a number; got bad")
    refused(runs.assign(test_error=np.nan), "missing in every run")
    refused(runs.assign(test_error=0.0), "every test_error is zero")
    refused(runs.assign(n_train=0), "at least 1")
    refused(runs.assign(model=None), "model is missing in 30 rows")
    refused(pd.concat([runs, runs[:2]]), "4 rows are duplicates, such as model=vit_tiny n_train=256 chain=0")


def study_notes(runs: pd.DataFrame) -> str:
    (study,) = analyse(runs, Method(seed=0))["studies"]
    return " ".join(study["notes"] + [note for pair in study["pairs"] for note in pair["notes"]])


def test_run_without_a_result_is_left_out_and_named() -> None:
    runs = table(falling(3000))
    runs.loc[3, "test_error"] = np.nan
    assert runs["run_id"][3] in study_notes(runs)
    assert "2 at 256" in study_notes(runs)


def test_zero_error_counts_as_half_an_image() -> None:
    runs = table(lambda n: 0.1, sizes=(1024,), sd=0.0)
    runs.loc[runs["model"] == "vit_tiny", "test_error"] = [0.0, 0.001, 0.001]
    assert "half an image" in study_notes(runs.assign(n_test=1000))
    (row,) = only_pair(runs.assign(n_test=1000))["gap"]
    expected = np.log([0.0005, 0.001, 0.001]) - np.log(runs[runs["model"] == "resnet_tiny"]["test_error"])
    assert row["log_error_ratio"] == pytest.approx(expected.mean())


def test_zero_error_is_noted_where_it_is() -> None:
    perfect = table(falling(3000))
    perfect.loc[0, "test_error"] = 0.0
    runs = pd.concat([perfect, table(falling(3000)).assign(dataset="other")]).assign(n_test=1000)
    first, other = analyse(runs, Method(seed=0))["studies"]
    assert [note for note in first["notes"] if f"half an image: {runs['run_id'].iloc[0]}." in note]
    assert not any("half an image" in note for note in other["notes"])


def test_zeros_without_the_number_of_images_are_left_out_with_their_size() -> None:
    runs = table(falling(3000))
    runs.loc[(runs["n_train"] == 65536) & (runs["model"] == "vit_tiny") & (runs["chain"] == 0), "test_error"] = 0.0
    pair = only_pair(runs)
    assert pair["n_max"] == 16384
    assert "left out are vit_tiny at 65,536 on cues" in study_notes(runs)


def test_half_done_sweep_has_a_verdict_or_a_reason() -> None:
    runs = table(falling(3000))
    for seed in range(40):
        part = runs.sample(frac=np.random.default_rng(seed).uniform(0.05, 0.9), random_state=seed)
        result = analyse(part, Method(seed=0))
        json.dumps(result, allow_nan=False)
        for pair in result["studies"][0]["pairs"]:
            assert pair["summary"]
            assert pair["verdict"] in ("crossover", "a_better", "b_better") or pair["notes"] or pair["ci_high"] is None


def test_one_model_or_one_size_or_one_chain_is_said() -> None:
    runs = table(falling(3000))
    alone = analyse(runs[runs["model"] == "vit_tiny"], Method(seed=0))["studies"][0]
    assert alone["pairs"] == []
    assert "Only vit_tiny has finished runs" in alone["notes"][0]
    assert "One size" in study_notes(runs[runs["n_train"] == 256])
    one = only_pair(runs[runs["chain"] == 0])
    assert one["verdict"] == "undecided"
    assert one["gap"][0]["ci_low"] is None
    assert "No replicates" in one["notes"][0]
    assert one["crossing_of_means"] == pytest.approx(3000, rel=0.3)


def test_sizes_of_one_model_alone_are_said() -> None:
    runs = table(falling(3000))
    pair = only_pair(runs[(runs["model"] == "vit_tiny") | (runs["n_train"] < 20000)])
    assert pair["n_max"] == 16384
    assert pair["verdict"] == "crossover"
    assert "Only vit_tiny has runs at 65,536 images" in pair["notes"][0]


def test_models_without_a_common_size_are_interpolated_by_chain() -> None:
    sizes = tuple(256 * 2**i for i in range(9))
    runs = table(falling(3000), sizes=sizes, subsets=0)
    odd = runs["n_train"].map(lambda n: sizes.index(n) % 2 == 1)
    apart = runs[odd == (runs["model"] == "vit_tiny")]
    pair, few = only_pair(apart), only_pair(apart.assign(n_test=300))
    for one, other in zip(pair["data_equivalence"], few["data_equivalence"], strict=True):
        if one["ci_low"] and one["ci_high"] and other["ci_low"] and other["ci_high"]:
            assert other["ci_high"] / other["ci_low"] > one["ci_high"] / one["ci_low"]
    assert few["gap"][2]["ci_high"] - few["gap"][2]["ci_low"] > pair["gap"][2]["ci_high"] - pair["gap"][2]["ci_low"]
    assert pair["verdict"] == "crossover"
    assert pair["n_star"] == pytest.approx(3000, rel=0.3)
    assert any("interpolated linearly" in note for note in pair["notes"])


def test_models_without_a_common_chain_are_compared_without_pairs() -> None:
    runs = table(falling(3000))
    runs["chain"] = runs["chain"].astype(str).str.replace(r"^", "of ", regex=True) + runs["model"]
    paired, pair = only_pair(table(falling(3000))), only_pair(runs)
    assert (pair["interval"], pair["verdict"]) == ("unpaired", "crossover")
    assert "not paired" in pair["summary"]
    assert pair["n_star"] == pytest.approx(paired["n_star"], rel=0.05)
    wide, narrow = (p["ci_high"] / p["ci_low"] for p in (pair, paired))
    assert wide > narrow  # the subsets no longer cancel
    assert any("share no chain" in note for note in pair["notes"])
    assert not any("Only" in note for note in pair["notes"])


def test_other_budgets_are_left_to_the_stability_table() -> None:
    short, long = table(falling(3000)), table(lambda n: 0.2, seed=1).assign(budget="1600 steps")
    both = pd.concat([short, long.assign(run_id=long["run_id"] + "-long")])
    assert only_pair(both)["n_star"] == only_pair(short)["n_star"]
    assert "30 runs of another budget than 800 steps count only in the stability table and" in study_notes(both)
    both = both.assign(last_val_error=both["val_error"])
    rows = stability_table(both, Method(seed=0)).set_index(["choice", "value"])
    assert rows.loc[("as analysed", "test_error"), "verdict"] == "crossover"
    assert rows.loc[("budget", "1600 steps"), "verdict"] == "a_better"
    assert rows.loc[("budget", "1600 steps"), "change"] == "contradicts"
    assert rows.loc[("metric", "val_error"), "change"] == "same"
    assert rows.loc[("selection", "last_val_error"), "change"] == "same"
    assert {("size left out", "4,096"), ("chain left out", "2")} <= set(rows.index)


def test_alternatives_are_prepared_once_however_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time would grow with the square of the models."""
    prepared: list[int] = []

    def counted(runs: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
        prepared.append(len(runs))
        return validate_runs(runs, metric)

    monkeypatch.setattr(robustness, "validate_runs", counted)
    counts = {}
    for models in (2, 4):
        parts = [table(falling(3000), models=(f"vit{i}", f"resnet{i}"), sizes=(256, 4096)) for i in range(models // 2)]
        rows = stability_table(pd.concat(parts), Method(seed=0))
        counts[rows.groupby(["a", "b"]).ngroups] = len(prepared)
        prepared.clear()
    assert counts == {1: 5, 6: 5}, "the main analysis, val_error, and each of three chains left out"


def test_nothing_is_unstable_where_there_is_no_verdict() -> None:
    runs = table(falling(3000), chains=1)
    assert stability_table(runs, Method(seed=0)).empty


def test_each_model_keeps_its_own_recipe() -> None:
    runs = table(falling(3000))
    runs["recipe"] = "adamw_" + runs["model"]
    kept, notes, chosen = primary_runs(runs)
    assert len(kept) == len(runs)
    assert notes == []
    assert chosen["recipe"] == {"vit_tiny": "adamw_vit_tiny", "resnet_tiny": "adamw_resnet_tiny"}


# Curves for figures, and curves from elsewhere


def test_curve_summary_is_the_mean_and_its_interval() -> None:
    runs = table(lambda n: 0.1, chains=4)
    summary = curve_summary(runs, Method(seed=0))
    row = summary[(summary["model"] == "vit_tiny") & (summary["n_train"] == 1024)].iloc[0]
    known = runs[(runs["model"] == "vit_tiny") & (runs["n_train"] == 1024)]["test_error"]
    assert row["error_mean"] == pytest.approx(np.exp(np.log(known).mean()))  # as the interval is
    assert row["error_low"] * row["error_high"] == pytest.approx(row["error_mean"] ** 2)
    assert row["chains"] == 4
    alone = curve_summary(runs[runs["chain"] == 0], Method(seed=0))
    assert alone["error_low"].isna().all()
    assert alone["error_mean"].notna().all()


def noisy_curve_file(path: Path, gap: Curve, points: int = 60) -> Path:
    """One replicate of each model, at sizes of its own, with 2% noise."""
    rng = np.random.default_rng(1)
    rows = []
    for model, sign in (("vit", 0.5), ("resnet", -0.5)):
        n = np.sort(np.exp(rng.uniform(np.log(1e3), np.log(1e6), points)))
        error = 5 * n**-0.3 * np.exp(sign * np.array([gap(v) for v in n]) + 0.02 * rng.standard_normal(points))
        rows.append(pd.DataFrame({"model": model, "n_train": n.round(), "error": error, "task": "t"}))
    pd.concat(rows).to_csv(path, index=False)
    return path


def test_noisy_unaligned_curves_are_smoothed_first(tmp_path: Path) -> None:
    curves = read_curves(noisy_curve_file(tmp_path / "c.csv", falling(30_000, 0.1)))
    (study,) = analyse(curves, Method(seed=0))["studies"]
    (pair,) = study["pairs"]
    assert study["dataset"] == "t"
    assert pair["verdict"] == "crossover"
    assert (pair["ci_low"] or 0) < 30_000 < (pair["ci_high"] or 0) < 2.5 * (pair["ci_low"] or 0)
    assert "smoothed" in pair["notes"][0]
    parallel = only_pair(read_curves(noisy_curve_file(tmp_path / "p.csv", lambda n: 0.15)))
    assert parallel["verdict"] == "a_better"
    equal = only_pair(read_curves(noisy_curve_file(tmp_path / "e.csv", lambda n: 0.0)))
    assert equal["verdict"] == "undecided"


def test_curve_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("model,error\nvit,0.5\n")
    with pytest.raises(AnalysisError, match="lacks the column n_train; it has model, error"):
        read_curves(path)
    path.write_text("model,n_train,error\nvit,10,50\n")
    with pytest.raises(AnalysisError, match=r"curves\.csv: error must be a fraction .* divide percent by 100"):
        read_curves(path)
    path.write_text("model,n_train,error\n")
    with pytest.raises(AnalysisError, match="has a header but no rows"):
        read_curves(path)
    path.write_text("model,n_train,error\nvit,10,0.5\nvit,10,0.4\n")
    with pytest.raises(AnalysisError, match="2 rows are duplicates"):
        read_curves(path)
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        read_curves(tmp_path / "none.csv")
    path.write_text("")
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        read_curves(path)


def test_numbers_of_images_are_short() -> None:
    assert [images(n) for n in (12.4, 730, 2130, 45_000, 999_700, 1.31e6, 1.2e9)] == [
        *("12", "730", "2.1k", "45k", "1M", "1.3M", "1.2G")
    ]


# Where it is hard


def known_values(rows: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Runs of models by (chain, size) of errors, at 256, 1024, 4096..."""
    return pd.DataFrame(
        [
            {"run_id": f"{m}{k}{j}", "dataset": "d", "model": m, "n_train": 256 * 4**j, "chain": k, "seed": 0}
            | {"budget": "x", "test_error": error}
            for m, chains in rows.items()
            for k, errors in enumerate(chains)
            for j, error in enumerate(errors)
        ]
    )


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


def test_number_of_test_images_widens_every_interval_and_is_asked_for() -> None:
    runs = table(falling(3000))
    without, few = only_pair(runs), only_pair(runs.assign(n_test=4000))
    assert few["ci_high"] / few["ci_low"] > 1.3 * without["ci_high"] / without["ci_low"]
    wide, narrow = (p["data_equivalence"][2]["ci_high"] / p["data_equivalence"][2]["ci_low"] for p in (few, without))
    assert wide > 1.2 * narrow
    assert any("column n_test" in note for note in without["notes"])
    assert any("binomial" in note for note in few["notes"])
    errors = runs[runs["n_train"] == 65536].groupby("model")["test_error"].mean()
    added = sum((1 - e) / (e * 4000) for e in errors)
    counted = runs.assign(n_test=4000)
    one, other = (counted[counted["model"] == model] for model in errors.index)
    images, _ = sampling(one, other, Method(seed=0))
    cov = images.of([65536.0], [65536.0])
    assert cov is not None
    assert cov[0, 0] == pytest.approx(added)


def test_chains_of_one_pool_are_marked_and_a_wider_verdict_is_offered() -> None:
    runs = table(falling(3000, 0.1), sd=0.03)
    pair = only_pair(runs.assign(n_pool=80_000))
    assert pair["overlapping"] == [16384, 65536]
    assert pair["ci_high"] == only_pair(runs)["ci_high"]
    assert pair["new_images"]["verdict"] in ("crossover", "undecided", "a_better")
    high = pair["new_images"]["ci_high"]
    assert high is None or high > pair["ci_high"]
    whole = only_pair(runs.assign(n_pool=65_536))
    assert whole["new_images"]["n_max"] == 16384  # at the pool's size nothing is known of other images
    assert "one pool of 80,000 images" in study_notes(runs.assign(n_pool=80_000))


def test_variance_for_new_images_counts_the_shared_ones() -> None:
    """A part f of the variance is common to all chains: their spread shows 1 - f of it, their mean keeps all of f."""
    rng, f, chains = np.random.default_rng(0), 0.5, 5
    means, stated = [], []
    for _ in range(2000):
        values = np.sqrt(f) * rng.standard_normal((1, 2)) + np.sqrt(1 - f) * rng.standard_normal((chains, 2))
        found = estimate(np.array([100.0, 1000.0]), values)
        wider = for_new_images(found, np.array([f, f]))
        assert wider is not None
        means.append(wider.mean)
        stated.append(np.diag(wider.cov))
    assert np.mean(stated) >= np.var(means)
    assert np.mean(stated) < 1.5 * np.var(means)


def test_eight_equal_models_have_no_leader_among_28_pairs() -> None:
    holds = alone = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        errors = {f"m{i}": (0.3 * np.exp(0.1 * rng.standard_normal((4, 3)))).tolist() for i in range(8)}
        (study,) = analyse(known_values(errors), Method(seed=0))["studies"]
        assert {pair["family"]["pairs"] for pair in study["pairs"]} == {28}
        clear = [pair for pair in study["pairs"] if pair["verdict"] != "undecided"]
        alone += len(clear) > 0
        holds += any(pair["family"]["holds"] for pair in clear)
        assert all("among the 28 pairs" in p["summary"] for p in clear if not p["family"]["holds"])
    assert alone >= 2  # single pairs find leaders where there is none
    assert holds <= 1


def test_a_real_crossover_holds_among_many_pairs() -> None:
    models = [table(falling(3000), models=("vit_tiny", f"m{i}"), seed=i, sd=0.005, subsets=0.02) for i in range(5)]
    runs = pd.concat(models).drop_duplicates(["model", "n_train", "chain"])
    (study,) = analyse(runs, Method(seed=0))["studies"]
    assert len(study["pairs"]) == 15
    real = [pair for pair in study["pairs"] if "vit_tiny" in (pair["a"], pair["b"]) and pair["verdict"] == "crossover"]
    assert real
    assert all(pair["family"]["holds"] for pair in real)


def test_one_more_model_changes_no_other_interval() -> None:
    runs = table(falling(3000))
    more = runs[runs["model"] == "vit_tiny"].assign(model="other", test_error=lambda t: 1.1 * t["test_error"])
    more["run_id"] = "x" + more["run_id"]
    (study,) = analyse(pd.concat([more, runs]), Method(seed=0))["studies"]
    alone = only_pair(runs)
    same = next(pair for pair in study["pairs"] if {pair["a"], pair["b"]} == {"resnet_tiny", "vit_tiny"})
    assert (same["ci_low"], same["ci_high"], same["gap"]) == (alone["ci_low"], alone["ci_high"], alone["gap"])
    rows = stability_table(runs, Method(seed=0))
    first = rows[rows["choice"] == "as analysed"].iloc[0]
    assert (first["ci_low"], first["ci_high"]) == (alone["ci_low"], alone["ci_high"])


def test_a_run_that_stands_out_is_named_with_what_it_does() -> None:
    runs = table(falling(3000))
    bad = (runs["n_train"] == 4096) & (runs["model"] == "vit_tiny") & (runs["chain"] == 1)
    pair = only_pair(runs.assign(test_error=runs["test_error"].mask(bad, 0.9)))
    assert [run["run_id"] for run in pair["influential"]] == ["vit_tiny-4096-1-0"]
    assert pair["influential"][0]["verdict_without"] == "crossover"
    assert any("vit_tiny-4096-1-0" in note and "without it" in note for note in pair["notes"])
    assert only_pair(runs)["influential"] == []


def test_near_chance_is_said() -> None:
    runs = table(lambda n: 0.1, sd=0.001)
    runs["test_error"] = 0.78 + 0.1 * runs["test_error"]
    pair = only_pair(runs, chance={"cues": 0.9})
    assert len(pair["near_chance"]) == 5
    assert "near chance throughout (guessing: 90% error)" in pair["summary"]
    assert only_pair(table(falling(3000)), chance={"cues": 0.9})["near_chance"] == []


# Names, columns and units of others


def write_curves(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_model_names_are_text_of_one_spelling(tmp_path: Path) -> None:
    rows = [
        f"{m},{n},{e}" for m, e in (("18", 0.3), ("050", 0.4), ("e\u0301 ", 0.5), ("\u00e9", 0.45)) for n in (10, 20)
    ]
    curves = read_curves(write_curves(tmp_path / "c.csv", ["model,n_train,error", *rows[:5], *rows[7:]]))
    assert list(dict.fromkeys(curves["model"])) == ["18", "050", "\u00e9"]
    missing = read_curves(write_curves(tmp_path / "n.csv", ["model,n_train,error", "NA,10,0.3", "None,10,0.4"]))
    assert list(missing["model"]) == ["NA", "None"]


def test_numbered_models_share_their_chains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{m},{n},{0.5 * n**-0.1 * s * np.exp(0.01 * rng.standard_normal())},{k}"
        for m, s in ((18, 1), (50, 0.8))
        for n in (10, 100, 1000)
        for k in range(3)
    ]
    pair = only_pair(read_curves(write_curves(tmp_path / "c.csv", ["model,n_train,error,chain", *rows])))
    assert (pair["a"], pair["b"], pair["verdict"], pair["interval"]) == ("18", "50", "b_better", "chains")


def test_columns_under_other_names_are_understood_or_named(tmp_path: Path) -> None:
    other = write_curves(
        tmp_path / "o.csv", ["model,n_train,test_error,dataset", "a,10,0.5,x", "b,10,0.4,x", "a,10,0.3,y", "b,10,0.2,y"]
    )
    assert list(dict.fromkeys(read_curves(other)["dataset"])) == ["x", "y"]
    one = write_curves(tmp_path / "one.csv", ["model,n_train,error", "a,10,1.0000001", "b,10,0.5"])
    assert read_curves(one)["test_error"].max() == pytest.approx(1)
    with pytest.raises(AnalysisError, match=r"rows with more fields than its header; save it with commas"):
        read_curves(write_curves(tmp_path / "s.csv", ["model;n_train;error", "a;10;0,5"]))


def test_accuracy_given_as_error_is_suspected() -> None:
    runs = table(falling(3000))
    assert "is it an accuracy?" in study_notes(runs.assign(test_error=1 - runs["test_error"]))
    assert "is it an accuracy?" not in study_notes(runs)


def test_names_that_look_alike_are_the_same_and_a_comma_at_the_end_of_rows_is_no_column(tmp_path: Path) -> None:
    rows = ["resnet,10,0.4,", "re\u200bsnet,20,0.3,", "\u202eresnet\t,40,0.2,", "v\x00it,10,0.5,"]
    curves = read_curves(write_curves(tmp_path / "c.csv", ["\ufeffmodel, n_train,error", *rows]))
    assert curves["model"].tolist() == ["resnet"] * 3 + ["vit"]
    assert curves["n_train"].tolist() == [10, 20, 40, 10]
    assert curves["test_error"].tolist() == [0.4, 0.3, 0.2, 0.5]
