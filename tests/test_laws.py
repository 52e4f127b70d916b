from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.extrapolation import LAST_VALUE, ModelLaws, averaged, extrapolate, fit_all, held_out
from crossover.analysis.laws import LAWS, fit_law

RESULTS = Path(__file__).parents[1] / "results"
SIZES = np.geomspace(100, 1e5, 9)
E0 = 0.9
KNOWN = {
    "M1": {"b": 3.0, "c": 0.4},
    "M2": {"e_inf": 0.05, "b": 5.0, "c": 0.5},
    "M3": {"b": 4.0, "g": 1e-4, "c": 0.45},
    "M4": {"e_inf": 0.04, "b": 20.0, "c": 0.5, "a": 0.8},
    "chance": {"e_inf": 0.05, "n0": 800.0, "c": 0.6},
}


def formula(law: str, n: np.ndarray, p: dict[str, float]) -> np.ndarray:
    """The laws as written in the papers; M4 is solved by bisection."""
    if law == "M4":
        low, high = np.full(len(n), p["e_inf"]), np.full(len(n), E0)
        for _ in range(200):
            middle = (low + high) / 2
            above = (middle - p["e_inf"]) / (E0 - middle) ** p["a"] > p["b"] * n ** -p["c"]
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return low
    if law == "chance":
        return p["e_inf"] + (E0 - p["e_inf"]) * (1 + n / p["n0"]) ** -p["c"]
    if law == "M3":
        return p["b"] * (1 / n + p["g"]) ** p["c"]
    return p.get("e_inf", 0.0) + p["b"] * n ** -p["c"]


@pytest.mark.parametrize("law", LAWS)
def test_exact_points_give_back_the_parameters(law: str) -> None:
    error = formula(law, SIZES, KNOWN[law])
    fit = fit_law(law, SIZES, error, chance=E0)
    assert fit.params == pytest.approx(KNOWN[law], rel=1e-4)
    assert fit.predict(np.array([1e6])) == pytest.approx(formula(law, np.array([1e6]), KNOWN[law]), rel=1e-4)


@pytest.mark.parametrize("law", ["M2", "M4", "chance"])
def test_law_of_the_curve_is_chosen_on_held_out_sizes(law: str) -> None:
    fit = fit_all(SIZES, formula(law, SIZES, KNOWN[law]), chance=E0)[0]
    assert fit.law == law
    assert fit.compared[law] < 1e-4 < fit.compared[LAST_VALUE]


def test_covariance_is_the_spread_of_repeated_fits() -> None:
    rng = np.random.default_rng(0)
    n = np.geomspace(100, 1e5, 25)
    truth = formula("M2", n, KNOWN["M2"])
    fits = [fit_law("M2", n, truth * np.exp(0.02 * rng.standard_normal(25))) for _ in range(150)]
    stated = np.sqrt(np.mean([fit.spread**2 for fit in fits], axis=0))
    seen = np.std([fit.theta for fit in fits], axis=0)
    assert seen == pytest.approx(stated, rel=0.2)
    assert np.mean([fit.sigma for fit in fits]) == pytest.approx(0.02, rel=0.1)


def test_a_parameter_at_its_bound_has_no_standard_error() -> None:
    fit = fit_law("M2", SIZES, 0.9 * np.exp(-((np.log(SIZES) / 20) ** 2)))  # steepens: no floor in sight
    assert fit.params["e_inf"] == pytest.approx(0, abs=1e-3)
    assert np.isnan(fit.spread[0])


def test_weights_decide_which_points_count() -> None:
    error = formula("M1", SIZES, KNOWN["M1"])
    error[4] *= 1.5
    weights = np.ones(9)
    weights[4] = 1e-9
    assert fit_law("M1", SIZES, error, weights=weights).params == pytest.approx(KNOWN["M1"], rel=1e-4)
    assert fit_law("M1", SIZES, error).params["b"] != pytest.approx(KNOWN["M1"]["b"], rel=1e-3)


def test_last_value_is_the_error_at_the_largest_known_size() -> None:
    rmse = held_out(LAST_VALUE, np.array([10.0, 20, 40]), np.array([0.8, 0.4, 0.2]), 20)
    assert rmse == pytest.approx(np.log(2))


def test_average_of_laws_follows_the_law_that_predicts_best() -> None:
    error = formula("M2", SIZES, KNOWN["M2"])
    fits = fit_all(SIZES, error, chance=E0)
    later = np.array([3e5])
    assert averaged(fits, later) == pytest.approx(formula("M2", later, KNOWN["M2"]), rel=1e-4)


def laws(error: np.ndarray, noise: float, seed: int) -> ModelLaws:
    rng = np.random.default_rng(seed)
    values = error * np.exp(noise * rng.standard_normal((4, len(error))))
    return ModelLaws(pd.DataFrame(values, columns=SIZES), E0)


