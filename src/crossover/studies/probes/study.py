"""The probes of finished runs as a table and a section of a report (`make probe`)."""

from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from crossover.config import CrossoverError, RunConfig
from crossover.fields import CuesData, Frozen
from crossover.record import title
from crossover.report.section import Column, Part, Section, Table, terminal_table, write_section
from crossover.store import read_frozen, read_sweep, read_table, write_text
from crossover.studies.probes.equivariance import equivariance, lie_derivative, patch_order, shift_consistency
from crossover.studies.probes.networks import Found, is_vit, load_run, probe_images
from crossover.studies.probes.representation import (
    attention,
    cka_ends,
    first_filters,
    linear_probe,
    position_loss,
    position_nearness,
    receptive_field,
)
from crossover.sweep.launch import slots_for
from crossover.sweep.plan import sweep_dir
from crossover.text import tracked
from crossover.training.models import input_sizes
from crossover.training.ranks import worker_processes

PROBED = ("run_id", "world", "augment", "model", "n_train", "chain", "probe", "layer", "value", "untrained", "analytic")
VERSION = 3
"""Part of the file name, so that tables are recomputed when the probes change."""
IMAGES = 2_000
"""Test images that the probes use: the linear probe all, the others the first of them."""
FEW, SOME, MANY = 32, 128, 500
"""Images for probes in float64 or with gradients, for those that keep attention or maps, for those that classify."""
NAME = "probes.csv"
KEYS = ["probe", "model", "layer"]
HEADER = ("measure", "model", "layer", "untrained", "without learning")
NOTE = (
    "Means over chains ± their standard deviation, by number of training images; beside them the same networks before"
    " training, and what it would be without learning, where that is known."
)
WORDS = {
    "accuracy_shifted": "accuracy on shifted images",
    "attention_adaptive": "how far attention varies with the image",
    "attention_beyond": "attention beyond neighbours, over that of even attention",
    "attention_distance": "mean attention distance (tokens)",
    "attention_local": "share of local heads",
    "cka_ends": "similarity of the first and last layer (CKA)",
    "consistency": "same answer for two shifts",
    "consistency_correct": "same answer for two shifts, of images that are right",
    "dense_ratio": "weights of fully connected layers, over those of the convolutions",
    "equivariance_1px": "equivariance error, 1 px",
    "equivariance_4px": "equivariance error, 4 px",
    "filters_low_frequency": "low-frequency energy of the first filters",
    "filters_top4": "variance of the first filters in four components",
    "lie_rate": "change of the logits per pixel of movement",
    "linear_probe": "accuracy of a linear probe",
    "patch_order": "change of the logits when patches are shuffled",
    "position_loss": "accuracy lost without positions",
    "position_nearness": "likeness of near positions",
    "receptive_rms": "spread of the receptive field (px)",
    "support": "side of the receptive field (px)",
}
"""Readable names of probes (docs/claims.md), where those of record.title do not do."""
MIXED = "Runs that differ in more than the chain (seed, budget or recipe) are averaged here."


def probe_table(run_dirs: Sequence[Path], parallel: int | None) -> pd.DataFrame:
    """Return the probes of finished runs, one row per run, probe and layer, with PROBED columns.

    Runs that have no table yet are probed, `parallel` at a time. The table is a file of the run, so that an interrupted
    command continues where it was.
    """
    left = [folder for folder in run_dirs if not _path(folder).exists()]
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    if left:
        with worker_processes(len(slots_for([], parallel, 1)), context) as pool:
            for _ in tracked(pool.map(probe_run, left), "probing", len(left)):
                pass
    parts = [pd.DataFrame(columns=list(PROBED))]
    for folder in run_dirs:
        run = read_frozen(folder)
        table = read_table(_path(folder), keep_default_na=False, na_values=["NaN"])
        parts.append(table.assign(run_id=folder.name, chain=run.chain, **place_of(run))[list(PROBED)])
    return pd.concat(parts, ignore_index=True) if run_dirs else parts[0]


def place_of(run: RunConfig) -> dict[str, str | int]:
    """Return the values of a run by which a rule of the ledger selects it.

    The world is its dataset, with `-local` or `-global` where only that cue is present.
    """
    world = run.dataset
    if isinstance(run.data, CuesData):
        alone = "-local" if run.data.alpha == 0 else "-global" if run.data.beta == 0 else ""
        world = f"{run.data.name}{alone}{run.data.permute.suffix}"
    return {"world": world, "augment": run.augment.name, "model": run.model.name, "n_train": run.n_train}


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


