"""Tables of runs along known curves, for tests of the analysis."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossover.analysis.runs import Method
from crossover.analysis.verdict import analyse

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


def study_notes(runs: pd.DataFrame) -> str:
    (study,) = analyse(runs, Method(seed=0))["studies"]
    return " ".join(study["notes"] + [note for pair in study["pairs"] for note in pair["notes"]])


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
