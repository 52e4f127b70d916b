"""What the layers of a network hold: CKA, linear probes, receptive fields, first filters, attention and positions."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.networks import Found, accuracy, check_vit, feature_maps

PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""Ridge penalties of the linear probe, per image."""
LOW = 0.25
"""Frequencies up to this many cycles per pixel, on both axes, are called low."""
LOCAL = 0.5
"""A head is called local when its mean attention distance is below this share of uniform attention's."""


@torch.no_grad()
def cka_ends(model: nn.Module, images: Tensor) -> Found:
    """Return linear CKA of the first and the last layer; at least 4 images.

    From the unbiased estimator of Nguyen et al. 2021 (eq. 2-4), over whole flattened maps. 1 for equal representations
    up to rotation and scale, near 0 for unrelated ones.
    """
    maps = [x.flatten(1).double() for x in feature_maps(model, images).values()]
    first, last = (x @ x.T for x in (maps[0], maps[-1]))
    own = unbiased_hsic(first, first) * unbiased_hsic(last, last)
    return Found("cka_ends", "", unbiased_hsic(first, last) / math.sqrt(own))


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
        shrunk = self._values / (self._values.square() + penalty * len(self._target))
        weights = self._right.T @ (shrunk[:, None] * self._projected)
        return (((x - self._mean) / self._scale) @ weights + self._centre).argmax(1)

    def error(self, x: Tensor, labels: Tensor, penalty: float) -> float:
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


@torch.no_grad()
def attention_weights(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention of each layer (B, heads, N, N), rows summing to 1; N counts class and register tokens."""
    model = copy.deepcopy(model)
    modules: list[Any] = [block.attn for block in check_vit(model).blocks if hasattr(block, "attn")]
    if not modules or not all(hasattr(m, "attn_drop") and hasattr(m, "fused_attn") for m in modules):
        raise CrossoverError(f"{type(model).__name__} has no attention weights to read; use a ViT of timm")
    found: list[Tensor] = []
    for module in modules:
        module.fused_attn = False  # a fused kernel hides the weights
        module.attn_drop.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    model(images)
    return found


def token_distances(rows: int, columns: int) -> Tensor:
    """Return Euclidean distances (N, N), in tokens, between the cells of a grid."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def attention(model: nn.Module, images: Tensor) -> Iterator[Found]:
    """Yield the distance, locality and variability of attention by layer (mean over images, queries and heads).

    The distance is in tokens (Dosovitskiy 2021). `attention_beyond`: attention beyond one token (a 3x3 window), over
    that of uniform attention. `attention_adaptive`: mean total variation between an image's attention and the mean over
    images, in [0, 1]; 0 if attention did not depend on the image.
    """
    rows, columns = check_vit(model).patch_embed.grid_size
    far = token_distances(rows, columns).to(images.device)
    near = (far < 1.5).double()
    uniform, beyond = float(far.mean()), float(1 - near.mean())
    variations = []
    for number, weights in enumerate(attention_weights(model, images)):
        among = weights[..., -rows * columns :, -rows * columns :].double()  # other tokens are dropped
        among = among / among.sum(-1, keepdim=True)
        distance = (among * far).sum(-1).mean((0, 2))
        window = (among * near).sum(-1).mean()
        variations.append(float((among - among.mean(0)).abs().sum(-1).mean() / 2))
        yield Found("attention_distance", f"blocks.{number}", float(distance.mean()), uniform)
        yield Found("attention_local", f"blocks.{number}", float((distance < LOCAL * uniform).double().mean()), 0.0)
        yield Found("attention_beyond", f"blocks.{number}", float(1 - window) / beyond, 1.0)
        yield Found("attention_adaptive", f"blocks.{number}", variations[-1], 0.0)
    yield Found("attention_adaptive", "", sum(variations) / len(variations), 0.0)


def position_grid(model: nn.Module) -> np.ndarray:
    """Return the cosine similarity (N, N) of the position embeddings of the patches, their mean removed."""
    position: Any = getattr(check_vit(model), "pos_embed", None)
    if position is None:
        raise CrossoverError("the model has no position embedding (model.position=none); choose learned or sinusoidal")
    patches = int(np.prod(check_vit(model).patch_embed.grid_size))
    vectors = position.detach()[0, -patches:].double()
    vectors = nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    return (vectors @ vectors.T).cpu().numpy()


def position_nearness(model: nn.Module, *, permutations: int = 400, seed: int = 0) -> Found:
    """Return the Spearman correlation of similarity with nearness over all pairs of positions.

    1 would be similarity falling strictly with distance. `analytic`: the 97.5% point when the positions are shuffled,
    which keeps the embeddings and removes their places.
    """
    grid, far = position_grid(model), token_distances(*check_vit(model).patch_embed.grid_size).numpy()
    upper = np.triu_indices(len(far), 1)
    nearness = stats.rankdata(-far[upper])
    ranks = np.zeros_like(far)
    ranks[upper] = stats.rankdata(grid[upper])
    ranks += ranks.T
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(far)), *(rng.permutation(len(far)) for _ in range(permutations))]
    seen, *null = (np.corrcoef(ranks[np.ix_(order, order)][upper], nearness)[0, 1] for order in orders)
    return Found("position_nearness", "", float(seen), float(np.quantile(null, 0.975)))


def position_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Found:
    """Return the accuracy that a ViT loses when every position embedding is replaced by their mean.

    The mean keeps what the embedding adds to every token; the network is not retrained.
    """
    removed: Any = copy.deepcopy(model)
    patches = int(np.prod(removed.patch_embed.grid_size))
    with torch.no_grad():
        removed.pos_embed[:, -patches:] = removed.pos_embed[:, -patches:].mean(1, keepdim=True)
    return Found("position_loss", "", accuracy(model, images, labels) - accuracy(removed, images, labels), 0.0)


def first_filters(model: nn.Module) -> Iterator[Found]:
    """Yield the variance of the first filters in four components, and their share of energy at low frequencies.

    They are those of the first convolution (a ViT's patch embedding, a ResNet's stem). `analytic`: filters without
    structure, as at initialisation.
    """
    filters = next((m.weight.detach().double().cpu() for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if filters is None:
        raise CrossoverError(f"{type(model).__name__} has no convolution to probe")
    flat = filters.flatten(1)
    variance = torch.linalg.svdvals(flat - flat.mean(0)).square()
    yield Found("filters_top4", "", float(variance[:4].sum() / variance.sum()))
    white = float(_low_mask(*filters.shape[-2:]).double().mean())
    yield Found("filters_low_frequency", "", low_frequency_share(filters), white)


def low_frequency_share(filters: Tensor) -> float:
    """Return the share of the spectral energy of (filters, channels, h, w) at low frequencies."""
    energy = torch.fft.fft2(filters).abs().square().sum((0, 1))
    return float(energy[_low_mask(*filters.shape[-2:])].sum() / energy.sum())


def _low_mask(height: int, width: int) -> Tensor:
    rows, columns = (torch.fft.fftfreq(n).abs() <= LOW for n in (height, width))
    return rows[:, None] & columns[None]
