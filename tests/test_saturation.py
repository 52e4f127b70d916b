from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir

from crossover.analysis.contract import Pair, Saturation
from crossover.analysis.runs import Method
from crossover.analysis.sentences import overlap_note, saturation_sentence
from crossover.analysis.verdict import TOLERANCE, analyse, saturation
from crossover.config import CrossoverError, validate
from crossover.fields import BudgetConfig
from crossover.sweep.plan import SweepConfig, plan_runs

CONF = Path(__file__).parents[1] / "conf"
SIZES = (1000, 4000, 16000)


def runs(gain: dict[int, float], twins: tuple[int, ...] = SIZES, chains: int = 4, sd: float = 0.01) -> pd.DataFrame:
    """Two models, and their runs with half the budget, whose log error is higher by `gain` of the size."""
    rng = np.random.default_rng(0)
    rows = []
    for model, level in (("resnet", 1.0), ("vit", 0.8)):
        for n in SIZES:
            for chain in range(chains):
                error = level * n**-0.3 * np.exp(sd * rng.standard_normal())
                row = {"dataset": "d", "model": model, "n_train": n, "chain": chain, "seed": chain}
                name = f"{model}-{n}-{chain}"
                rows.append(row | {"run_id": name, "budget": "800 steps", "images_seen": 51200, "test_error": error})
                if n in twins:
                    half = {"budget": "400 steps", "images_seen": 25600, "test_error": error * np.exp(gain[n])}
                    rows.append(row | {"run_id": f"{name}-half"} | half)
    return pd.DataFrame(rows)


def study(table: pd.DataFrame) -> Any:
    (found,) = analyse(table, Method(seed=0))["studies"]
    return found


def test_small_gains_are_limited_by_data_and_large_ones_by_budget() -> None:
    found = study(runs({1000: 0.0, 4000: 0.02, 16000: 0.3}, sd=0.0))
    assert [point["state"] for point in found["saturation"][:3]] == ["data-limited", "data-limited", "budget-limited"]
    assert [point["gain"] for point in found["saturation"][:3]] == pytest.approx([0.0, 0.02, 0.3])
    assert found["saturation"][0]["ci_high"] < TOLERANCE
    assert "Limited by data at 1,000, 4,000 images" in found["pairs"][0]["summary"]
    assert "limited by the budget at 16,000." in found["pairs"][0]["summary"]


def test_sizes_without_twins_are_not_checked_and_one_chain_establishes_nothing() -> None:
    found = study(runs({4000: 0.0}, twins=(4000,)))
    assert [point["state"] for point in found["saturation"][:3]] == ["not checked", "data-limited", "not checked"]
    one = study(runs(dict.fromkeys(SIZES, 0.0), chains=1))
    assert {point["state"] for point in one["saturation"]} == {"not established"}


def test_twins_do_not_enter_the_curves() -> None:
    table = runs(dict.fromkeys(SIZES, 0.3))
    both, alone = study(table), study(table[table["budget"] == "800 steps"])
    (with_twins,), (without,) = both["pairs"], alone["pairs"]
    assert with_twins["gap"] != []
    for name in ("n_star", "verdict", "ci_low", "ci_high", "p_beyond"):
        assert with_twins[name] == without[name]
    assert {point["state"] for point in alone["saturation"]} == {"not checked"}


def test_a_sign_is_safe_when_the_gains_differ_by_less_than_the_lead() -> None:
    table = runs(dict.fromkeys(SIZES, 0.02))
    assert [row["safe"] for row in study(table)["pairs"][0]["gap"]] == [True] * 3
    late = table["run_id"].str.startswith("resnet") & (table["budget"] == "400 steps")
    table["test_error"] = table["test_error"].mask(late, table["test_error"] * 1.5)
    assert [row["safe"] for row in study(table)["pairs"][0]["gap"]] == [False] * 3


