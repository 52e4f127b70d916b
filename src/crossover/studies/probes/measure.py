"""All probes of one finished run as a tidy table, with the untrained network and analytic baselines for comparison."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.store import write_text
from crossover.studies.probes.attention import attention
from crossover.studies.probes.embeddings import first_filters, position_loss, position_nearness
from crossover.studies.probes.equivariance import (
    equivariance,
    lie_derivative,
    patch_order,
    robustness,
    shift_consistency,
)
from crossover.studies.probes.features import Found, is_vit
from crossover.studies.probes.load import load_run, probe_images
from crossover.studies.probes.representation import cka, linear_probe, receptive_field
from crossover.training.ablations import input_sizes

VERSION = 2
"""Part of the file name, so that tables are recomputed when the probes change."""
IMAGES = 2_000
"""Test images that the probes use: the linear probe all, the others the first of them."""
FEW, SOME, MANY = 32, 128, 500
"""Images for probes in float64 or with gradients, for those that keep attention or maps, for those that classify."""


def probe_run(run_dir: Path) -> pd.DataFrame:
    """Return probe, layer, value, untrained, analytic of a finished run; NaN where a baseline does not exist.

    What is measured: docs/claims.md. The images are from the run's test set; no choice depends on them.
    """
    checkpoint = load_run(run_dir)
    images, labels = probe_images(checkpoint.run, IMAGES)
    return compare_networks(checkpoint.model, checkpoint.untrained, images, labels)


def compare_networks(
    model: nn.Module, untrained: nn.Module, images: Tensor, labels: Tensor, *, own_classes: bool = True
) -> pd.DataFrame:
    """Return the table of probe_run for two networks and normalised images (N, 3, S, S)."""
    found, start = (
        pd.DataFrame(list(probe_network(network, images, labels, own_classes=own)), columns=Found._fields)
        for network, own in ((model, own_classes), (untrained, False))
    )
    start = start.rename(columns={"value": "untrained"})[["probe", "layer", "untrained"]]
    table = found.merge(start, on=["probe", "layer"], how="left", validate="one_to_one")
    return table[["probe", "layer", "value", "untrained", "analytic"]]


def probe_network(model: nn.Module, images: Tensor, labels: Tensor, *, own_classes: bool = True) -> Iterator[Found]:
    """Yield every number of one ResNet or ViT of timm; `images` are normalised (N, 3, S, S).

    Without `own_classes` its predictions are meaningless, as before training or with other labels; only the linear
    probe then uses the labels.
    """
    some, many = images[:SOME], (images[:MANY], labels[:MANY])
    yield from equivariance(model, images[:FEW])
    yield from lie_derivative(model, some)
    yield from linear_probe(model, images, labels)
    yield from receptive_field(model, images[:4])
    yield from cka(model, some)
    yield from first_filters(model)
    yield patch_order(model, images[:FEW])
    if own_classes:
        yield from shift_consistency(model, *many)
        yield from robustness(model, *many)
    if not is_vit(model):
        yield dense_ratio(model, images.shape[-1])
        return
    yield from attention(model, some)
    if getattr(model, "pos_embed", None) is not None:
        yield position_nearness(model)
        if own_classes:
            yield position_loss(model, *many)


def dense_ratio(model: nn.Module, image_size: int) -> Found:
    """Return the weights of fully connected layers between the maps of all convolutions, over those of the layers.

    Layers with unshared weights count with their actual number; without any convolution the ratio is 1.
    """
    dense = own = 0
    for name, (height, width) in input_sizes(model, image_size).items():
        conv: Any = model.get_submodule(name)
        sides = zip((height, width), conv.kernel_size, conv.stride, conv.padding, strict=True)
        cells = [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
        dense += height * width * conv.in_channels * cells[0] * cells[1] * conv.out_channels
        own += conv.weight.numel()
    return Found("dense_ratio", "", dense / own if own else 1.0)


def read_probes(run_dir: Path) -> pd.DataFrame:
    """Return the table of a run that probe_runs has written."""
    return pd.read_csv(_path(run_dir), keep_default_na=False, na_values=["NaN"])


def probe_runs(run_dirs: Sequence[Path], workers: int) -> Iterator[Path]:
    """Probe the runs that have no table yet, in parallel, and yield each folder as it is done.

    The table is a file of the run, so that an interrupted command continues where it was.
    """
    left = [folder for folder in run_dirs if not _path(folder).exists()]
    yield from (folder for folder in run_dirs if folder not in left)
    if not left:
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(["crossover.studies.probes.measure"])
    with ProcessPoolExecutor(max(1, min(workers, len(left))), mp_context=context) as pool:
        for folder, error in zip(left, pool.map(_probe_to_file, left), strict=True):
            if error:
                raise CrossoverError(f"{folder.name} cannot be probed: {error}")
            yield folder


def _probe_to_file(run_dir: Path) -> str:
    """Write the table of a run; return the error in one line, else nothing."""
    torch.set_num_threads(1)
    try:
        table = probe_run(run_dir)
    except CrossoverError as error:
        return str(error)
    write_text(_path(run_dir), table.to_csv(index=False, float_format="%.8g", na_rep="NaN"))
    return ""


def _path(run_dir: Path) -> Path:
    return run_dir / f"probes-{VERSION}.csv"
