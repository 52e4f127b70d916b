"""Accuracy on images whose patches are shuffled, or whose high or low spatial frequencies are removed."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.studies.probes.features import logits_of


def patch_shuffle(images: Tensor, cells: int, *, seed: int = 0) -> Tensor:
    """Return images cut into cells x cells patches, each image with its own random order of them."""
    count, channels, height, width = images.shape
    if height % cells or width % cells:
        raise CrossoverError(f"{cells} x {cells} patches do not divide images of {height} x {width} px")
    tall, wide = height // cells, width // cells
    patches = images.reshape(count, channels, cells, tall, cells, wide).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((count, cells * cells), generator=generator).argsort(1).to(images.device)
    patches = patches.gather(1, order[:, :, None, None, None].expand_as(patches))
    whole = patches.reshape(count, cells, cells, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    return whole.reshape(images.shape)


def low_pass(images: Tensor, cutoff: float) -> Tensor:
    """Return images without frequencies above `cutoff` (cycles per pixel, at most 0.71: the corner of the spectrum)."""
    rows, columns = (torch.fft.fftfreq(n, device=images.device) for n in images.shape[-2:])
    keep = (rows[:, None].square() + columns[None].square()).sqrt() <= cutoff
    return torch.fft.ifft2(torch.fft.fft2(images) * keep).real


def high_pass(images: Tensor, cutoff: float) -> Tensor:
    """Return images without frequencies up to `cutoff`, the mean of each channel kept."""
    return images - low_pass(images, cutoff) + images.mean((-2, -1), keepdim=True)


def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    cells: Sequence[int] = (2, 4),
    cutoffs: Sequence[float] = (0.125, 0.25, 0.375),
    seed: int = 0,
) -> pd.DataFrame:
    """Return the accuracy of a trained network on changed images: change, level, accuracy, unchanged, chance.

    `level`: patches per side, or the cutoff in cycles per pixel. `chance`: always the most frequent class. The images
    then differ from those of training, so that a drop may come from unfamiliarity as well as from the loss of a cue.
    """
    changed = {("patch_shuffle", float(n)): patch_shuffle(images, n, seed=seed) for n in cells}
    changed |= {("low_pass", c): low_pass(images, c) for c in cutoffs}
    changed |= {("high_pass", c): high_pass(images, c) for c in cutoffs}
    unchanged = accuracy(model, images, labels)
    chance = float(torch.bincount(labels).max()) / len(labels)
    rows = [
        {"change": change, "level": level, "accuracy": accuracy(model, x, labels)}
        for (change, level), x in changed.items()
    ]
    return pd.DataFrame(rows).assign(unchanged=unchanged, chance=chance)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers."""
    return float((logits_of(model, images).argmax(1) == labels).double().mean())
