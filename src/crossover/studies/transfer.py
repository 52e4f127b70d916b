"""A transfer study: backbones of a pre-training sweep, probed linearly and fine-tuned on other tasks."""

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from pydantic import Field, model_validator
from rich.console import Console

from crossover.cli import composed
from crossover.config import RunConfig, parse_run
from crossover.data.cache import Dataset, open_dataset
from crossover.fields import Frozen, Name
from crossover.record import Record, runs_table
from crossover.report.build import environment, write_report
from crossover.report.contents import ReportInput, pack_predictions, read_predictions
from crossover.report.page import terminal_summary
from crossover.report.section import Section, write_section
from crossover.report.wandb import mirror_report
from crossover.store import read_done, read_sweep, weights_hash, write_json, write_plan, write_text
from crossover.studies.target import Reading, overlap_sentence, read_backbone
from crossover.sweep.launch import check_data, do_runs
from crossover.sweep.plan import make_command, named, override, plan_runs, read_preset, sweep_dir, with_twins
from crossover.text import say, tracked
from crossover.training.run import save_predictions

COLUMNS = (
    *("target", "protocol", "n_target", "model", "n_pretrain", "chain", "seed", "draws", "test_error", "val_error"),
    *("choice", "init_from"),
)
"""Columns of transfer.csv: a backbone evaluated by a protocol on a target. Errors are fractions, n_pretrain is 0 for an
untrained network, and `choice` is the ridge penalty, or the factor of the learning rate, chosen on validation."""
Row = dict[str, Any]
"""A row of transfer.csv: COLUMNS, and the file of its predictions."""
OF_SOURCE = ("test_loss", "val_loss", "last_val_error", "train_error", "train_loss", "loss_floor", "best_step")
"""Columns of a table of runs that say nothing of a target."""


class FineTuning(Frozen):
    """Training of all weights on the target, from a backbone."""

    targets: tuple[str, ...]
    n_train: tuple[int, ...]
    lr_factors: tuple[float, ...] = (1.0,)
    """Factors on the pre-training rate; each backbone and size takes the one with the lowest validation error."""
    set: dict[str, object] = {}
    """Overrides of conf/train.yaml, such as the budget."""


class TransferConfig(Frozen):
    """A transfer study: the backbones of `source`, probed and fine-tuned on each target."""

    name: Name
    source: str
    """A sweep of conf/sweep: its n_train are the n_pretrain here."""
    targets: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name to overrides of conf/train.yaml that give its data."""
    probe_images: int = Field(ge=2)
    """Images of the target that the linear probe is fitted to; few-shot draws are taken from them."""
    shots: tuple[int, ...]
    """Images per class of the few-shot probes."""
    draws: int = Field(ge=1)
    finetune: FineTuning | None = None

    @model_validator(mode="after")
    def _known_targets(self) -> "TransferConfig":
        unknown = sorted(set(self.finetune.targets if self.finetune else ()) - set(self.targets))
        if unknown:
            raise ValueError(f"finetune.targets has {unknown[0]}; there is {', '.join(self.targets)}")
        return self


class Options(Frozen):
    """The settings of conf/transfer.yaml."""

    transfer: TransferConfig
    set: tuple[str, ...]
    """Overrides of the pre-training runs."""
    parallel: int | None
    outputs: Path
    seed: int
    """Of the bootstrap."""


class Backbone(NamedTuple):
    """A pre-trained network on a target; `run` is the target's, and starts from it."""

    target: str
    n_pretrain: int
    factor: float
    """Of the learning rate."""
    run: RunConfig