def test_gain_is_the_mean_over_chains_with_a_t_interval() -> None:
    rng = np.random.default_rng(1)
    gains = 0.02 + 0.01 * rng.standard_normal(5)
    rows = [
        {"model": "m", "n_train": 100, "chain": k, "seed": 0, "images_seen": seen, "test_error": error}
        for k, g in enumerate(gains)
        for seen, error in ((1000, 0.2), (500, 0.2 * np.exp(g)))
    ]
    table = pd.DataFrame(rows)
    (point,) = saturation(table, table[table["images_seen"] == 1000], "test_error", 0.95)
    half = 2.776445 * gains.std(ddof=1) / np.sqrt(5)
    assert (point["gain"], point["ci_low"], point["ci_high"]) == pytest.approx(
        (gains.mean(), gains.mean() - half, gains.mean() + half)
    )


@pytest.mark.parametrize(
    ("budget", "half"),
    [
        ({"steps": 641}, {"steps": 321}),
        ({"epochs": 3.0, "max_epochs": 10.0}, {"epochs": 1.5, "max_epochs": 5.0}),
        ({"examples": 1000}, {"examples": 500}),
        ({"flops": 1e12}, {"flops": 5e11}),
    ],
)
def test_half_a_budget(budget: dict[str, Any], half: dict[str, Any]) -> None:
    assert BudgetConfig(**budget).halved() == BudgetConfig(**half)


def test_a_sweep_plans_twins_of_the_named_sizes_and_chains() -> None:
    values: dict[str, Any] = {
        "name": "s",
        "fixed": {"data": "cues", "budget": "steps", "budget.steps": 640},
        "axes": {"model": ["resnet_tiny"], "n_train": [256, 1024], "chain": [0, 1, 2]},
    }
    few = values | {"saturation": {"n_train": [1024], "chain": [0, 1]}}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain, twins, all_twins = (
            plan_runs(validate(SweepConfig, given, "sweep"), outputs="o")
            for given in (values, few, values | {"saturation": {}})
        )
    known = {run.run_id for run in plain}
    assert known <= {run.run_id for run in twins}
    extra = [run for run in twins if run.run_id not in known]
    assert [(run.n_train, run.chain, run.seed, run.budget.steps) for run in extra] == [
        (1024, 0, 0, 320),
        (1024, 1, 1, 320),
    ]
    assert len(all_twins) == 12
    with pytest.raises(CrossoverError, match="saturation"):
        validate(SweepConfig, values | {"saturation": {"model": [1]}}, "sweep")


def test_the_sentence_of_a_pair_knows_its_own_models_alone() -> None:
    def point(model: str, high: float, low: float = 0.0) -> Saturation:
        ends: Any = {"state": "data-limited", "gain": 0.0, "ci_low": low, "ci_high": high, "chains": 3}
        return {"model": model, "n_train": 500} | ends

    pair = cast(Pair, {"a": "resnet", "b": "vit", "gap": [{"n_train": 500}]})
    said = saturation_sentence(pair, [point("resnet", 0.02), point("vit", 0.03), point("hybrid", 0.1)])
    assert said == "Limited by data at 500 images (twice the budget changes errors by at most 3%)."
    worse = saturation_sentence(pair, [point("resnet", -0.1, -0.2), point("vit", 0.03)])
    assert "changes errors by at most 20%" in worse, "longer training may also raise an error"


@pytest.mark.parametrize(
    ("wider", "said"),
    [
        ({"verdict": "a_better", "ci_low": 8000.0, "ci_high": None}, "resnet leads vit, N* above 8,000 or never."),
        (
            {"verdict": "crossover", "ci_low": 700.0, "ci_high": 900.0},
            "crossover (vit and resnet), N* within 700 to 900.",
        ),
        ({"verdict": "undecided", "ci_low": None, "ci_high": None}, "undecided (vit and resnet)."),
    ],
)
def test_what_holds_for_new_images_is_said_in_words(wider: dict[str, Any], said: str) -> None:
    pair: Any = {
        "a": "resnet",
        "b": "vit",
        "overlapping": [45_000],
        "n_pool": 45_000,
        "new_images": wider | {"n_max": 8000},
    }
    assert overlap_note(pair).endswith(f"For new images, up to 8,000: {said}")
