"""Attention of a ViT by layer and head: distances, locality and dependence on content."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.features import check_vit, evaluating

LOCAL = 0.5
"""A head is called local when its mean attention distance is below this share of uniform attention's."""


@contextmanager
def unfused(model: nn.Module) -> Iterator[list[Any]]:
    """Make attention compute its weights explicitly, since fused kernels hide them, and yield its modules by depth."""
    modules: list[Any] = [block.attn for block in check_vit(model).blocks if hasattr(block, "attn")]
    if not modules or not all(hasattr(m, "attn_drop") and hasattr(m, "fused_attn") for m in modules):
        raise CrossoverError(f"{type(model).__name__} has no attention weights to read; use a ViT of timm")
    before = [module.fused_attn for module in modules]
    try:
        for module in modules:
            module.fused_attn = False
        yield modules
    finally:
        for module, fused in zip(modules, before, strict=True):
            module.fused_attn = fused


@torch.no_grad()
def attention_weights(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention of each layer (B, heads, N, N), rows summing to 1; N counts class and register tokens."""
    found: list[Tensor] = []
    with evaluating(model), unfused(model) as modules:
        handles = [m.attn_drop.register_forward_pre_hook(lambda _m, inputs: found.append(inputs[0])) for m in modules]
        try:
            model(images)
        finally:
            for handle in handles:
                handle.remove()
    return found


def token_distances(rows: int, columns: int) -> Tensor:
    """Return Euclidean distances (N, N), in tokens, between the cells of a grid."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def patch_attention(weights: Tensor, patches: int) -> Tensor:
    """Return attention among the patches (..., patches, patches): other tokens dropped, rows renormalised."""
    among = weights[..., -patches:, -patches:].double()
    return among / among.sum(-1, keepdim=True)


def attention_distance(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return the distance and variability of the attention of each layer and head (mean over images and queries).

    `distance`: mean attention distance in tokens (Dosovitskiy 2021); `uniform`: that of uniform attention; `relative`:
    their ratio; `local`: whether it is below LOCAL; `near`: attention within one token, diagonals included (a 3x3
    window), `near_uniform` its analytic baseline. `adaptive`: mean total variation between an image's attention and
    that of the mean over images, in [0, 1]; 0 if attention did not depend on the image.
    """
    rows, columns = check_vit(model).patch_embed.grid_size
    far = token_distances(rows, columns).to(images.device)
    near = (far < 1.5).double()
    table = []
    for layer, weights in enumerate(attention_weights(model, images)):
        among = patch_attention(weights, rows * columns)
        distance = (among * far).sum(-1).mean((0, 2))
        window = (among * near).sum(-1).mean((0, 2))
        varies = (among - among.mean(0)).abs().sum(-1).mean((0, 2)) / 2
        for head in range(len(distance)):
            relative = float(distance[head] / far.mean())
            table.append(
                {
                    "layer": layer,
                    "head": head,
                    "distance": float(distance[head]),
                    "uniform": float(far.mean()),
                    "relative": relative,
                    "local": relative < LOCAL,
                    "near": float(window[head]),
                    "near_uniform": float(near.mean(-1).mean()),
                    "adaptive": float(varies[head]),
                }
            )
    return pd.DataFrame(table)


def attention_rollout(model: nn.Module, images: Tensor) -> Tensor:
    """Return how much of each token's output comes from each token's input (B, N, N), rows summing to 1.

    Attention of all layers multiplied, heads averaged, half of each token's path through the residual connection
    (Abnar and Zuidema 2020). It ignores values, MLPs and norms: a sketch of the flow, not an attribution.
    """
    flow: Tensor | None = None
    for weights in attention_weights(model, images):
        mean = weights.double().mean(1)
        layer = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        flow = layer if flow is None else layer @ flow
    if flow is None:
        raise CrossoverError("a ViT without layers has no attention")
    return flow


def rollout_distance(model: nn.Module, images: Tensor) -> pd.DataFrame:
    """Return the mean distance (tokens) over which all layers mix patches, and that of uniform mixing (one row)."""
    rows, columns = check_vit(model).patch_embed.grid_size
    flow = patch_attention(attention_rollout(model, images), rows * columns)
    far = token_distances(rows, columns).to(images.device)
    return pd.DataFrame([{"distance": float((flow * far).sum(-1).mean()), "uniform": float(far.mean())}])