def compare_networks(model: nn.Module, untrained: nn.Module, images: Tensor, labels: Tensor) -> pd.DataFrame:
    """Return probe, layer, value, untrained, analytic for normalised images (N, 3, S, S); NaN without a baseline.

    What is measured: docs/claims.md.
    """
    found, start = (
        pd.DataFrame(probe_network(network, images, labels, trained=network is model)).set_index(["probe", "layer"])
        for network in (model, untrained)
    )
    return found.assign(untrained=start["value"]).reset_index()[["probe", "layer", "value", "untrained", "analytic"]]


def probe_network(model: nn.Module, images: Tensor, labels: Tensor, *, trained: bool = True) -> Iterator[Found]:
    """Yield every number of one ResNet or ViT of timm; `images` are normalised (N, 3, S, S).

    Before training its predictions are meaningless; only the linear probe then uses the labels.
    """
    some, many = images[:SOME], (images[:MANY], labels[:MANY])
    yield from equivariance(model, images[:FEW])
    yield lie_derivative(model, some)
    yield from linear_probe(model, images, labels)
    yield from receptive_field(model, images[:4])
    yield cka_ends(model, some)
    yield from first_filters(model)
    yield patch_order(model, images[:FEW])
    if trained:
        yield from shift_consistency(model, *many)
    if not is_vit(model):
        yield dense_ratio(model, images.shape[-1])
        return
    yield from attention(model, some)
    if getattr(model, "pos_embed", None) is not None:
        yield position_nearness(model)
        if trained:
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


class Options(Frozen):
    """The settings of conf/probe.yaml, which documents them."""

    name: str = Field(coerce_numbers_to_str=True)
    output: Path | None
    outputs: Path
    parallel: int | None


def main(options: Options, console: Console) -> None:
    """Write the table of probes of the runs of the sweep `name` that are done, and its section."""
    sweep = read_sweep(options.outputs, options.name)
    if not sweep.records:
        raise CrossoverError(f"no run of sweep {sweep.name} is done; run {sweep.command} first")
    if len(sweep.records) < len(sweep.states):
        print(f"{len(sweep.records)} of {len(sweep.states)} runs are done and are probed")
    folders = [options.outputs / "runs" / record["run_id"] for record in sweep.records]
    table = probe_table(folders, options.parallel)
    section = probe_section(table)
    path = options.output or sweep_dir(options.outputs, options.name) / NAME
    write_text(path, table.to_csv(index=False, float_format="%.6g", na_rep="NaN"))
    for part in section.parts:
        console.print(terminal_table(part.tables[0]))
    print(f"table: {path}")
    if path.name == NAME:
        write_section(section, path.parent)
        print("make report puts it on the sweep's page")


def probe_section(table: pd.DataFrame) -> Section:
    """Return a part for each world and augmentation, with a row for each measure, model and layer."""
    parts = []
    for (world, augment), part in table.groupby(["world", "augment"], sort=False):
        notes = (NOTE, MIXED) if part.duplicated([*KEYS, "n_train", "chain"]).any() else (NOTE,)
        parts.append(Part(title=f"{world}, augmentation {augment}", sentences=notes, tables=(_means(part),)))
    return Section(name="probes", title="What the networks have learned", parts=tuple(parts), files=(NAME,))


def _means(table: pd.DataFrame) -> Table:
    sizes, order = sorted(table["n_train"].unique()), list(dict.fromkeys(table["probe"]))
    rows: list[tuple[Any, ...]] = []
    for (probe, *place), part in table.groupby(KEYS, sort=False):
        values = dict(iter(part.groupby("n_train")["value"]))
        start = (_cell(part[name].mean()) for name in ("untrained", "analytic"))
        cells = (_cell(values[n].mean(), values[n].std()) if n in values else None for n in sizes)
        rows.append((probe, *place, *start, *cells))
    rows.sort(key=lambda row: order.index(row[0]))
    rows = [(WORDS.get(str(probe)) or title(str(probe)), *cells) for probe, *cells in rows]
    heads = [Column(title=name, left=name in HEADER[:3]) for name in (*HEADER, *(f"{n:,}" for n in sizes))]
    return Table(caption="", columns=tuple(heads), rows=tuple(rows))


def _cell(mean: float, deviation: float = float("nan")) -> str | None:
    if pd.isna(mean):
        return None
    return f"{mean:.3g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")
