"""The claims of docs/estimators.md on 500 simulated designs each, and on published curves."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.estimate import Floats, estimate
from crossover.analysis.extrapolation import held_out
from crossover.analysis.laws import LAWS
from crossover.analysis.robustness import Design, design_like, simulate
from crossover.analysis.runs import Method, read_curves
from crossover.analysis.verdict import analyse

pytestmark = pytest.mark.slow

SIX, EIGHT = np.geomspace(500, 45_000, 6), np.geomspace(250, 64_000, 8)
JFT = Path(__file__).parents[2] / "data" / "published" / "alabdulmohsin2022_jft.csv"


def two_laws(n: Floats) -> Floats:
    """Log error ratio of two saturating power laws; they cross at 3,344 images."""
    return np.log(0.04 + 9 * n**-0.52) - np.log(0.1 + 3 * n**-0.42)


def line(n: Floats) -> Floats:
    return -0.25 * np.log(n / 3000)


def hump(n: Floats) -> Floats:
    """Both at chance, then a ahead, then b."""
    x = np.log(n)
    return 0.25 * np.exp(-0.5 * ((x - np.log(1000)) / 0.9) ** 2) - 0.35 / (1 + np.exp(-(x - np.log(6000)) / 0.6))


def crossing(curve: Any) -> float:
    grid = np.geomspace(700, 60_000, 100_000)
    return float(grid[np.argmax(curve(grid) < 0)])


def noise(sizes: int, sd: float, near: float = 0.3, steeper: float = 0.0, common: float = 0.0) -> Floats:
    """Covariance of a chain: geometric correlation, a common part, sd that changes e^(2 steeper) times over n."""
    place = np.arange(sizes)
    correlation = (1 - common) * near ** np.abs(np.subtract.outer(place, place)) + common
    scale = sd * np.exp(steeper * np.linspace(-1, 1, sizes))
    return correlation * np.outer(scale, scale)


CASES = {
    "two laws": (two_laws, SIX, noise(6, 0.05)),
    "line": (line, SIX, noise(6, 0.05)),
    "hump": (hump, SIX, noise(6, 0.05)),
    "independent sizes": (two_laws, SIX, noise(6, 0.05, near=0.0)),
    "correlated sizes": (two_laws, EIGHT, noise(8, 0.05, near=0.8)),
    "common effect of the chain": (two_laws, EIGHT, noise(8, 0.05, near=0.0, common=0.7)),
    "noisier at large n": (two_laws, EIGHT, noise(8, 0.04, steeper=0.5)),
    "noisier at small n": (two_laws, EIGHT, noise(8, 0.04, steeper=-0.5)),
    "loud": (line, SIX, noise(6, 0.12)),
}


@pytest.mark.parametrize("chains", [3, 5, 8])
@pytest.mark.parametrize("case", CASES)
def test_interval_covers_n_star_and_is_not_needlessly_wide(case: str, chains: int) -> None:
    curve, n, covariance = CASES[case]
    design = Design(n, curve(n), crossing(curve), covariance)
    found: Any = simulate(design, chains, 500, np.random.default_rng(chains))
    print(f"\n{case}, {chains} chains: {found}")
    assert found["coverage"] >= (0.90 if chains == 3 else 0.93)
    assert np.log(found["width"]) / np.log(found["fieller_width"]) <= 1.6


@pytest.mark.parametrize("chains", [3, 5, 8])
@pytest.mark.parametrize("gap", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("case", ["two laws", "correlated sizes", "noisier at large n"])
def test_parallel_curves_do_not_cross(case: str, gap: float, chains: int) -> None:
    _, n, covariance = CASES[case]
    found: Any = simulate(Design(n, np.full(len(n), gap), None, covariance), chains, 500, np.random.default_rng(chains))
    print(f"\n{case}, gap {gap}, {chains} chains: false crossovers {found['power']:.3f}")
    assert found["power"] <= 0.05


@pytest.mark.parametrize("sd", [0.11, 0.2])
def test_chains_that_the_tool_asks_for_find_the_crossover(sd: float) -> None:
    """From pilots of 5 chains: at the number of chains reported to have 80% power, fresh experiments have it."""
    rng = np.random.default_rng(0)
    truth = Design(SIX, -0.16 * np.log(SIX / 6000), 6000.0, noise(6, sd, near=0.4))
    choices = (3, 4, 5, 6, 8, 10, 12, 16)
    actual = {chains: simulate(truth, chains, 500, rng)["power"] for chains in choices}
    found = []
    for _ in range(20):
        pilot = estimate(SIX, truth.truth + rng.multivariate_normal(np.zeros(6), truth.noise, size=5))
        like = design_like(pilot)
        if like is None:
            continue
        enough = (c for c in choices if simulate(like, c, 200, rng)["power_low"] >= 0.8)
        found.append(actual[next(enough, choices[-1])])
    print(f"\nsd {sd}: power by chains {actual}; at the chains asked for {np.mean(found):.3f} ({len(found)} pilots)")
    assert np.mean(found) >= 0.8


def test_published_jft_curves_cross_where_they_are_known_to() -> None:
    for study in analyse(read_curves(JFT), Method(seed=0))["studies"]:
        pairs = {frozenset((pair["a"], pair["b"])): pair for pair in study["pairs"]}
        small, large = (pairs[frozenset((bit, "vit_b16"))] for bit in ("bit_r50x1", "bit_r101x3"))
        assert large["verdict"] == "a_better"
        if study["dataset"].startswith("birds"):
            assert all(pair["verdict"] not in ("crossover", "several_crossings") for pair in study["pairs"])
        else:  # where: tests/test_atlas.py
            assert small["verdict"] == "crossover"


def test_laws_extrapolate_the_jft_curves_in_the_published_order() -> None:
    curves = pd.read_csv(JFT)
    rmse = {
        law: np.mean(
            [
                held_out(law, part["n_train"].to_numpy(), part["error"].to_numpy(), part["n_train"].max() / 2)
                for _, part in curves.groupby(["task", "model"])
            ]
        )
        for law in LAWS
    }
    print(f"\n{rmse}")
    assert rmse["M4"] < rmse["M3"] < rmse["M2"] < rmse["M1"]
    assert rmse["M4"] <= 0.040
