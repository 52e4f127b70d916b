"""Repeated runs of a published study compared with the originals: identical, as close as another seed, or different."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from crossover.analysis.estimate import estimate
from crossover.analysis.verdict import unit_table
from crossover.config import CrossoverError
from crossover.fields import Frozen
from crossover.record import runs_table
from crossover.report.build import read_study, study_folder
from crossover.report.section import Table, table_of, terminal_table
from crossover.store import read_done, write_text
from crossover.sweep.launch import do_runs
from crossover.sweep_report import study_runs
from crossover.text import say

WIDTH = 3.0
"""Standard deviations of the difference within which two runs count as the same."""


class Options(Frozen):
    """The settings of conf/reproduce.yaml, which documents them."""

    study: str
    runs: int | None
    seed: int
    parallel: int | None
    set: tuple[str, ...]
    outputs: str
    results: Path


def main(options: Options, console: Console) -> None:
    """Repeat a published study or some of its runs, and compare; exit with 1 if a run is outside its tolerance."""
    study = read_study(study_folder(options.results, options.study))
    if study.is_transfer:
        raise CrossoverError(
            f"{options.study} is a transfer study: `{study.command}` repeats it, and make reproduce can repeat the"
            " study of its pre-training"
        )
    planned = study_runs(study, options.outputs, options.set)
    count = len(planned) if options.runs is None else options.runs
    if not 1 <= count <= len(planned):
        raise CrossoverError(f"runs={count} is not possible; {options.study} has {len(planned)} runs")
    runs = [planned[run_id] for run_id in random.Random(options.seed).sample(list(planned), count)]  # noqa: S311
    say(console, f"{options.study}: repeating {len(runs)} of {study.planned} runs")
    do_runs(runs, console, parallel=options.parallel)
    records = read_done(runs)
    for record in records:
        published = study.conditions[f"{record['dataset']} hash"]
        if record["dataset_hash"] not in published:
            raise CrossoverError(
                f"the images of {record['dataset']} are not those of the study: hash {record['dataset_hash'][:16]},"
                f" published {str(published[0])[:16]}"
            )
    table = compare_runs(study.runs, runs_table(records))
    path = Path(options.outputs) / f"{options.study}.csv"
    write_text(path, table.to_csv(index=False, float_format="%.6g"))
    console.print(terminal_table(shown_runs(table)))
    outside = int(table["outcome"].isin(["outside", "no tolerance"]).sum())
    said = f"identical or within {WIDTH:g} standard deviations of the difference of two seeds"
    print(f"{len(table) - outside} of {len(table)} runs are {said}; {path}")
    sys.exit(1 if outside else 0)


def compare_runs(published: pd.DataFrame, repeated: pd.DataFrame) -> pd.DataFrame:
    """Return one row per repeated run: both test errors, their ratio, the largest ratio allowed, and the outcome.

    The same config on another processor differs in rounding, which training amplifies, at most to the difference of two
    seeds: |log ratio| <= WIDTH * sqrt(2) * sd, sd being that of log error between the published chains at this size.
    Without replicates there is no tolerance, and only an identical error is informative.
    """
    variances: dict[tuple[Any, ...], float] = {}
    for (dataset, model), part in published.groupby(["dataset", "model"]):
        table = unit_table(part, str(model), "test_error")
        noise = estimate(table.columns.to_numpy(float), np.log(table.to_numpy(float))).noise
        if noise is not None:
            variances |= {(dataset, model, n): variance for n, variance in zip(table, np.diag(noise), strict=True)}
    table = repeated[["run_id", "model", "n_train", "chain"]].reset_index(drop=True)
    table["published"] = table["run_id"].map(published.set_index("run_id")["test_error"])
    table["repeated"] = repeated["test_error"].to_numpy()
    ratio = table["ratio"] = table["repeated"] / table["published"]
    cells = zip(repeated["dataset"], repeated["model"], repeated["n_train"], strict=True)
    widths = WIDTH * np.sqrt([2 * variances.get(cell, np.nan) for cell in cells])
    table["tolerance"] = np.exp(widths)
    outcome = np.where(np.abs(np.log(ratio)) <= widths, "within", "outside")
    outcome = np.where(np.isnan(widths), "no tolerance", outcome)
    return table.assign(outcome=np.where(table["repeated"] == table["published"], "identical", outcome))


def shown_runs(table: pd.DataFrame) -> Table:
    """Return the comparison for the terminal."""
    allowed = ["" if np.isnan(most) else f"{1 / most:.2f} to {most:.2f}" for most in table["tolerance"]]
    shown = table.assign(allowed=allowed).rename(columns={"n_train": "training images"})
    heads = ["model", "training images", "chain", "published", "repeated", "ratio", "allowed", "outcome"]
    return table_of(shown[heads].to_dict("records"), {"published": "%", "repeated": "%"})
