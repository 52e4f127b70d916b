"""Claims about the comparison with published numbers: inside, outside, or not comparable and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from crossover.cli import resolved
from crossover.config import CrossoverError
from crossover.report.section import markdown_part
from crossover.studies.gold import (
    DIFFERENT,
    NOT,
    UNKNOWN,
    compare_all,
    compare_crossings,
    compare_study,
    gold_page,
    with_curves,
)
from tests.conftest import Called

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gold() -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return with_curves(resolved(compose("gold")), ROOT / "data" / "published")


def runs(accuracy: float, **changes: Any) -> pd.DataFrame:
    """Return three chains of a ViT at the condition of a published one: 6.3M parameters, 200 epochs of CIFAR-10."""
    row: dict[str, Any] = {"dataset": "cifar10", "model": "vit_x", "family": "vit", "n_train": 45_000, "n_test": 10_000}
    row |= {
        "params": 6.3e6,
        "steps": 20_000,
        "images_seen": 1.0e7,
        "test_error": 1 - accuracy,
        "augment": "none",
    } | changes
    return pd.DataFrame([row] * 3)


def outcome(gold: dict[str, Any], table: pd.DataFrame, study: str = "s") -> tuple[str, str]:
    (row,) = compare_study(study, table, gold).to_dict("records")
    return row["outcome"], row["why"]


def test_the_same_condition_is_inside_or_outside_its_margin(gold: dict[str, Any]) -> None:
    assert outcome(gold, runs(0.909 - 0.014)) == ("inside", "")
    assert outcome(gold, runs(0.909 + 0.014)) == ("inside", "")
    assert outcome(gold, runs(0.909 - 0.016)) == ("outside", "")
    assert outcome(gold, runs(0.909, dataset="cifar10_jpeg"))[0] == "inside"


def test_other_conditions_are_not_compared(gold: dict[str, Any]) -> None:
    for changes in ({"images_seen": 2e7}, {"params": 1e5}, {"n_train": 30_000}):
        assert outcome(gold, runs(0.9, **changes)) == (NOT, DIFFERENT)
    unstated: dict[str, Any] = {"dataset": "tiny_imagenet", "n_train": 90_000, "params": 2.8e6}
    assert outcome(gold, runs(0.57, **unstated)) == (NOT, DIFFERENT), "the source does not state its budget"
    for dataset in ("cues", "cifar10_jpeg-patches"):
        assert outcome(gold, runs(0.9, dataset=dataset)) == (NOT, UNKNOWN)


def test_subsets_have_the_wider_margin_and_budgets_in_steps_count(gold: dict[str, Any]) -> None:
    small: dict[str, Any] = {
        "model": "resnet_x",
        "family": "resnet",
        "params": 11.2e6,
        "n_train": 5000,
        "steps": 40_000,
    }
    assert outcome(gold, runs(0.79 - 0.029, **small)) == ("inside", "")
    assert outcome(gold, runs(0.79 - 0.031, **small)) == ("outside", "")


def test_no_model_passes_the_exact_bound(gold: dict[str, Any]) -> None:
    for accuracy, said in ((0.83, "inside"), (0.85, "outside")):
        table = compare_study("cues-local", runs(accuracy, dataset="cues", n_test=5000), gold)
        assert list(table["outcome"]) == ["not comparable", said]


def test_a_published_curve_is_gold_at_each_of_its_sizes_and_for_its_augmentation(gold: dict[str, Any]) -> None:
    small: dict[str, Any] = {"model": "hybrid_x", "family": "hybrid", "params": 0.75e6, "augment": "crop_flip"}
    sizes = {5000: 0.681, 12500: 0.792, 25000: 0.849, 45000: 0.897}
    table = pd.concat(runs(value, **small, n_train=n, images_seen=150 * n) for n, value in sizes.items())
    found = compare_study("s", table, gold)
    assert list(found["n_train"]) == list(sizes)
    assert set(found["outcome"]) == {"inside"}
    plain = compare_study("s", table.assign(augment="none"), gold)
    assert "outside" in set(plain["outcome"])
    assert set(plain["source"]) == {"trozki_cifar10: cct_small"}
    (short,) = compare_study("s", table.assign(images_seen=50 * table["n_train"]), gold).to_dict("records")
    assert short["outcome"] == NOT
    (other,) = compare_study("s", table.assign(augment="randaugment"), gold).to_dict("records")
    assert other["outcome"] == NOT


def test_a_crossing_is_inside_its_range_or_outside() -> None:
    places = {"set": "s", "task": "t", "a": "resnet", "source": "Someone 2031"}
    atlas = pd.DataFrame(
        [
            {**places, "b": "vit", "n_star": 1000.0, "crossing_of_means": 2000.0, "log_ratio_n_max": -0.2},
            {**places, "b": "deit", "n_star": np.nan, "crossing_of_means": np.nan, "log_ratio_n_max": 0.2},
        ]
    )

    def outcomes(**pairs: Any) -> list[str]:
        return list(compare_crossings(atlas, [{"set": "s", "task": "t", **pairs}])["outcome"])

    assert outcomes(n_star=[["resnet", "vit", 900, 1100]], none=[["resnet", "deit"]]) == ["inside", "inside"]
    assert outcomes(n_star=[["resnet", "vit", 1100, 1200]], means=[["resnet", "vit", 1900, 2100]]) == [
        "outside",
        "inside",
    ]
    assert outcomes(n_star=[["resnet", "deit", 1, 1e9]], none=[["resnet", "vit"]]) == ["outside", "outside"]
    with pytest.raises(CrossoverError, match="the atlas has no resnet and swin on t of s; make atlas"):
        outcomes(none=[["resnet", "swin"]])


def test_what_is_published_is_what_is_comparable_and_how_much_is_not(gold: dict[str, Any]) -> None:
    published = pd.read_csv(ROOT / "results" / "gold.csv")
    again = compare_all(ROOT / "results", gold)
    crossings = compare_crossings(pd.read_csv(ROOT / gold["atlas"]), gold["crossings"])
    same = again[again["outcome"] != NOT].reset_index(drop=True)
    assert [*same["outcome"], *crossings["outcome"]] == list(published["outcome"])
    of_studies = published[published["study"] != "atlas"]
    pd.testing.assert_series_equal(same["accuracy"], of_studies["accuracy"], atol=1e-4)
    assert list(crossings["found"]) == list(published["found"].dropna())
    page = gold_page(again, crossings)
    assert f"{len(again) - len(same)} models of a study and data set are not" in page.sentences[0]
    assert "\n".join(markdown_part(page, 1)) == (ROOT / "results" / "gold.md").read_text()


def test_no_studies_is_one_line(tmp_path: Path, call: Called) -> None:
    done = call("study.py", "gold", f"results={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} has no study; make publish writes one\n"
