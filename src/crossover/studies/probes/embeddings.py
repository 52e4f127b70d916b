"""Structure of the first weights of a network: position embeddings and patch filters."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.attention import token_distances
from crossover.studies.probes.features import check_vit, logits_of

LOW = 0.25
"""Frequencies up to this many cycles per pixel, on both axes, are called low."""


def _position(model: nn.Module) -> Any:
    position = getattr(check_vit(model), "pos_embed", None)
    if position is None:
        raise CrossoverError("the model has no position embedding (model.position=none); choose learned or sinusoidal")
    return position


def position_grid(model: nn.Module) -> np.ndarray:
    """Return the cosine similarity (N, N) of the position embeddings of the patches, their mean removed."""
    patches = int(np.prod(check_vit(model).patch_embed.grid_size))
    vectors = _position(model).detach()[0, -patches:].double()
    vectors = vectors - vectors.mean(0)
    return (nn.functional.normalize(vectors, dim=1) @ nn.functional.normalize(vectors, dim=1).T).cpu().numpy()


def position_similarity(model: nn.Module, *, permutations: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return the Spearman correlation of similarity with nearness over all pairs of positions (one row).

    1 would be similarity falling strictly with distance. `null_low`, `null_high`: the middle 95% when the positions are
    shuffled, which keeps the embeddings and removes their places; `p_value`: share of shuffles at least as correlated.
    """
    similarity = position_grid(model)
    far = token_distances(*check_vit(model).patch_embed.grid_size).numpy()
    upper = np.triu_indices(len(far), 1)
    nearness = stats.rankdata(-far[upper])
    rng = np.random.default_rng(seed)
    seen = _correlation(similarity[upper], nearness)
    null = np.empty(permutations)
    for i in range(permutations):
        order = rng.permutation(len(far))
        null[i] = _correlation(similarity[np.ix_(order, order)][upper], nearness)
    low, high = np.quantile(null, [0.025, 0.975])
    p_value = (1 + np.sum(null >= seen)) / (1 + permutations)
    return pd.DataFrame([{"spearman": seen, "null_low": low, "null_high": high, "p_value": p_value}])


def _correlation(values: np.ndarray, ranks: np.ndarray) -> float:
    return float(np.corrcoef(stats.rankdata(values), ranks)[0, 1])


def position_removed(model: nn.Module, images: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return the accuracy of a ViT unchanged, and with every position embedding replaced by their mean (one row).

    The mean keeps what the embedding adds to every token; the network is not retrained.
    """
    removed: Any = copy.deepcopy(model)
    patches = int(np.prod(removed.patch_embed.grid_size))
    with torch.no_grad():
        position = _position(removed)
        position[:, -patches:] = position[:, -patches:].mean(1, keepdim=True)
    scores = (float((logits_of(m, images).argmax(1) == labels).double().mean()) for m in (model, removed))
    return pd.DataFrame([dict(zip(("accuracy", "accuracy_without"), scores, strict=True))])


def first_filters(model: nn.Module) -> Tensor:
    """Return the weights (filters, 3, h, w) of the first convolution: a ViT's patch embedding, a ResNet's stem."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().double()
    raise CrossoverError(f"{type(model).__name__} has no convolution to probe")


def patch_filters(model: nn.Module, components: int = 12) -> pd.DataFrame:
    """Return the principal components of the first filters: share of their variance, share of low frequencies.

    `low_frequency_all` is that of all filters together, `low_frequency_white` that of filters without structure, as at
    initialisation.
    """
    filters = first_filters(model).cpu()
    flat = filters.flatten(1)
    _, scale, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    share = scale.square() / scale.square().sum()
    tiles = axes.reshape(-1, *filters.shape[1:])[:components]
    white = float(_low_mask(*filters.shape[-2:]).double().mean())
    return pd.DataFrame(
        {
            "component": range(len(tiles)),
            "explained": share[: len(tiles)].numpy(),
            "low_frequency": [low_frequency_share(tile[None]) for tile in tiles],
            "low_frequency_all": low_frequency_share(filters),
            "low_frequency_white": white,
        }
    )


def low_frequency_share(filters: Tensor) -> float:
    """Return the share of the spectral energy of (filters, channels, h, w) at low frequencies."""
    energy = torch.fft.fft2(filters).abs().square().sum((0, 1))
    return float(energy[_low_mask(*filters.shape[-2:])].sum() / energy.sum())


def _low_mask(height: int, width: int) -> Tensor:
    rows, columns = (torch.fft.fftfreq(n).abs() <= LOW for n in (height, width))
    return rows[:, None] & columns[None]
