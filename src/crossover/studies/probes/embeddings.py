"""Structure of the first weights of a network: position embeddings and patch filters."""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.attention import token_distances
from crossover.studies.probes.features import Found, accuracy, check_vit

LOW = 0.25
"""Frequencies up to this many cycles per pixel, on both axes, are called low."""


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
