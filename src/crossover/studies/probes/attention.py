"""Attention of a ViT: distances, locality and dependence on content."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.features import Found, check_vit

LOCAL = 0.5
"""A head is called local when its mean attention distance is below this share of uniform attention's."""


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


def patch_attention(weights: Tensor, patches: int) -> Tensor:
    """Return attention among the patches (..., patches, patches): other tokens dropped, rows renormalised."""
    among = weights[..., -patches:, -patches:].double()
    return among / among.sum(-1, keepdim=True)


def attention(model: nn.Module, images: Tensor) -> Iterator[Found]:
    """Yield the distance, locality and variability of attention by layer (mean over images, queries and heads).

    The distance is in tokens (Dosovitskiy 2021), also that of all layers together. `attention_beyond`: attention beyond
    one token (a 3x3 window), over that of uniform attention. `attention_adaptive`: mean total variation between an
    image's attention and the mean over images, in [0, 1]; 0 if attention did not depend on the image.
    """
    rows, columns = check_vit(model).patch_embed.grid_size
    far = token_distances(rows, columns).to(images.device)
    near = (far < 1.5).double()
    uniform, beyond = float(far.mean()), float(1 - near.mean())
    variations = []
    layers = attention_weights(model, images)
    for number, weights in enumerate(layers):
        among = patch_attention(weights, rows * columns)
        distance = (among * far).sum(-1).mean((0, 2))
        window = (among * near).sum(-1).mean()
        variations.append(float((among - among.mean(0)).abs().sum(-1).mean() / 2))
        yield Found("attention_distance", f"blocks.{number}", float(distance.mean()), uniform)
        yield Found("attention_local", f"blocks.{number}", float((distance < LOCAL * uniform).double().mean()), 0.0)
        yield Found("attention_beyond", f"blocks.{number}", float(1 - window) / beyond, 1.0)
        yield Found("attention_adaptive", f"blocks.{number}", variations[-1], 0.0)
    yield Found("attention_adaptive", "", sum(variations) / len(variations), 0.0)
    mixed = (patch_attention(rollout(layers), rows * columns) * far).sum(-1).mean()
    yield Found("rollout_distance", "", float(mixed), uniform)


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Return how much of each token's output comes from each token's input (B, N, N), rows summing to 1.

    Attention of all layers multiplied, heads averaged, half of each token's path through the residual connection
    (Abnar and Zuidema 2020). It ignores values, MLPs and norms: a sketch of the flow, not an attribution.
    """
    flow = torch.eye(layers[0].shape[-1], dtype=torch.float64, device=layers[0].device)
    own = 0.5 * flow
    for weights in layers:
        flow = (own + 0.5 * weights.double().mean(1)) @ flow
    return flow
