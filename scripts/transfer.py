"""Pre-train, then move the backbones to other tasks: python scripts/transfer.py transfer=cues (make transfer)."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import RunConfig
from crossover.report.build import Findings, environment, write_findings
from crossover.report.section import write_section
from crossover.report.terminal import terminal_summary
from crossover.report.wandb import mirror_report
from crossover.store import read_done, read_sweep, write_json, write_plan, write_text
from crossover.studies.transfer import (
    COLUMNS,
    READINGS,
    TransferConfig,
    finetuning_rows,
    parse_transfer,
    plan_finetuning,
    plan_readings,
    reading_row,
    transfer_runs,
)
from crossover.sweep.launch import check_data, do_runs
from crossover.sweep.plan import named, parse_sweep, plan_runs, sweep_dir


def compose_train(overrides: list[str]) -> dict[str, Any]:
    return resolved(compose("train", overrides))


@hydra.main(version_base="1.3", config_path="../conf", config_name="transfer")
@one_line_errors
def main(config: DictConfig) -> None:
    console, values = Console(), resolved(config)
    transfer = parse_transfer(values["transfer"])
    outputs, changes = Path(values["outputs"]), values["set"]
    sweep = named(parse_sweep(resolved(compose("sweep", [f"sweep={transfer.source}"]))["sweep"]), changes)
    source = plan_runs(sweep, compose_train, extra=changes, outputs=str(outputs))
    made_by = f"make sweep SWEEP={transfer.source}" + (f' SET="{" ".join(changes)}"' if changes else "")
    write_plan(sweep_dir(outputs, sweep.name), sweep.name, made_by, source)
    console.print(f"pre-training: {len(source)} runs", highlight=False)
    do_runs(source, console, parallel=values["parallel"])
    records = read_done(source)
    directory = sweep_dir(outputs, transfer.name)
    rows = read_all(transfer, source, directory / "readings")
    tunings = plan_finetuning(transfer, source, compose_train)
    console.print(f"fine-tuning: {len(tunings)} runs", highlight=False)
    do_runs([run for *_, run in tunings], console, parallel=values["parallel"])
    tuned = read_done(run for *_, run in tunings)
    rows += finetuning_rows((*entry, record) for entry, record in zip(tunings, tuned, strict=True))
    table = pd.DataFrame(rows, columns=COLUMNS)
    study = HydraConfig.get().runtime.choices["transfer"]
    said = " ".join(item for item in HydraConfig.get().overrides.task if not item.startswith("transfer="))
    command = f"make transfer STUDY={study}" + (f" ARGS={shlex.quote(said)}" if said else "")
    write_text(directory / "transfer.csv", table.to_csv(index=False, float_format="%.6g"))
    write_section(READINGS, directory)
    write_plan(directory, transfer.name, command, [*source, *(run for *_, run in tunings)])
    runs, conditions = transfer_runs(table, records), environment(records)
    findings = Findings(transfer.name, command, runs, len(runs), conditions, sizes="pre-training images")
    report = write_findings(findings, directory, seed=values["seed"])
    terminal_summary(report, console)
    mirror_report(report, read_sweep(outputs, transfer.name))


def read_all(transfer: TransferConfig, source: list[RunConfig], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all readings; those made before are taken from `folder`."""
    from crossover.studies.readers import read_backbone

    rows = []
    planned = plan_readings(transfer, source, compose_train)
    check_data([run for *_, run in planned], Console())
    for target, n_pretrain, run in track(planned, description="reading backbones", transient=True):
        protocols = f"{transfer.draws}x{'-'.join(map(str, transfer.shots))}"
        path = folder / f"{run.identity[:16]}-{protocols}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            readings = read_backbone(
                run, probe_images=transfer.probe_images, shots=transfer.shots, draws=transfer.draws
            )
            write_json(path, [asdict(reading) for reading in readings])
        rows += [reading_row(target, n_pretrain, run, reading) for reading in json.loads(path.read_text())]
    return rows


if __name__ == "__main__":
    run_hydra(main)
