"""Feature maps by layer, in one format for timm's ResNets and ViTs. All networks are in evaluation mode."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossover.config import CrossoverError


class Found(NamedTuple):
    """One number of one network; `analytic` is its value without any learning, where that is known."""

    probe: str
    layer: str
    value: float
    analytic: float | None = None


def layer_strides(model: nn.Module) -> dict[str, int]:
    """Return the layers that probes read, from the input on, with the pixels per cell of their maps.

    These are timm's `feature_info` (stages of a ResNet, blocks of a ViT), after the patch embedding of a ViT. Raises
    CrossoverError for a model without them.
    """
    info: Any = getattr(model, "feature_info", None)
    if not info:
        raise CrossoverError(f"{type(model).__name__} lists no feature_info; probes read ResNets and ViTs of timm")
    strides = {item["module"]: int(item["reduction"]) for item in info}
    if is_vit(model):
        return {"patch_embed": next(iter(strides.values()))} | strides
    return strides


def is_vit(model: nn.Module) -> bool:
    """Return whether the model represents the image as tokens of a patch grid."""
    return hasattr(model, "patch_embed") and hasattr(model, "blocks")


def check_vit(model: nn.Module) -> Any:
    """Return the model, untyped; raise CrossoverError unless it is a ViT."""
    if not is_vit(model):
        raise CrossoverError(f"{type(model).__name__} has no tokens; this probe reads ViTs and hybrids of timm")
    return model


def feature_maps(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return the output of each layer as (B, C, h, w); gradients flow.

    `images` are normalised (B, 3, H, W). Class and register tokens are left out.
    """
    names = list(layer_strides(model))
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            found[name] = as_map(model, output)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in names}


def as_map(model: nn.Module, output: Tensor) -> Tensor:
    """Return (B, C, h, w) of a layer's output: maps as they are, tokens (B, N, C) put on their grid."""
    if output.ndim == 4 and not is_vit(model):
        return output
    rows, columns = check_vit(model).patch_embed.grid_size
    tokens = output.reshape(len(output), -1, output.shape[-1])[:, -rows * columns :]
    return tokens.transpose(1, 2).reshape(len(output), -1, rows, columns)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    """Return logits (B, classes)."""
    return torch.cat([model(part) for part in images.split(batch)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return float((logits_of(model, images).argmax(1) == labels).double().mean())
