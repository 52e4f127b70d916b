"""Layers of a network compared: similarity (CKA), accuracy of linear probes, and receptive fields."""

import copy
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from crossover.studies.probes.networks import Found, feature_maps

PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""Ridge penalties of the linear probe, per image."""


@torch.no_grad()
def cka(model: nn.Module, images: Tensor) -> Iterator[Found]:
    """Yield linear CKA between all pairs of layers, and that of the first and the last; at least 4 images.

    From the unbiased estimator of Nguyen et al. 2021 (eq. 2-4), over whole flattened maps. 1 for equal representations
    up to rotation and scale, near 0 for unrelated ones.
    """
    flat = {name: x.flatten(1).double() for name, x in feature_maps(model, images).items()}
    grams = {name: x @ x.T for name, x in flat.items()}
    own = {name: unbiased_hsic(gram, gram) for name, gram in grams.items()}
    similar = 1.0
    for a, b in itertools.combinations(grams, 2):
        value = float(unbiased_hsic(grams[a], grams[b]) / np.sqrt(own[a] * own[b]))
        yield Found("cka", f"{a}~{b}", value)
        if (a, b) == (next(iter(grams)), next(reversed(grams))):
            similar = value
    yield Found("cka_ends", "", similar)


def unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Return the unbiased HSIC of two Gram matrices (n, n), n >= 4 (Song et al. 2012, eq. 5)."""
    n = len(k)
    k, m = (matrix - torch.diag(matrix.diag()) for matrix in (k, m))
    trace = (k * m.T).sum()
    mean = k.sum() * m.sum() / ((n - 1) * (n - 2))
    rows = 2 * (k.sum(0) @ m.sum(1)) / (n - 2)
    return float((trace + mean - rows) / (n * (n - 3)))


@torch.no_grad()
def linear_probe(model: nn.Module, images: Tensor, labels: Tensor, *, grid: int = 2) -> Iterator[Found]:
    """Yield the accuracy of a linear probe of each layer; `analytic`: always the most frequent class.

    Ridge regression onto the classes from the map, averaged to at most grid x grid cells. Half of the images (every
    other one) fit it, the others test it; the penalty is the best of a range by leave-one-out error on the first half.
    `pixels` is the same probe on the image itself.
    """
    chance = float(torch.bincount(labels[1::2]).max()) / len(labels[1::2])
    for name, x in ({"pixels": images} | feature_maps(model, images)).items():
        cells = nn.functional.adaptive_avg_pool2d(x, (min(grid, x.shape[-2]), min(grid, x.shape[-1])))
        features = cells.flatten(1).double()
        reader = Ridge(features[::2], labels[::2], classes=int(labels.max()) + 1)
        penalty = min(PENALTIES, key=reader.leave_one_out)
        yield Found("linear_probe", name, 1 - reader.error(features[1::2], labels[1::2], penalty), chance)


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

    def predict(self, x: Tensor, penalty: float) -> Tensor:
        """Return the class with the highest score of each row of features."""
        shrunk = self._values / (self._values.square() + penalty * len(self._target))
        weights = self._right.T @ (shrunk[:, None] * self._projected)
        return (((x - self._mean) / self._scale) @ weights + self._centre).argmax(1)

    def error(self, x: Tensor, labels: Tensor, penalty: float) -> float:
        """Return the share of rows whose predicted class is not their label."""
        return float((self.predict(x, penalty) != labels).double().mean())

    def leave_one_out(self, penalty: float) -> float:
        """Return the mean squared error of each image under the regression of all others."""
        shrink = self._values.square() / (self._values.square() + penalty * len(self._target))
        fitted = self._left @ (shrink[:, None] * self._projected)
        leverage = (self._left.square() * shrink).sum(1, keepdim=True) + 1 / len(self._target)
        return float(((self._target - fitted) / (1 - leverage).clamp(min=1e-6)).square().mean())


def receptive_field(model: nn.Module, images: Tensor) -> Iterator[Found]:
    """Yield the receptive field of the central cell of each layer, in pixels (Luo et al. 2016).

    From the mean absolute gradient of that cell's summed channels at every pixel, over images: `support` is the side of
    the square that contains all of it, `receptive_rms` its root-mean-square distance from its centre of mass
    (`analytic`: that of a gradient that is the same everywhere).
    """
    model = copy.deepcopy(model).double()
    x = images.double().requires_grad_()
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in x.shape[-2:]), indexing="ij")
    for name, out in feature_maps(model, x).items():
        middle = out[:, :, out.shape[-2] // 2, out.shape[-1] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, x, retain_graph=True)
        weight = gradient.abs().sum(1).mean(0).cpu()
        seen = weight > 1e-12 * weight.max()
        extent = [int(line.max() - line.min()) + 1 for line in (rows[seen], columns[seen])] if seen.any() else [0]
        yield Found("support", name, max(extent))
        yield Found(
            "receptive_rms", name, _spread(weight, rows, columns), _spread(torch.ones_like(weight), rows, columns)
        )


def _spread(weight: Tensor, rows: Tensor, columns: Tensor) -> float:
    share = weight / weight.sum()
    return math.sqrt(sum(float((share * (at - (share * at).sum()).square()).sum()) for at in (rows, columns)))
