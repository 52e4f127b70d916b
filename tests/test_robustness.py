import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.contract import Calibration
from crossover.analysis.estimate import estimate
from crossover.analysis.robustness import Design, calibrate, design_like, simulate
from crossover.analysis.runs import AnalysisError, Method
from tests.slow import test_cells as cells

SIZES = np.geomspace(500, 45_000, 6)
N_STAR = 6000.0


def design(sd: float, n_star: float | None = N_STAR, slope: float = 0.25) -> Design:
    """Straight crossing curves (or equal ones), sizes of a chain correlated."""
    truth = np.zeros(6) if n_star is None else -slope * np.log(SIZES / n_star)
    distance = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    return Design(SIZES, truth, n_star, sd**2 * 0.3**distance)


def simulated(one: Design, chains: int, designs: int) -> Any:
    return simulate(one, chains, designs, np.random.default_rng(0))


def runs_of(one: Design, chains: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for chain in range(chains):
        gap = one.truth + rng.multivariate_normal(np.zeros(6), one.noise)
        for model, logs in (("vit", gap - 4), ("resnet", np.full(6, -4.0))):
            for n, log_error in zip(SIZES, logs, strict=True):
                row = {"run_id": f"{model}{n}{chain}", "dataset": "d", "model": model, "n_train": round(n)}
                rows.append(row | {"chain": chain, "seed": 0, "budget": "x", "test_error": float(np.exp(log_error))})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def calibrated() -> list[Calibration]:
    return calibrate(runs_of(design(0.15), 4, 0), Method(seed=0), designs=120, chains=(3, 6, 10))


def test_interval_holds_the_truth_and_is_not_needlessly_wide() -> None:
    found = simulated(design(0.05), 5, 150)
    assert found["power"] == 1.0
    assert found["coverage"] >= 0.93
    assert found["width"] > found["fieller_width"] > 1
    assert np.log(found["width"]) / np.log(found["fieller_width"]) <= 1.6


def test_equal_curves_do_not_cross() -> None:
    assert simulated(design(0.05, None), 3, 150)["power"] <= 0.05


def test_noise_costs_power_and_width() -> None:
    quiet, loud = (simulated(design(sd), 3, 60) for sd in (0.05, 0.4))
    assert loud["power"] < 0.5 < quiet["power"]
    assert loud["power_low"] <= loud["power"]


def test_variance_of_test_images_is_not_averaged_away() -> None:
    one = design(0.02)
    more = Design(one.n, one.truth, one.n_star, one.noise, 0.05**2 * np.eye(6))
    plain, widened = (simulated(d, 12, 80) for d in (one, more))
    assert widened["width"] > 1.2 * plain["width"]
    assert widened["coverage"] >= 0.9


def test_report_names_the_chains_needed(calibrated: list[Calibration]) -> None:
    (pair,) = calibrated
    json.dumps(calibrated, allow_nan=False)
    assert (pair["a"], pair["b"]) == ("resnet", "vit")
    assert pair["n_star"] == pytest.approx(N_STAR, rel=0.3)
    powers = [row["power"] for row in pair["rows"]]
    assert powers == sorted(powers)
    enough = [row["chains"] for row in pair["rows"] if row["power_low"] >= 0.8]
    assert pair["chains_needed"] == enough[0]
    assert all(
        (row["coverage"] or 0) >= 0.9 and row["false_crossover"] <= 0.08 for row in pair["rows"]
    )  # of 120 designs


def test_design_follows_a_difference_that_no_line_fits() -> None:
    rng = np.random.default_rng(0)
    shape = np.array([0.02, 0.54, 0.21, -0.17, -0.51, -0.50])  # as on the embedded world: flat, up, down, flat
    values = estimate(SIZES, shape + 0.03 * rng.standard_normal((5, 6)))
    like = design_like(values)
    assert like is not None
    assert like.n_star is not None
    assert SIZES[2] < like.n_star < SIZES[3]
    assert like.truth == pytest.approx(shape, abs=0.1)
    assert simulated(like, 3, 60)["power"] >= 0.9


def test_rising_difference_is_the_same_question_with_the_models_exchanged() -> None:
    one = design(0.05)
    rising = runs_of(Design(one.n, -one.truth, one.n_star, one.noise), 4, 0)
    (pair,) = calibrate(rising, Method(seed=0), designs=60, chains=(4,))
    assert (pair["rows"][0]["coverage"] or 0) >= 0.9
    assert pair["rows"][0]["power"] >= 0.9


def test_same_seed_same_calibration() -> None:
    runs = runs_of(design(0.1), 3, 1)
    first, second = (calibrate(runs, Method(seed=4), designs=20, chains=(3,)) for _ in range(2))
    assert first == second


def test_no_number_of_chains_may_be_enough() -> None:
    runs = runs_of(design(0.8), 4, 0)
    (pair,) = calibrate(runs, Method(seed=0), designs=20, chains=(3, 4))
    assert pair["chains_needed"] is None
    assert "More than 4 chains" in pair["note"]


def test_designs_that_cannot_be_simulated_are_said() -> None:
    runs = runs_of(design(0.1), 1, 0)
    (pair,) = calibrate(runs, Method(seed=0), designs=20)
    assert pair["rows"] == []
    assert "needs at least 3 sizes, 2 chains" in pair["note"]
    with pytest.raises(AnalysisError, match="designs must be at least 20"):
        calibrate(runs, Method(seed=0), designs=5)
    with pytest.raises(AnalysisError, match="at least 2 chains"):
        simulated(design(0.1), 1, 20)


def test_design_without_a_measured_crossing_gets_one_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    values = estimate(SIZES, 1.0 - 0.1 * np.log(SIZES / 500) + 0.01 * rng.standard_normal((4, 6)))
    like = design_like(values)
    assert like is not None
    assert like.n_star == pytest.approx(np.sqrt(500 * 45_000))
    assert np.diff(like.truth) == pytest.approx(np.full(5, -0.09), abs=0.03)


def test_the_documented_rates_are_those_of_the_simulations() -> None:
    measured = pd.read_csv(cells.FILE)
    assert set(measured["cell"]) == set(cells.CELLS)
    assert cells.table(measured) in cells.PAGE.read_text(encoding="utf-8")