def main(options: Options, console: Console) -> None:
    """Pre-train, probe and fine-tune the backbones that are left, and report over n_pretrain."""
    transfer, outputs, changes = options.transfer, options.outputs, options.set
    sweep = named(read_preset(transfer.source), changes)
    whole = plan_runs(sweep.model_copy(update={"saturation": None}), extra=changes, outputs=str(outputs))
    source = with_twins(whole, sweep)
    write_plan(sweep_dir(outputs, sweep.name), sweep.name, make_command(transfer.source, changes, []), source)
    say(console, f"pre-training: {len(source)} runs")
    do_runs(source, console, parallel=options.parallel)
    records = read_done(source)
    directory = sweep_dir(outputs, transfer.name)
    rows = read_all(transfer, source, directory / "readings", console)
    tunings = plan_backbones(transfer, whole, transfer.finetune)
    say(console, f"fine-tuning: {len(tunings)} runs")
    tuned = [backbone.run for backbone in tunings]
    do_runs(tuned, console, parallel=options.parallel)
    rows += [tuning_row(*pair) for pair in zip(tunings, read_done(tuned), strict=True)]
    table = best_rows(pd.DataFrame(rows))
    write_text(directory / "transfer.csv", table[list(COLUMNS)].to_csv(index=False, float_format="%.6g"))
    moved = {backbone.target: backbone.run for backbone in plan_readings(transfer, source[:1])}
    targets = {target: open_data(run) for target, run in moved.items()}
    sentences = (*READINGS.sentences, *overlaps(source[0], moved.values()))
    write_section(READINGS.model_copy(update={"sentences": sentences}), directory)
    write_plan(directory, transfer.name, _command(), [*source, *tuned])
    runs = transfer_runs(table, records, n_test={name: len(data.test_labels) for name, data in targets.items()})
    saved = table.loc[table["n_pretrain"] > 0, "predictions"]
    inputs = ReportInput(
        transfer.name,
        _command(),
        runs,
        conditions=environment(records),
        predictions=read_predictions({k: p for k, p in zip(runs["run_id"], saved, strict=True) if p is not None}),
        names={f"{row.target}-{row.protocol}": targets[str(row.target)].classes for row in table.itertuples()},
    )
    pack_predictions(inputs, directory)
    report = write_report(inputs, directory, seed=options.seed)
    terminal_summary(report, console)
    mirror_report(report, read_sweep(outputs, transfer.name))


def _command() -> str:
    config = HydraConfig.get()
    said = " ".join(item for item in config.overrides.task if not item.startswith("transfer="))
    return f"make transfer STUDY={config.runtime.choices['transfer']}" + (f" ARGS={shlex.quote(said)}" if said else "")


def read_all(transfer: TransferConfig, source: Sequence[RunConfig], folder: Path, console: Console) -> list[Row]:
    """Return the rows of all probes; `folder` keeps them."""
    rows: list[Row] = []
    planned = plan_readings(transfer, source)
    check_data([backbone.run for backbone in planned], console)
    protocols = f"{transfer.draws}x{'-'.join(map(str, transfer.shots))}"
    for backbone in tracked(planned, "reading backbones", len(planned)):
        path = folder / f"{inputs_hash(backbone.run)}-{protocols}.json"
        saved = path.with_suffix(".npz")
        if not (path.exists() and saved.exists()):
            readings, test = read_backbone(
                backbone.run, probe_images=transfer.probe_images, shots=transfer.shots, draws=transfer.draws
            )
            save_predictions(saved, *(part.numpy() for part in test))
            write_json(path, [reading._asdict() for reading in readings])
        for reading in (Reading(**values) for values in json.loads(path.read_text())):
            rows.append(reading_row(backbone, reading, saved if reading.protocol == "probe" else None))
    return rows


def inputs_hash(run: RunConfig) -> str:
    """Return a hash of all that a reading depends on: the run, its images and the weights that are read."""
    images = open_data(run).hash
    weights = None if run.init_from is None else weights_hash(run.init_from, Path(run.machine.outputs))
    return hashlib.sha256(f"{run.identity} {images} {weights}".encode()).hexdigest()[:16]


def open_data(run: RunConfig) -> Dataset:
    return open_dataset(run.data, Path(run.machine.data_dir))


def overlaps(source: RunConfig, targets: Iterable[RunConfig]) -> list[str]:
    """Return a sentence per target on test images that are in the source too; none for drawn images."""
    photographs = [run for run in targets if "cues" not in (run.data.kind, source.data.kind)]
    return [overlap_sentence(open_data(source), open_data(run)) for run in photographs]


