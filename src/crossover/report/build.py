"""What did a sweep find? Tables, figures and pages: a pure function of its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from crossover.analysis.crossover import analyse, curve_summary
from crossover.files import write_json, write_text
from crossover.report import figures
from crossover.report.figures import Ceiling
from crossover.report.page import html_page, markdown_page
from crossover.sweep.records import SweepRecords, runs_table

__all__ = ["Ceiling", "Report", "terminal_summary", "write_curves_report", "write_report"]

MOST_ROWS = 20
"""Sizes up to which the terminal shows a table."""


@dataclass(frozen=True)
class Report:
    """A finished report and what it says."""

    title: str
    command: str
    directory: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    result: dict[str, Any]
    environment: dict[str, Any]
    trouble: tuple[str, ...] = ()
    """What failed or is missing, one line each."""

    @property
    def verdicts(self) -> list[str]:
        return [f"{study['dataset']}: {pair['summary']}" for study in self.result["studies"] for pair in study["pairs"]]

    @property
    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        return [(study["dataset"], pair) for study in self.result["studies"] for pair in study["pairs"]]


def write_report(
    sweep: SweepRecords, directory: Path, *, seed: int = 0, ceilings: Mapping[str, Sequence[Ceiling]] | None = None
) -> Report:
    """Analyse a sweep and write report.html, report.md, crossover.json, runs.csv, curves.csv and figures/."""
    runs = runs_table(sweep.records)
    states = pd.Series(dict(sweep.states))
    trouble = [
        f"{run_id} failed: {text.strip().splitlines()[-1] if text.strip() else 'no message'}"
        for run_id, text in sweep.errors.items()
    ]
    left = int((~states.isin(["done", "failed"])).sum())
    if left:
        trouble.append(f"{left} of {len(states)} runs are not done yet; continue with: {sweep.command}")
    predictions = {run_id: _predictions(path) for run_id, path in sweep.predictions.items()}
    conditions = environment(sweep)
    return _write(
        sweep.name, sweep.command, runs, directory, seed, ceilings or {}, conditions, tuple(trouble), predictions
    )


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as saved:
        return saved["labels"], saved["predictions"]


def write_curves_report(curves: pd.DataFrame, directory: Path, *, title: str, command: str, seed: int = 0) -> Report:
    """Analyse learning curves from anywhere and write the same files."""
    return _write(title, command, curves, directory, seed, {}, {}, ())


def environment(sweep: SweepRecords) -> dict[str, Any]:
    """Return the conditions of the runs: each field with the distinct values that occur."""
    seen: dict[str, list[Any]] = {}
    for record in sweep.records:
        facts = {"device": record["device"], "precision": record["precision"], "threads": record["threads"]}
        facts |= {"commit": record["git"]["commit"], "dirty": record["git"]["dirty"]}
        facts |= {f"{record['dataset']} hash": record["dataset_hash"]} | record["versions"]
        for name, value in facts.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    return seen


def _write(
    title: str,
    command: str,
    runs: pd.DataFrame,
    directory: Path,
    seed: int,
    ceilings: Mapping[str, Sequence[Ceiling]],
    environment: dict[str, Any],
    trouble: tuple[str, ...],
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Report:
    result = analyse(runs, rng=np.random.default_rng(seed), predictions=predictions)
    curves = curve_summary(runs, rng=np.random.default_rng(seed))
    report = Report(title, command, directory, runs, curves, result, environment, trouble)
    directory.mkdir(parents=True, exist_ok=True)
    drawings = _draw(report, ceilings)
    write_json(directory / "crossover.json", result)
    write_json(directory / "environment.json", environment)
    write_text(directory / "runs.csv", runs.to_csv(index=False))
    write_text(directory / "curves.csv", curves.to_csv(index=False, float_format="%.6g"))
    write_text(directory / "report.md", markdown_page(report, drawings))
    write_text(directory / "report.html", html_page(report, drawings))
    return report


def _draw(report: Report, ceilings: Mapping[str, Sequence[Ceiling]]) -> list[tuple[str, str]]:
    """Write the figures; return the name and the text alternative of each."""
    folder, drawn = report.directory / "figures", []
    several = len(report.result["studies"]) > 1
    for study in report.result["studies"]:
        dataset, pairs = study["dataset"], study["pairs"]
        suffix = f"-{dataset}" if several else ""
        runs, curves = (table[table["dataset"] == dataset] for table in (report.runs, report.curves))
        figure = figures.learning_curves(runs, curves, pairs, ceilings.get(dataset, ()))
        figures.save(figure, folder, f"learning-curves{suffix}")
        said = " ".join(pair["summary"] for pair in pairs)
        drawn.append((f"learning-curves{suffix}", f"Test error over training images on {dataset}. {said}"))
        for pair in (pair for pair in pairs if pair["gap"]):
            name = suffix if len(pairs) == 1 else f"{suffix}-{pair['a']}-{pair['b']}"
            figures.save(figures.gap(pair), folder, f"gap{name}")
            drawn.append((f"gap{name}", f"Log error ratio of {pair['b']} to {pair['a']} over training images."))
            figures.save(figures.data_equivalence(pair), folder, f"data-equivalence{name}")
            drawn.append(
                (f"data-equivalence{name}", f"How many images {pair['b']} needs for the error of {pair['a']}.")
            )
    return drawn


def terminal_summary(report: Report, console: Console) -> None:
    """Print the table of mean errors, the verdict and where the page is."""
    for dataset, rows in report.curves.groupby("dataset", sort=False):
        models = list(dict.fromkeys(rows["model"]))
        if rows["n_train"].nunique() > MOST_ROWS:
            continue  # curves measured at unaligned sizes: the page has them
        table = Table("training images", *models, title=f"test error on {dataset}, mean of chains", box=None)
        for column in table.columns:
            column.justify = "right"
        for n, part in rows.groupby("n_train"):
            errors = dict(zip(part["model"], part["error_mean"], strict=True))
            cells = [f"{100 * errors[model]:.1f} %" if model in errors else "" for model in models]
            table.add_row(f"{n:,}", *cells)
        console.print(table)
    for line in report.trouble:
        console.print(line, style="red", highlight=False, markup=False)
    for verdict in report.verdicts:
        console.print(verdict, style="bold", highlight=False, markup=False)
    console.print(f"page: {report.directory / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
