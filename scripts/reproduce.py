"""Repeat runs of a published study and compare: python scripts/reproduce.py study=cues runs=3 (make reproduce)."""

import random
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, RunConfig
from crossover.record import Record, runs_table
from crossover.report.publish import Study, read_study
from crossover.store import read_done, write_text
from crossover.studies.reproduction import WIDTH, compare_runs
from crossover.study import study_runs
from crossover.sweep.launch import do_runs


@hydra.main(version_base="1.3", config_path="../conf", config_name="reproduce")
@one_line_errors
def main(config: DictConfig) -> None:
    console, values = Console(), resolved(config)
    study = read_study(Path(values["results"]) / values["study"])
    if study.is_transfer:
        raise CrossoverError(
            f"{study.name} was read from the backbones of other runs: `{study.command}` repeats it, and make reproduce"
            " repeats the study of its pre-training"
        )
    runs = chosen_runs(study, values)
    console.print(f"{study.name}: repeating {len(runs)} of {len(study.run_ids)} runs", highlight=False)
    do_runs(runs, console, parallel=values["parallel"])
    records = read_done(runs)
    check_same_data(study, records)
    table = compare_runs(study.runs, runs_table(records))
    path = Path(values["outputs"]) / f"{study.name}.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
    show(table, console)
    outside = int(table["outcome"].isin(["outside", "no tolerance"]).sum())
    console.print(
        f"{len(table) - outside} of {len(table)} runs are identical or within {WIDTH:g} standard deviations of the"
        f" difference of two seeds; {path}",
        style="red" if outside else "bold",
        highlight=False,
    )
    sys.exit(1 if outside else 0)


def chosen_runs(study: Study, values: dict[str, Any]) -> list[RunConfig]:
    """Return the runs to repeat, as today's conf/ plans them; raise CrossoverError when it plans others."""
    planned = study_runs(study, lambda name, o: resolved(compose(name, o)), values["outputs"], values["set"])
    count = len(study.run_ids) if values["runs"] is None else int(values["runs"])
    if not 1 <= count <= len(study.run_ids):
        raise CrossoverError(f"runs={count} is not possible; {study.name} has {len(study.run_ids)} runs")
    return [planned[run_id] for run_id in random.Random(values["seed"]).sample(study.run_ids, count)]  # noqa: S311


def check_same_data(study: Study, records: list[Record]) -> None:
    for record in records:
        published = study.environment[f"{record['dataset']} hash"]
        if record["dataset_hash"] not in published:
            raise CrossoverError(
                f"the images of {record['dataset']} are not those of the study: hash {record['dataset_hash'][:16]},"
                f" published {published[0][:16]}"
            )


def show(table: Any, console: Console) -> None:
    shown = Table("model", "training images", "chain", "published", "repeated", "ratio", "allowed", "", box=None)
    for row in table.itertuples():
        allowed = "–" if row.tolerance is None else f"{1 / row.tolerance:.2f} to {row.tolerance:.2f}"
        errors = (f"{100 * value:.2f} %" for value in (row.published, row.repeated))
        shown.add_row(row.model, f"{row.n_train:,}", str(row.chain), *errors, f"{row.ratio:.3f}", allowed, row.outcome)
    console.print(shown)


if __name__ == "__main__":
    run_hydra(main)
