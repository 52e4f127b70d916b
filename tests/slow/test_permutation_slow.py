"""A ViT with learned positions cannot tell that the patches of all images were permuted alike; a ResNet can.

Of independent runs (chains and seeds of their own) on images as they are and permuted, a two-sample test compares the
learning curves. For the ViT equality in distribution is a theorem; its first half is a fast test of test_ledger.py:
with its positions permuted alike it computes the same, and the positions of a fresh ViT are drawn alike.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from crossover.config import RunConfig
from crossover.training.run import execute
from tests.worlds import small_run

pytestmark = pytest.mark.slow

SIZES = (512, 2048)
RUNS = 6
"""Of each arm: 924 ways to divide 12 runs, so that the smallest two-sided p value is 0.002."""
MODELS: dict[str, dict[str, Any]] = {
    "resnet": {
        "model": {"name": "resnet_tiny", "arch": "basic_resnet", "args": {"widths": [16, 32, 64], "depths": [1, 1, 1]}},
        "recipe": {
            "name": "t",
            "optimizer": "adamw",
            "lr": 1.2e-2,
            "weight_decay": 0.5,
            "batch_size": 48,
            "warmup": 0.1,
        },
    },
    "vit": {
        "model": {
            "name": "vit_tiny",
            "arch": "vit",
            "args": {"embed_dim": 64, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0},
            "position_std": 0.5,
        },
        "recipe": {"name": "t", "optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.5, "batch_size": 48, "warmup": 0.1},
    },
}


def curve(folder: Path, name: str, kind: str, chain: int) -> list[float]:
    """Return the log test error of one model at every size, trained for 250 steps on one chain."""
    torch.set_num_threads(1)
    return [float(np.log(execute(run)["test_error"])) for run in plan(folder, name, kind, chain)]


def plan(folder: Path, name: str, kind: str, chain: int) -> list[RunConfig]:
    world = {"data__n_pool": 8192, "data__n_val": 200, "data__n_test": 2000, "data__permute": {"kind": kind}}
    budget = {"steps": 250, "evaluations": 2}
    return [
        small_run(folder, **MODELS[name], **world, budget=budget, n_train=n, chain=chain, seed=chain) for n in SIZES
    ]


def p_values(plain: np.ndarray, permuted: np.ndarray) -> list[float]:
    """Return the p value of the difference of the mean log errors at each size, over all divisions of the runs."""

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis) - y.mean(axis)

    tests = [
        stats.permutation_test((x, y), difference, vectorized=True, n_resamples=1_000)
        for x, y in zip(plain.T, permuted.T, strict=True)
    ]
    return [float(test.pvalue) for test in tests]


def test_permuted_patches_change_the_curve_of_the_resnet_and_not_of_the_vit(tmp_path: Path) -> None:
    arms = [(name, kind) for name in MODELS for kind in ("none", "patches")]
    jobs = [(tmp_path, name, kind, chain + RUNS * (kind == "patches")) for chain in range(RUNS) for name, kind in arms]
    curve(*jobs[0])  # the cache of the images is made once
    with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
        curves = list(pool.map(curve, *zip(*jobs, strict=True)))
    found = {
        arm: np.array([c for (_, name, kind, _), c in zip(jobs, curves, strict=True) if (name, kind) == arm])
        for arm in arms
    }
    resnet, vit = (p_values(found[(name, "none")], found[(name, "patches")]) for name in MODELS)
    print(f"sizes {SIZES}: p of the ResNet {resnet}, of the ViT {vit}")
    for (name, kind), values in found.items():
        print(f"{name}, {kind}: mean error {np.exp(values).mean(0).round(3)}")
    assert max(resnet) < 0.01
    assert min(vit) > 0.05
    assert (found[("resnet", "patches")].mean(0) > found[("resnet", "none")].mean(0)).all()
