"""A transfer study: the backbones of a pre-training sweep, read and fine-tuned on other tasks."""

import itertools
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from pydantic import Field
from rich.console import Console

from crossover.cli import compose_train, composed
from crossover.config import CrossoverError, RunConfig, parse_run, validate
from crossover.fields import Frozen
from crossover.record import runs_table
from crossover.report.build import Findings, environment, write_findings
from crossover.report.section import Section, write_section
from crossover.report.terminal import terminal_summary
from crossover.report.wandb import mirror_report
from crossover.store import read_done, read_sweep, write_json, write_plan, write_text
from crossover.sweep.launch import check_data, do_runs
from crossover.sweep.plan import Compose, named, override, parse_sweep, plan_runs, sweep_dir
from crossover.sweep.progress import tracked

COLUMNS = [
    *("target", "protocol", "n_target", "model", "n_pretrain", "chain", "seed", "draws"),
    *("test_error", "val_error", "choice", "init_from"),
]
"""Of transfer.csv; `choice` is the ridge penalty or the factor of the learning rate chosen on validation."""


class FineTuning(Frozen):
    """Training of all weights on the target, from a backbone."""

    targets: tuple[str, ...]
    n_train: tuple[int, ...]
    lr_factors: tuple[float, ...]
    """Of the rate of the pre-training recipe; for each backbone and size the one with the lowest validation error."""
    set: dict[str, Any] = {}
    """Overrides of conf/train.yaml, such as the budget."""


class TransferConfig(Frozen):
    """A transfer study: the backbones of `source`, read and fine-tuned on each target."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    source: str
    """A sweep of conf/sweep: its n_train are the n_pretrain here."""
    targets: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name to overrides of conf/train.yaml that give its data."""
    probe_images: int = Field(ge=2)
    """Images of the target that the linear probe is fitted to; few-shot draws are taken from them."""
    shots: tuple[int, ...]
    """Images per class of the few-shot readers."""
    draws: int = Field(ge=1)
    finetune: FineTuning | None = None


def main(values: dict[str, Any], console: Console) -> None:
    """Pre-train, read and fine-tune the backbones that are left, and report over n_pretrain."""
    transfer = parse_transfer(values["transfer"])
    outputs, changes = Path(values["outputs"]), values["set"]
    sweep = named(parse_sweep(composed("sweep", [f"sweep={transfer.source}"])["sweep"]), changes)
    source = plan_runs(sweep, compose_train, extra=changes, outputs=str(outputs))
    made_by = f"make sweep SWEEP={transfer.source}" + (f' SET="{" ".join(changes)}"' if changes else "")
    write_plan(sweep_dir(outputs, sweep.name), sweep.name, made_by, source)
    console.print(f"pre-training: {len(source)} runs", highlight=False)
    do_runs(source, console, parallel=values["parallel"])
    records = read_done(source)
    directory = sweep_dir(outputs, transfer.name)
    rows = read_all(transfer, source, directory / "readings", console)
    tunings = plan_finetuning(transfer, source, compose_train)
    console.print(f"fine-tuning: {len(tunings)} runs", highlight=False)
    tuned = [run for *_, run in tunings]
    do_runs(tuned, console, parallel=values["parallel"])
    rows += finetuning_rows((*entry, record) for entry, record in zip(tunings, read_done(tuned), strict=True))
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(directory / "transfer.csv", table.to_csv(index=False, float_format="%.6g"))
    write_section(READINGS, directory)
    write_plan(directory, transfer.name, _command(), [*source, *tuned])
    runs, conditions = transfer_runs(table, records), environment(records)
    findings = Findings(transfer.name, _command(), runs, len(runs), conditions, sizes="pre-training images")
    report = write_findings(findings, directory, seed=values["seed"])
    terminal_summary(report, console)
    mirror_report(report, read_sweep(outputs, transfer.name))


def _command() -> str:
    """Return what repeats the study."""
    config = HydraConfig.get()
    said = " ".join(item for item in config.overrides.task if not item.startswith("transfer="))
    return f"make transfer STUDY={config.runtime.choices['transfer']}" + (f" ARGS={shlex.quote(said)}" if said else "")


def read_all(transfer: TransferConfig, source: list[RunConfig], folder: Path, console: Console) -> list[dict[str, Any]]:
    """Return the rows of all readings; those made before are taken from `folder`."""
    from crossover.studies.readers import read_backbone

    rows = []
    planned = plan_readings(transfer, source, compose_train)
    check_data([run for *_, run in planned], console)
    protocols = f"{transfer.draws}x{'-'.join(map(str, transfer.shots))}"
    for target, n_pretrain, run in tracked(planned, "reading backbones", len(planned), console):
        path = folder / f"{run.identity[:16]}-{protocols}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            readings = read_backbone(
                run, probe_images=transfer.probe_images, shots=transfer.shots, draws=transfer.draws
            )
            write_json(path, [asdict(reading) for reading in readings])
        rows += [reading_row(target, n_pretrain, run, reading) for reading in json.loads(path.read_text())]
    return rows


def parse_transfer(values: dict[str, Any]) -> TransferConfig:
    """Return a validated transfer study; raise CrossoverError naming what is wrong."""
    transfer = validate(TransferConfig, values, "transfer")
    unknown = sorted(set(transfer.finetune.targets if transfer.finetune else ()) - set(transfer.targets))
    if unknown:
        raise CrossoverError(f"finetune.targets has {unknown[0]}; there is {', '.join(transfer.targets)}")
    return transfer


