"""Trained networks, the images to probe them with, and their feature maps: one format for timm's ResNets and ViTs."""

import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import EvalBatches, Images
from crossover.store import read_frozen, read_record
from crossover.sweep.launch import refuse_other_images
from crossover.training.models import build_model


class LoadedRun(NamedTuple):
    """A finished run with its networks on the CPU, in evaluation mode."""

    run: RunConfig
    model: nn.Module
    """With the tested weights."""
    untrained: nn.Module
    """As it began, drawn again from its seed."""


def load_run(run_dir: Path) -> LoadedRun:
    """Load a finished run; raise CrossoverError if its weights cannot be read or do not fit its config."""
    run = read_frozen(run_dir)
    classes = len(read_record(run_dir / "record.json")["classes"])
    path = run_dir / "weights.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CrossoverError(f"{path} cannot be read ({error}); move {run_dir} away and repeat its sweep") from None
    torch.manual_seed(run.seed)
    untrained = build_model(run.model, image_size=run.data.image_size, classes=classes).eval()
    trained = copy.deepcopy(untrained)
    try:
        trained.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CrossoverError(f"{path} does not fit its config: {reason}; repeat its sweep") from None
    return LoadedRun(run, trained, untrained)


def probe_images(run: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` test images of all classes, normalised float32 (count, 3, S, S), and labels.

    No choice depends on them: probes describe a finished run.
    """
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    refuse_other_images([run], dataset)
    taken = mixed_order(dataset.test_labels)[:count]
    images = Images(dataset, taken, torch.device("cpu"), float("inf"), test=True)
    return next(iter(EvalBatches(images, batch_size=len(taken))))


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """Return an order, int64 (N,), in which any part has all classes: a fixed random one if images come class by class.

    Test images that are already mixed keep their order. Alternating the classes would not do, as the linear probe is
    fitted to every other image.
    """
    mixed = (np.diff(labels) < 0).any()
    return np.arange(len(labels)) if mixed else np.random.default_rng(0).permutation(len(labels))


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

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if output.ndim != 4 or is_vit(model):  # tokens (B, N, C), put on their grid
            rows, columns = check_vit(model).patch_embed.grid_size
            tokens = output.reshape(len(output), -1, output.shape[-1])[:, -rows * columns :]
            output = tokens.transpose(1, 2).reshape(len(output), -1, rows, columns)
        found[name] = output

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in names}


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch: int = 250) -> Tensor:
    return torch.cat([model(part) for part in images.split(batch)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((logits_of(model, images).argmax(1) == labels).double().mean())
