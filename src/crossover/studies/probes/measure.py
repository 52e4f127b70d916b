"""All probes of one finished run as a tidy table, with the untrained network and analytic baselines for comparison."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError, RunConfig
from crossover.fields import CuesData
from crossover.progress import tracked
from crossover.store import read_frozen, write_text
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
from crossover.sweep.launch import slots_for
from crossover.training.ablations import input_sizes

PROBED = ("run_id", "world", "augment", "model", "n_train", "chain", "probe", "layer", "value", "untrained", "analytic")
VERSION = 2
"""Part of the file name, so that tables are recomputed when the probes change."""
IMAGES = 2_000
"""Test images that the probes use: the linear probe all, the others the first of them."""
FEW, SOME, MANY = 32, 128, 500
"""Images for probes in float64 or with gradients, for those that keep attention or maps, for those that classify."""


def probe_table(run_dirs: Sequence[Path], parallel: int | None) -> pd.DataFrame:
    """Return the probes of finished runs, one row per run, probe and layer, with PROBED columns.

    Runs that have no table yet are probed, `parallel` at a time. The table is a file of the run, so that an interrupted
    command continues where it was.
    """
    left = [folder for folder in run_dirs if not _path(folder).exists()]
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    if left:
        with ProcessPoolExecutor(len(slots_for([], parallel, 1)), mp_context=context) as pool:
            for _ in tracked(pool.map(probe_run, left), "probing", len(left)):
                pass
    parts = [pd.DataFrame(columns=list(PROBED))]
    for folder in run_dirs:
        run = read_frozen(folder)
        table = pd.read_csv(_path(folder), keep_default_na=False, na_values=["NaN"])
        parts.append(table.assign(run_id=folder.name, chain=run.chain, **place_of(run))[list(PROBED)])
    return pd.concat(parts, ignore_index=True) if run_dirs else parts[0]


def world_of(run: RunConfig) -> str:
    """Return the name of a run's world: its dataset, with `-local` or `-global` where only that cue is present."""
    if not isinstance(run.data, CuesData):
        return run.dataset
    alone = "-local" if run.data.alpha == 0 else "-global" if run.data.beta == 0 else ""
    return f"{run.data.name}{alone}{run.data.permute.suffix}"


def place_of(run: RunConfig) -> dict[str, str | int]:
    """Return the values of a run by which a rule of the ledger selects it."""
    facts: dict[str, str | int] = {"world": world_of(run), "augment": run.augment.name, "model": run.model.name}
    return facts | {"n_train": run.n_train}


def probe_run(run_dir: Path) -> None:
    """Write the table of compare_networks of a finished run, on images of its test set; no choice depends on them."""
    torch.set_num_threads(1)
    try:
        run, model, untrained = load_run(run_dir)
        table = compare_networks(model, untrained, *probe_images(run, IMAGES))
    except CrossoverError as error:
        raise CrossoverError(f"{run_dir.name} cannot be probed: {error}") from None
    write_text(_path(run_dir), table.to_csv(index=False, float_format="%.8g", na_rep="NaN"))


def _path(run_dir: Path) -> Path:
    return run_dir / f"probes-{VERSION}.csv"


def compare_networks(
    model: nn.Module, untrained: nn.Module, images: Tensor, labels: Tensor, *, own_classes: bool = True
) -> pd.DataFrame:
    """Return probe, layer, value, untrained, analytic for normalised images (N, 3, S, S); NaN without a baseline.

    What is measured: docs/claims.md.
    """
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
