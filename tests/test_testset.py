"""Claims about what a finite set of test images adds: wider intervals, McNemar's test, errors by class, zeros."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from crossover.analysis.runs import Method
from crossover.analysis.testset import class_table, of_difference, sampling
from crossover.analysis.verdict import analyse
from tests.curves import falling, only_pair, study_notes, table


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
    cov = of_difference(images, [65536.0], [65536.0])
    assert cov is not None
    assert cov[0, 0] == pytest.approx(added)