def backbones(source: Iterable[RunConfig]) -> list[tuple[int, RunConfig]]:
    """Return n_pretrain and source run of every backbone; 0 is the untrained network of each model and chain."""
    runs = list(source)
    untrained = {(run.model.name, run.chain, run.seed): run for run in runs}
    return [(0, run) for run in untrained.values()] + [(run.n_train, run) for run in runs]


def target_run(
    transfer: TransferConfig,
    target: str,
    n_pretrain: int,
    source: RunConfig,
    compose: Callable[[tuple[str, ...]], dict[str, Any]],
    *,
    n_train: int,
    lr_factor: float = 1.0,
    extra: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Return the run of a backbone on a target: the source's model, chain, seed and recipe, its rate times a factor."""
    pairs = transfer.targets[target] | dict(extra or {})
    values = compose(tuple(override(key, value) for key, value in pairs.items()))
    recipe = source.recipe.model_dump(mode="json")
    values |= {
        "model": source.model.model_dump(mode="json"),
        "recipe": recipe | {"lr": recipe["lr"] * lr_factor},
        "n_train": n_train,
        "chain": source.chain,
        "seed": source.seed,
        "init_from": source.run_id if n_pretrain else None,
        "machine": source.machine.model_dump(mode="json"),
        "logger": source.logger.model_dump(mode="json") | {"group": transfer.name},
    }
    return parse_run(values)


def plan_readings(
    transfer: TransferConfig, source: Sequence[RunConfig], compose: Compose
) -> list[tuple[str, int, RunConfig]]:
    """Return target, n_pretrain and the target's run of every backbone that is read there."""
    composed = _cached(compose)
    return [
        (target, n, target_run(transfer, target, n, run, composed, n_train=transfer.probe_images))
        for target in transfer.targets
        for n, run in backbones(source)
    ]


def plan_finetuning(
    transfer: TransferConfig, source: Sequence[RunConfig], compose: Compose
) -> list[tuple[str, int, float, RunConfig]]:
    """Return target, n_pretrain, factor of the rate and run of every fine-tuning."""
    tuning, composed = transfer.finetune, _cached(compose)
    if tuning is None:
        return []
    return [
        (target, n, factor, target_run(
            transfer, target, n, run, composed, n_train=n_train, lr_factor=factor, extra=tuning.set
        ))
        for target, (n, run) in itertools.product(tuning.targets, backbones(source))
        for n_train, factor in itertools.product(tuning.n_train, tuning.lr_factors)
    ]  # fmt: skip


def _cached(compose: Compose) -> Callable[[tuple[str, ...]], dict[str, Any]]:
    """Composing takes 50 ms, and all backbones of a target share it."""
    known: dict[tuple[str, ...], dict[str, Any]] = {}

    def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
        if overrides not in known:
            known[overrides] = compose(list(overrides))
        return dict(known[overrides])

    return composed


def reading_row(target: str, n_pretrain: int, run: RunConfig, reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of transfer.csv of one reading of a backbone."""
    return _row(target, n_pretrain, run) | {
        "protocol": reading["protocol"],
        "n_target": reading["n_target"],
        "draws": reading["draws"],
        "test_error": reading["test_error"],
        "val_error": reading["val_error"],
        "choice": reading["penalty"],
    }


def finetuning_rows(done: Iterable[tuple[str, int, float, RunConfig, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return a row per target, size and backbone: the run whose rate has the lowest validation error."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for target, n, factor, run, record in done:
        row = _row(target, n, run) | {"protocol": f"finetune{run.n_train}", "n_target": run.n_train, "draws": 1}
        row |= {"test_error": record["test_error"], "val_error": record["val_error"], "choice": factor}
        key = (target, run.n_train, run.model.name, n, run.chain, run.seed)
        if key not in rows or row["val_error"] < rows[key]["val_error"]:
            rows[key] = row
    return list(rows.values())


def _row(target: str, n_pretrain: int, run: RunConfig) -> dict[str, Any]:
    return {
        "target": target,
        "model": run.model.name,
        "n_pretrain": n_pretrain,
        "chain": run.chain,
        "seed": run.seed,
        "init_from": run.init_from,
    }


def transfer_runs(table: pd.DataFrame, records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows of transfer.csv as a table of runs: n_pretrain as n_train, target and protocol as the dataset.

    Costs are those of the pre-training. Rows of untrained backbones are left out: their n_pretrain has no logarithm.
    """
    source = runs_table(records).set_index("run_id", drop=False)
    trained = table[table["n_pretrain"] > 0]
    runs = source.loc[trained["init_from"]].reset_index(drop=True)
    names = (trained["target"] + "-" + trained["protocol"]).to_numpy()
    runs["dataset"], runs["run_id"] = names, runs["run_id"] + "/" + names
    for name in ("test_error", "val_error"):
        runs[name] = trained[name].to_numpy()
    of_source = [
        *("test_loss", "val_loss", "last_val_error", "train_error", "train_loss", "loss_floor", "best_step", "n_test")
    ]
    return runs.drop(columns=of_source)


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
"""The section of the report of a transfer study."""
