"""Claims about verdicts: crossovers and leads along curves whose answer is known, and what is said of them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.runs import Method, ordered_pairs
from crossover.analysis.sentences import summarise
from crossover.analysis.verdict import analyse
from tests.curves import SIZES, Curve, falling, only_pair, table


def signs(pair: dict[str, Any]) -> list[int]:
    return [1 if row["ci_low"] > 0 else -1 if row["ci_high"] < 0 else 0 for row in pair["gap"]]


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


def test_undecided_says_where_the_lead_is_clear_and_who_is_ahead_in_the_end() -> None:
    pair = only_pair(table(lambda n: 0.3 if n < 2000 else -0.005))
    assert pair["verdict"] == "undecided"
    lead = (
        "Undecided: resnet_tiny leads clearly up to 1,024 images; at 65,536 vit_tiny is ahead, but not clearly; N* > "
    )
    assert pair["summary"].startswith(lead)


@pytest.mark.parametrize(
    ("signs", "last", "said"),
    [
        ([1, 1, 0], -0.1, "cnn leads clearly up to 2,000 images; at 4,000 vit is ahead, but not clearly; N* > 3k or"),
        ([1, 0, 0], 0.1, "cnn leads clearly at 1,000 images; at 4,000 cnn is ahead, but not clearly; N* > 3k or"),
        ([0, 1, 1, 0], 0.0, "cnn leads clearly from 2,000 to 3,000 images; at 4,000 they are equal; N* > 3k or"),
        ([1, 0, 1, 0], 0.1, "cnn leads clearly at some sizes from 1,000 to 3,000 images; at 4,000 cnn is ahead,"),
        ([0, -1, 0], 0.1, "vit leads clearly at 2,000 images; at 4,000 cnn is ahead, but not clearly; if vit overtook"),
    ],
)
def test_undecided_says_at_which_sizes_a_lead_is_clear(signs: list[int], last: float, said: str) -> None:
    ratios = [*(0.2 * sign for sign in signs[:-1]), last]
    sizes = [*range(1000, 1000 * len(signs), 1000), 4000]
    gap = [
        {"n_train": n, "log_error_ratio": ratio, "ci_low": (sign or -1) * 0.2 - 0.1, "ci_high": (sign or 1) * 0.2 + 0.1}
        for n, sign, ratio in zip(sizes, signs, ratios, strict=True)
    ]
    ends = {"ci_low": 3000, "ci_high": None} if max(signs) > 0 else {"ci_low": None, "ci_high": 2000}
    pair: Any = only_pair(table(falling(3000)))
    pair |= {"a": "cnn", "b": "vit", "verdict": "undecided", "n_min": 1000, "n_max": 4000, "gap": gap} | ends
    assert summarise(pair).startswith(f"Undecided: {said}")


def test_undecided_everywhere_says_where_the_means_cross() -> None:
    pair: Any = only_pair(table(lambda n: 0.02 * np.log(3000 / n), sd=0.5))
    assert pair["verdict"] == "undecided"
    assert "resnet_tiny and vit_tiny cannot be told apart from 256 to 65,536 images" in pair["summary"]
    pair["crossing_of_means"] = 3000.0
    assert " images (their means cross near 3k)." in summarise(pair)
    pair["crossing_of_means"] = None
    assert " 65,536 images. " in summarise(pair)


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


def test_near_chance_is_said() -> None:
    runs = table(lambda n: 0.1, sd=0.001)
    runs["test_error"] = 0.78 + 0.1 * runs["test_error"]
    pair: Any = only_pair(runs, chance={"cues": 0.9})
    assert len(pair["near_chance"]) == 5
    assert "near chance throughout (guessing: 90% error)" in pair["summary"]
    assert "(guessing: 99.5% error)" in summarise(pair, chance=0.995)
    assert only_pair(table(falling(3000)), chance={"cues": 0.9})["near_chance"] == []