def test_extrapolated_crossing_is_a_labelled_range() -> None:
    a = formula("M1", SIZES, {"b": 1.0, "c": 0.3})
    b = formula("M1", SIZES, {"b": 2e5**0.15, "c": 0.45})  # crosses a at 200,000, twice the largest size
    found: Any = extrapolate(laws(np.minimum(a, 0.89), 0.002, 0), laws(np.minimum(b, 0.89), 0.002, 1), SIZES[-1])
    assert found["label"] == "extrapolated"
    assert found["refused"] is None
    assert SIZES[-1] < found["low"] < 2e5
    assert found["high"] is None or found["high"] > 2e5
    assert "n_star" not in found


def test_extrapolation_is_refused_beyond_four_times_the_largest_size() -> None:
    a, b = (formula("M1", SIZES, {"b": 1e6**c, "c": c}) * 0.01 for c in (0.3, 0.35))  # cross at ten times
    found: Any = extrapolate(laws(a, 1e-4, 0), laws(b, 1e-4, 1), SIZES[-1])
    assert found["low"] is None
    assert "do not cross up to 400,000" in found["refused"]


def test_extrapolation_is_refused_where_no_law_beats_the_last_value() -> None:
    flat = np.full(9, 0.3)
    found: Any = extrapolate(laws(flat, 0.05, 3), laws(1.1 * flat, 0.05, 4), SIZES[-1])
    assert found["low"] is None
    assert found["refused"]


def test_described_laws_come_with_errors_and_the_curve_they_draw() -> None:
    n = np.geomspace(100, 100_000, 9)
    rng = np.random.default_rng(0)
    errors = (0.05 + 3 * n**-0.5) * np.exp(0.005 * rng.standard_normal((3, 9)))
    found: Any = ModelLaws(pd.DataFrame(errors, columns=n), 0.9).described("m")
    best = found["fits"][0]
    assert found["holdout_rmse"][best["law"]] == min(found["holdout_rmse"].values())
    m2 = next(fit for fit in found["fits"] if fit["law"] == "M2")
    assert abs(m2["params"]["e_inf"] - 0.05) < 4 * m2["standard_errors"]["e_inf"] < 0.05
    assert m2["params"]["c"] == pytest.approx(0.5, abs=0.05)
    drawn = pd.DataFrame(found["curve"])
    assert (drawn["n_train"].min(), drawn["n_train"].max()) == pytest.approx((100, 100_000))
    assert drawn["error"].to_numpy() == pytest.approx(0.05 + 3 * drawn["n_train"].to_numpy() ** -0.5, rel=0.03)
    short: Any = ModelLaws(pd.DataFrame(errors[:, :4], columns=n[:4]), 0.9).described("m")
    assert (short["fits"], short["curve"]) == ([], None)
    assert "at least 5 sizes, got 4" in short["note"]


@pytest.mark.parametrize("study", ["ablate-dose", "cues"])
def test_fits_do_not_depend_on_rounding(study: str) -> None:
    """Another processor rounds the last digits otherwise: the order of the laws and what they predict stay."""
    runs = pd.read_csv(RESULTS / study / "runs.csv")
    rng = np.random.default_rng(0)
    for _, part in runs.groupby(["dataset", "model", "augment"]):
        errors = part.pivot_table(index="chain", columns="n_train", values="test_error")
        rounded = errors * (1 + 1e-11 * rng.standard_normal(errors.shape))
        one, other = (ModelLaws(table, 0.9) for table in (errors, rounded))
        assert [fit.law for fit in one.every] == [fit.law for fit in other.every]
        assert one.holdout == pytest.approx(other.holdout, rel=1e-5)
        curves = [[row["error"] for row in laws.described("m")["curve"] or []] for laws in (one, other)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-6)


def test_laws_that_tie_are_ordered_by_their_number_of_parameters() -> None:
    fits = fit_all(SIZES, formula("M1", SIZES, KNOWN["M1"]), chance=E0)  # M2 and M3 hold M1
    assert fits[0].law == "M1"
    assert fits[0].compared["M2"] == pytest.approx(0, abs=1e-3)


def test_one_held_out_size_chooses_no_law() -> None:
    rng = np.random.default_rng(0)
    errors = formula("M2", SIZES, KNOWN["M2"]) * np.exp(0.03 * rng.standard_normal((3, 9)))
    five, six = (ModelLaws(pd.DataFrame(errors[:, :k], columns=SIZES[:k]), E0) for k in (5, 6))
    assert [(laws.described("m")["held_out"], laws.holdout == {}) for laws in (five, six)] == [(0, True), (2, False)]
    found: Any = five.described("m")
    assert [fit["law"] for fit in found["fits"]] == list(LAWS), "in their own order, not by one point"
    n = np.array([row["n_train"] for row in found["curve"]])
    drawn = [row["error"] for row in found["curve"]]
    each = np.array([fit.predict(n) for fit in five.every])
    assert drawn == pytest.approx(np.exp(np.log(each).mean(axis=0))), "all laws count alike"
    assert found["spread"] == pytest.approx((each.max(axis=0) / each.min(axis=0)).max() - 1)
    assert f"average of all 5, which differ by up to {found['spread']:.1%}" in found["note"]
    assert "at least 6 sizes" in (extrapolate(five, six, SIZES[5])["refused"] or "")