def plan_readings(transfer: TransferConfig, source: Sequence[RunConfig]) -> list[Backbone]:
    once = FineTuning(targets=tuple(transfer.targets), n_train=(transfer.probe_images,))
    return plan_backbones(transfer, source, once)


def plan_backbones(transfer: TransferConfig, source: Sequence[RunConfig], tuning: FineTuning | None) -> list[Backbone]:
    """Return the backbones of `source`, and the untrained network of each model and chain, on each target and size.

    Each has its source's model, chain, seed and recipe, the rate times a factor.
    """
    if tuning is None:
        return []
    planned = []
    untrained = {(run.model.name, run.chain, run.seed): run for run in source}
    for target in tuning.targets:
        changes = transfer.targets[target] | tuning.set
        values = composed("train", [override(key, value) for key, value in changes.items()])
        for n, run in [*((0, run) for run in untrained.values()), *((run.n_train, run) for run in source)]:
            own = run.model_dump(mode="json", include={"model", "recipe", "machine", "logger"})
            own["logger"]["group"] = transfer.name
            place = {"chain": run.chain, "seed": run.seed, "init_from": run.run_id if n else None}
            for n_train, factor in itertools.product(tuning.n_train, tuning.lr_factors):
                recipe = own["recipe"] | {"lr": own["recipe"]["lr"] * factor}
                moved = parse_run({**values, **own, **place, "recipe": recipe, "n_train": n_train})
                planned.append(Backbone(target, n, factor, moved))
    return planned


def reading_row(backbone: Backbone, reading: Reading, predictions: Path | None = None) -> Row:
    """Return a row with COLUMNS, and the file of its predictions."""
    run = backbone.run
    return reading._asdict() | {
        "target": backbone.target,
        "model": run.model.name,
        "n_pretrain": backbone.n_pretrain,
        "chain": run.chain,
        "seed": run.seed,
        "choice": reading.penalty,
        "init_from": run.init_from,
        "predictions": predictions,
    }


def tuning_row(backbone: Backbone, record: Record) -> Row:
    n, errors = backbone.run.n_train, (record["test_error"], record["val_error"])
    reading = Reading(f"finetune{n}", n, 1, *errors, penalty=backbone.factor)
    return reading_row(backbone, reading, backbone.run.run_dir / "predictions.npz")


def best_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each target, protocol, size and backbone: of several rates, by lowest validation error."""
    same = table.groupby([*COLUMNS[:7], "init_from"], sort=False, dropna=False)
    return table.loc[same["val_error"].idxmin()].reset_index(drop=True)


def transfer_runs(table: pd.DataFrame, records: Sequence[Record], n_test: Mapping[str, int]) -> pd.DataFrame:
    """Return the rows as a table of runs: n_pretrain as n_train, target and protocol as the dataset.

    Costs are those of the pre-training; `n_test` counts the test images of each target. Rows of untrained backbones are
    left out: their n_pretrain has no logarithm.
    """
    trained = table[table["n_pretrain"] > 0].reset_index(drop=True)
    runs = runs_table(records).set_index("run_id").loc[trained["init_from"]].reset_index()
    dataset = trained["target"] + "-" + trained["protocol"]
    runs = runs.assign(
        run_id=trained["init_from"] + "/" + dataset, dataset=dataset, **trained[["test_error", "val_error"]]
    )
    return runs.assign(n_test=trained["target"].map(n_test)).drop(columns=list(OF_SOURCE))


READINGS = Section(
    name="transfer",
    title="How the backbones were read",
    sentences=(
        "Each data set of this page is a target and a protocol: `probe` fits a linear reader to the frozen features of"
        " many labelled images, `5shot` to those of five images a class, and `finetune` trains the whole network on.",
        "Penalties and rates were chosen on validation images of the target. transfer.csv has every reading, those of"
        " untrained backbones too.",
    ),
    files=("transfer.csv",),
)
