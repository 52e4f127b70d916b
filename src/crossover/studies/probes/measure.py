"""All probes of one finished run as a tidy table, with the untrained network and analytic baselines for comparison."""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.store import write_text
from crossover.studies.probes.attention import attention_distance, rollout_distance
from crossover.studies.probes.embeddings import patch_filters, position_removed, position_similarity
from crossover.studies.probes.equivariance import (
    equivariance_error,
    lie_derivative,
    patch_shuffle,
    relative_error,
    robustness,
    shift_consistency,
)
from crossover.studies.probes.features import is_vit, layer_strides, logits_of
from crossover.studies.probes.load import load_run, probe_images
from crossover.studies.probes.representation import cka, linear_probe, receptive_field
from crossover.training.ablations import input_sizes

VERSION = 2
"""Part of the file name, so that tables are recomputed when the probes change."""
IMAGES = 2_000
"""Test images that the probes use: the linear probe all, the others the first of them."""
FEW, SOME, MANY = 32, 128, 500
"""Images for probes in float64 or with gradients, for those that keep attention or maps, for those that classify."""


class Found(NamedTuple):
    """One number of one network; `analytic` is its value without any learning, where that is known."""

    probe: str
    layer: str
    value: float
    analytic: float | None = None


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
    tables = []
    for network, answers in ((model, own_classes), (untrained, False)):
        found = list(probe_network(network, images, labels, own_classes=answers))
        tables.append(pd.DataFrame(found, columns=["probe", "layer", "value", "analytic"]))
    start = tables[1].rename(columns={"value": "untrained"})[["probe", "layer", "untrained"]]
    table = tables[0].merge(start, on=["probe", "layer"], how="left", validate="one_to_one")
    return table[["probe", "layer", "value", "untrained", "analytic"]]


def probe_network(model: nn.Module, images: Tensor, labels: Tensor, *, own_classes: bool = True) -> Iterator[Found]:
    """Yield every number of one ResNet or ViT of timm; `images` are normalised (N, 3, S, S).

    Without `own_classes` its predictions are meaningless, as before training or with other labels; only the linear
    probe then uses the labels.
    """
    yield from _equivariance(model, images)
    yield from _representation(model, images, labels)
    yield from _filters(model)
    yield Found("patch_order", "", patch_order(model, images[:FEW]), 0.0)
    if own_classes:
        yield from _answers(model, images[:MANY], labels[:MANY])
    if not is_vit(model):
        yield Found("dense_ratio", "", dense_ratio(model, images.shape[-1]))
        return
    yield from _attention(model, images[:SOME])
    if getattr(model, "pos_embed", None) is not None:
        near = position_similarity(model, permutations=400).iloc[0]
        yield Found("position_nearness", "", near["spearman"], near["null_high"])
        if own_classes:
            removed = position_removed(model, images[:MANY], labels[:MANY]).iloc[0]
            yield Found("position_loss", "", removed["accuracy"] - removed["accuracy_without"], 0.0)


def _equivariance(model: nn.Module, images: Tensor) -> Iterator[Found]:
    cell = max(layer_strides(model).values())
    for row in equivariance_error(model, images[:FEW], shifts=tuple(dict.fromkeys((1, cell)))).to_dict("records"):
        yield Found(f"equivariance_{row['shift']}px", row["layer"], row["error"], row["error_unrelated"])
    lie = lie_derivative(model, images[:SOME])
    yield Found("lie_rate", "", lie["rate"].mean(), 0.0)
    yield Found("lie_margin", "", lie["margin"].mean(), 0.0)


def _answers(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Found]:
    shifted = shift_consistency(model, images, labels, draws=4).iloc[0]
    yield Found("accuracy", "", shifted["accuracy"])
    yield Found("accuracy_shifted", "", shifted["accuracy_shifted"])
    yield Found("consistency", "", shifted["consistency"], shifted["consistency_chance"])
    yield Found("consistency_correct", "", shifted["consistency_correct"])
    cells = [n for n in (2, 4) if images.shape[-1] % n == 0]
    for row in robustness(model, images, labels, cells=cells).to_dict("records"):
        yield Found(f"{row['change']}_{row['level']:g}", "", row["accuracy"], row["chance"])


def _representation(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[Found]:
    for row in linear_probe(model, images, labels).to_dict("records"):
        yield Found("linear_probe", row["layer"], row["accuracy"], row["chance"])
    for row in receptive_field(model, images[:4]).to_dict("records"):
        yield Found("support", row["layer"], row["support"])
        yield Found("receptive_rms", row["layer"], row["rms"], row["rms_uniform"])
    similar = cka(model, model, images[:SOME]).set_index(["layer", "other_layer"])["cka"]
    names = list(layer_strides(model))
    for i, layer in enumerate(names):
        for other in names[i + 1 :]:
            yield Found("cka", f"{layer}~{other}", float(similar[layer, other]))
    yield Found("cka_ends", "", float(similar[names[0], names[-1]]))


def _filters(model: nn.Module) -> Iterator[Found]:
    filters = patch_filters(model)
    yield Found("filters_top4", "", float(filters["explained"][:4].sum()))
    low, white = filters["low_frequency_all"][0], filters["low_frequency_white"][0]
    yield Found("filters_low_frequency", "", float(low), float(white))


def _attention(model: nn.Module, images: Tensor) -> Iterator[Found]:
    table = attention_distance(model, images)
    for number, heads in table.groupby("layer"):
        layer, beyond = f"blocks.{number}", (1 - heads["near"].mean()) / (1 - heads["near_uniform"].mean())
        yield Found("attention_distance", layer, heads["distance"].mean(), heads["uniform"].mean())
        yield Found("attention_local", layer, heads["local"].mean(), 0.0)
        yield Found("attention_beyond", layer, beyond, 1.0)
        yield Found("attention_adaptive", layer, heads["adaptive"].mean(), 0.0)
    yield Found("attention_adaptive", "", table["adaptive"].mean(), 0.0)
    rollout = rollout_distance(model, images).iloc[0]
    yield Found("rollout_distance", "", rollout["distance"], rollout["uniform"])


def patch_order(model: nn.Module, images: Tensor) -> float:
    """Return the relative change of the logits, in float64, when the patches of every image are shuffled.

    The patches are a ViT's own; for other networks, those of its deepest map.
    """
    model, x = copy.deepcopy(model).double(), images.double()
    cells = images.shape[-1] // max(layer_strides(model).values())
    return relative_error(logits_of(model, patch_shuffle(x, cells)), logits_of(model, x))


def dense_ratio(model: nn.Module, image_size: int) -> float:
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
    return dense / own if own else 1.0


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
