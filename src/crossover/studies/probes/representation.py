"""Layers of a network compared: similarity (CKA), accuracy of linear probes, and receptive fields."""

import copy
import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from crossover.studies.probes.features import feature_maps, layer_strides

EDGE = 0.0455
"""Share of the largest gradient that still counts as inside a receptive field (Luo et al. 2016: 1 - 95.45%)."""


@torch.no_grad()
def cka(model: nn.Module, other: nn.Module, images: Tensor, batch: int = 128) -> pd.DataFrame:
    """Return linear CKA between every layer of `model` and of `other` on the same images: layer, other_layer, cka.

    The unbiased minibatch estimator of Nguyen et al. 2021 (eq. 2-4), over whole flattened maps. 1 for equal
    representations up to rotation and scale, near 0 for unrelated ones. `batch` of at least 4.
    """
    names, others = list(layer_strides(model)), list(layer_strides(other))
    sums = {kind: np.zeros(shape) for kind, shape in _shapes(len(names), len(others)).items()}
    for part in images.split(batch):
        if len(part) < 4:  # the unbiased estimator needs four
            continue
        one = [_gram(x) for x in feature_maps(model, part).values()]
        two = [_gram(x) for x in feature_maps(other, part).values()]
        sums["cross"] += [[unbiased_hsic(a, b) for b in two] for a in one]
        sums["own"] += [unbiased_hsic(a, a) for a in one]
        sums["other"] += [unbiased_hsic(b, b) for b in two]
    value = sums["cross"] / np.sqrt(np.outer(sums["own"], sums["other"]))
    rows = [
        {"layer": a, "other_layer": b, "cka": value[i, j]} for i, a in enumerate(names) for j, b in enumerate(others)
    ]
    return pd.DataFrame(rows)


def _shapes(rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {"cross": (rows, columns), "own": (rows,), "other": (columns,)}


def _gram(x: Tensor) -> Tensor:
    flat = x.flatten(1).double()
    return flat @ flat.T


def unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Return the unbiased HSIC of two Gram matrices (n, n), n >= 4 (Song et al. 2012, eq. 5)."""
    n = len(k)
    k, m = (matrix - torch.diag(matrix.diag()) for matrix in (k, m))
    trace = (k * m.T).sum()
    mean = k.sum() * m.sum() / ((n - 1) * (n - 2))
    rows = 2 * (k.sum(0) @ m.sum(1)) / (n - 2)
    return float((trace + mean - rows) / (n * (n - 3)))


@torch.no_grad()
def linear_probe(model: nn.Module, images: Tensor, labels: Tensor, *, grid: int = 2) -> pd.DataFrame:
    """Return the accuracy of a linear probe of each layer: layer, depth, accuracy, chance.

    Ridge regression onto the classes from the map, averaged to at most grid x grid cells. Half of the images (every
    other one) fit it, the others test it; the penalty is the best of a range by leave-one-out error on the first half.
    `chance`: always the most frequent class. `pixels`, depth 0, is the same probe on the image itself.
    """
    maps = {"pixels": images} | feature_maps(model, images)
    chance = float(torch.bincount(labels[1::2]).max()) / len(labels[1::2])
    rows = []
    for depth, (name, x) in enumerate(maps.items()):
        cells = nn.functional.adaptive_avg_pool2d(x, (min(grid, x.shape[-2]), min(grid, x.shape[-1])))
        features = cells.flatten(1).double()
        accuracy = _ridge_accuracy(features[::2], labels[::2], features[1::2], labels[1::2])
        rows.append({"layer": name, "depth": depth, "accuracy": accuracy, "chance": chance})
    return pd.DataFrame(rows)


def _ridge_accuracy(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> float:
    reader = Ridge(x, y, classes=int(max(y.max(), y_test.max())) + 1)
    penalty = min((10.0**power for power in range(-3, 4)), key=reader.leave_one_out)
    return 1 - reader.error(x_test, y_test, penalty)


class Ridge:
    """Ridge regression from features float64 (N, D) onto the classes (one-hot, centred), for any penalty per image."""

    def __init__(self, x: Tensor, labels: Tensor, classes: int) -> None:
        scale = x.std(0)
        self._mean, self._scale = x.mean(0), torch.where(scale > 1e-9, scale, 1.0)
        target = nn.functional.one_hot(labels, classes).double()
        self._centre = target.mean(0)
        self._target = target - self._centre
        self._left, self._values, self._right = torch.linalg.svd((x - self._mean) / self._scale, full_matrices=False)
        self._projected = self._left.T @ self._target

    def error(self, x: Tensor, labels: Tensor, penalty: float) -> float:
        """Return the share of other features whose class is not the one with the highest score."""
        shrunk = self._values / (self._values.square() + penalty * len(self._target))
        weights = self._right.T @ (shrunk[:, None] * self._projected)
        scores = ((x - self._mean) / self._scale) @ weights + self._centre
        return float((scores.argmax(1) != labels).double().mean())

    def leave_one_out(self, penalty: float) -> float:
        """Return the mean squared error of each image under the regression of all others."""
        shrink = self._values.square() / (self._values.square() + penalty * len(self._target))
        fitted = self._left @ (shrink[:, None] * self._projected)
        leverage = (self._left.square() * shrink).sum(1, keepdim=True) + 1 / len(self._target)
        return float(((self._target - fitted) / (1 - leverage).clamp(min=1e-6)).square().mean())


def receptive_field(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return the receptive field of the central cell of each layer, in pixels (Luo et al. 2016): one row per layer.

    From the mean absolute gradient of that cell's summed channels at every pixel, over images: `support` is the side of
    the square that contains all of it, `effective` the root of the area above EDGE of its largest value, `rms` its
    root-mean-square distance from its centre of mass, `rms_uniform` that of a gradient that is the same everywhere.
    """
    model = copy.deepcopy(model).double()
    x = images.double().requires_grad_()
    maps = feature_maps(model, x)
    height, width = x.shape[-2:]
    rows_at, columns_at = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows = []
    for name, out in maps.items():
        middle = out[:, :, out.shape[-2] // 2, out.shape[-1] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, x, retain_graph=True)
        weight = gradient.abs().sum(1).mean(0).cpu()
        seen = weight > 1e-12 * weight.max()
        extent = [int(line.max() - line.min()) + 1 for line in (rows_at[seen], columns_at[seen])] if seen.any() else [0]
        rows.append(
            {
                "layer": name,
                "support": max(extent),
                "effective": math.sqrt(float((weight > EDGE * weight.max()).sum())),
                "rms": _spread(weight, rows_at, columns_at),
                "rms_uniform": _spread(torch.ones_like(weight), rows_at, columns_at),
            }
        )
    return pd.DataFrame(rows)


def _spread(weight: Tensor, rows: Tensor, columns: Tensor) -> float:
    share = weight / weight.sum()
    return math.sqrt(sum(float((share * (at - (share * at).sum()).square()).sum()) for at in (rows, columns)))
