"""A ViT with learned positions learns permuted patches as fast as plain ones; a ResNet does not.

Why the ViT's learning curve must have the same distribution: tests/test_permute.py. Here whole runs of 150 steps on the
cues, done as the commands do them. The rule, set before the runs were seen: a learning curve is the log test error at
two numbers of training images; each model has 8 curves on plain and 8 on permuted images, each with a chain and a seed
of its own (0 to 15); the energy distance of the two samples (Székely and Rizzo 2004) has an exact p value over
all 12,870 divisions of the 16 curves. The ResNet's must be below 0.001 and the ViT's above 0.01: one choice of seeds in
a hundred would fail an unchanged ViT. It must also have learned something, as guessing looks alike on all images.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from crossover.config import RunConfig
from crossover.store import freeze, read_record
from crossover.sweep.launch import slots_for
from crossover.sweep.pool import Pool
from tests.worlds import small_run

pytestmark = pytest.mark.slow

SIZES = (512, 2048)
RUNS = 8
"""Curves of each model and kind of images."""
RECIPE = {"name": "t", "optimizer": "adamw", "weight_decay": 0.5, "batch_size": 48, "warmup": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    "resnet": {
        "model": {"name": "resnet_tiny", "arch": "basic_resnet", "args": {"widths": [16, 32, 64], "depths": [1, 1, 1]}},
        "recipe": RECIPE | {"lr": 1.2e-2},
    },
    "vit": {
        "model": {
            "name": "vit_tiny",
            "arch": "vit",
            "args": {"embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0},
            "position_std": 0.5,
        },
        "recipe": RECIPE | {"lr": 3e-3},
    },
}


def curve(folder: Path, name: str, kind: str, chain: int) -> list[RunConfig]:
    """Return the runs of one learning curve."""
    world = {"data__n_pool": 8192, "data__n_val": 500, "data__n_test": 2000, "data__permute": {"kind": kind}}
    changes = MODELS[name] | world | {"budget": {"steps": 150, "evaluations": 2}}
    return [small_run(folder, **changes, n_train=n, chain=chain, seed=chain) for n in SIZES]


def p_value(x: np.ndarray, y: np.ndarray) -> float:
    """Return the exact p value of the energy distance of two samples of curves (runs, sizes)."""
    both = np.concatenate([x, y])
    distances = cdist(both, both)

    def energy(i: np.ndarray, j: np.ndarray) -> float:
        within = distances[np.ix_(i, i)].mean() + distances[np.ix_(j, j)].mean()
        return float(2 * distances[np.ix_(i, j)].mean() - within)

    rows = np.arange(len(both))
    samples = (rows[: len(x)], rows[len(x) :])
    test = stats.permutation_test(samples, energy, vectorized=False, n_resamples=20_000, alternative="greater")
    assert len(test.null_distribution) == 12_870, "all divisions"
    return float(test.pvalue)


def test_permuted_patches_change_the_curve_of_the_resnet_and_not_of_the_vit(tmp_path: Path) -> None:
    arms = [(name, kind) for name in MODELS for kind in ("none", "patches")]
    first = {"none": 0, "patches": RUNS}
    plan = {(*arm, i): curve(tmp_path, *arm, first[arm[1]] + i) for arm in arms for i in range(RUNS)}
    runs = [run for curves in plan.values() for run in curves]
    freeze(runs)
    progress = Pool(runs, slots=slots_for(runs, None, 1), report=lambda _: None).run()
    assert set(progress.states.values()) == {"done"}
    errors = {key: [read_record(run.run_dir / "record.json")["test_error"] for run in c] for key, c in plan.items()}
    found = {arm: np.array([errors[*arm, i] for i in range(RUNS)]) for arm in arms}
    p = {name: p_value(*(np.log(found[name, kind]) for kind in first)) for name in MODELS}
    for (name, kind), values in found.items():
        print(f"{name}, {kind}: test error at {SIZES} {values.mean(0).round(3)}, deviation {values.std(0).round(3)}")
    print(f"p of equal curves: {p}")
    assert p["resnet"] < 0.001
    assert p["vit"] > 0.01
    assert found["vit", "none"][:, 1].max() < 0.8, "it has learned: guessing has 0.9"
