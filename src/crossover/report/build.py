"""What did a sweep find? Tables, figures and pages: a pure function of its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from crossover.analysis.calibration import calibrate
from crossover.analysis.crossover import analyse, curve_summary
from crossover.analysis.pairing import Predictions
from crossover.analysis.sentences import calibration_sentence, extrapolation_sentence, stability_sentence
from crossover.analysis.stability import stability_table
from crossover.analysis.tables import primary_runs
from crossover.config import CrossoverError
from crossover.files import write_json, write_text
from crossover.report import figures
from crossover.report.figures import Ceiling
from crossover.report.page import CALIBRATION, calibration_cells, html_page, markdown_page
from crossover.sweep.records import SweepRecords, runs_table

__all__ = ["Ceiling", "Report", "terminal_summary", "write_curves_report", "write_report"]

MOST_ROWS = 20
"""Sizes up to which the terminal shows a table."""
MOST_NOTES = 6


@dataclass(frozen=True)
class Report:
    """A finished report and what it says."""

    title: str
    command: str
    directory: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    result: dict[str, Any]
    stability: pd.DataFrame
    calibration: dict[str, Any] | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()
    """What failed or is missing, one line each."""

    @property
    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        return [(study["dataset"], pair) for study in self.result["studies"] for pair in study["pairs"]]

    @property
    def verdicts(self) -> list[str]:
        return [f"{dataset}: {pair['summary']}" for dataset, pair in self.pairs]

    @property
    def notes(self) -> list[str]:
        """What was left out, changed or could not be established."""
        said = [
            (study["dataset"], note)
            for study in self.result["studies"]
            for note in (*study["notes"], *(note for pair in study["pairs"] for note in pair["notes"]))
        ]
        return list(dict.fromkeys(f"{dataset}: {note}" for dataset, note in said))

    @property
    def extrapolations(self) -> list[str]:
        said = [(dataset, extrapolation_sentence(pair)) for dataset, pair in self.pairs]
        return [f"{dataset}: {sentence}" for dataset, sentence in said if sentence]

    @property
    def stabilities(self) -> list[tuple[str, pd.DataFrame]]:
        """What the alternatives of each pair say together, and their rows."""
        groups = self.stability.groupby(["dataset", "a", "b"], sort=False)
        return [(f"{dataset}, {a} and {b}: {stability_sentence(rows)}", rows) for (dataset, a, b), rows in groups]

    @property
    def calibrations(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """What the simulated repetitions of each pair say, and their rows by number of chains."""
        entries = self.calibration["pairs"] if self.calibration else []
        return [(f"{e['dataset']}, {e['a']} and {e['b']}: {calibration_sentence(e)}", e["rows"]) for e in entries]


def write_report(
    sweep: SweepRecords,
    directory: Path,
    *,
    also: Sequence[SweepRecords] = (),
    seed: int = 0,
    ceilings: Mapping[str, Sequence[Ceiling]] | None = None,
    designs: int = 0,
) -> Report:
    """Analyse a sweep and write report.html, report.md, crossover.json, the tables and figures/.

    The runs of `also` count as alternatives (another budget, augmentation or recipe) in the stability table;
    `designs` repetitions of the design are simulated (0: none).
    """
    seen: dict[str, dict[str, Any]] = {}
    for one in (sweep, *also):
        seen |= {record["run_id"]: record for record in one.records if record["run_id"] not in seen}
    records = list(seen.values())
    _check_names(records)
    paths = {run_id: path for one in (*also, sweep) for run_id, path in one.predictions.items()}
    return _write(
        sweep.name,
        sweep.command,
        runs_table(records),
        directory,
        seed=seed,
        ceilings=ceilings or {},
        conditions=environment(records),
        trouble=tuple(_trouble(sweep)),
        predictions={run_id: _predictions(path) for run_id, path in paths.items()},
        chance={r["dataset"]: 1 - 1 / len(r["classes"]) for r in records if r.get("classes")},
        designs=designs,
    )


def _check_names(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise CrossoverError when one name stands for two data sets: their runs would be taken for one."""
    hashes: dict[str, str] = {}
    for record in records:
        name = record["dataset"]
        if hashes.setdefault(name, record["dataset_hash"]) != record["dataset_hash"]:
            raise CrossoverError(
                f"two different data sets are called {name}; give one another name: data.name=NAME in its sweep"
            )


def _trouble(sweep: SweepRecords) -> list[str]:
    states = pd.Series(dict(sweep.states))
    lines = [
        f"{run_id} failed: {text.strip().splitlines()[-1] if text.strip() else 'no message'}"
        for run_id, text in sweep.errors.items()
    ]
    left = int((~states.isin(["done", "failed"])).sum())
    if left:
        lines.append(f"{left} of {len(states)} runs are not done yet; continue with: {sweep.command}")
    return lines


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as saved:
        return saved["labels"], saved["predictions"]


def write_curves_report(
    curves: pd.DataFrame, directory: Path, *, title: str, command: str, seed: int = 0, designs: int = 0
) -> Report:
    """Analyse learning curves from anywhere and write the same files."""
    return _write(title, command, curves, directory, seed=seed, designs=designs)


def environment(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the conditions of the runs: each field with the distinct values that occur."""
    seen: dict[str, list[Any]] = {}
    for record in records:
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
    *,
    seed: int,
    ceilings: Mapping[str, Sequence[Ceiling]] | None = None,
    conditions: dict[str, Any] | None = None,
    trouble: tuple[str, ...] = (),
    predictions: Predictions | None = None,
    chance: Mapping[str, float] | None = None,
    designs: int = 0,
) -> Report:
    report = Report(
        title=title,
        command=command,
        directory=directory,
        runs=runs,
        curves=curve_summary(runs),
        result=analyse(runs, rng=np.random.default_rng(seed), predictions=predictions, chance=chance),
        stability=stability_table(runs, rng=np.random.default_rng(seed), predictions=predictions),
        calibration=_calibration(runs, seed, predictions, designs) if designs else None,
        environment=conditions or {},
        trouble=trouble,
    )
    directory.mkdir(parents=True, exist_ok=True)
    drawings = _draw(report, ceilings or {})
    write_json(directory / "crossover.json", report.result)
    write_json(directory / "environment.json", report.environment)
    write_text(directory / "runs.csv", runs.to_csv(index=False))
    write_text(directory / "curves.csv", report.curves.to_csv(index=False, float_format="%.6g"))
    write_text(directory / "stability.csv", report.stability.to_csv(index=False, float_format="%.6g"))
    if report.calibration:
        write_json(directory / "calibration.json", report.calibration)
    write_text(directory / "report.md", markdown_page(report, drawings))
    write_text(directory / "report.html", html_page(report, drawings))
    return report


def _calibration(runs: pd.DataFrame, seed: int, predictions: Predictions | None, designs: int) -> dict[str, Any]:
    return calibrate(runs, rng=np.random.default_rng(seed), designs=designs, predictions=predictions)


def _draw(report: Report, ceilings: Mapping[str, Sequence[Ceiling]]) -> list[tuple[str, str]]:
    """Write the figures; return the name and the text alternative of each."""
    folder, drawn = report.directory / "figures", []
    several = len(report.result["studies"]) > 1
    for study in report.result["studies"]:
        dataset, suffix = study["dataset"], f"-{study['dataset']}" if several else ""
        runs, curves = (table[table["dataset"] == dataset] for table in (report.runs, report.curves))
        said = " ".join(pair["summary"] for pair in study["pairs"])
        drawn.append((f"learning-curves{suffix}", f"Test error over training images on {dataset}. {said}"))
        figure = figures.learning_curves(primary_runs(runs)[0], curves, study, ceilings.get(dataset, ()))
        figures.save(figure, folder, drawn[-1][0])
        pairs = [pair for pair in study["pairs"] if pair["gap"]]
        if not pairs:
            continue
        named = " and of ".join(f"{pair['b']} to {pair['a']}" for pair in pairs)
        drawn.append((f"gap{suffix}", f"Log error ratio of {named} over training images."))
        figures.save(figures.gap(pairs), folder, drawn[-1][0])
        named = "; ".join(f"{pair['b']} for the error of {pair['a']}" for pair in pairs)
        drawn.append((f"data-equivalence{suffix}", f"How many images a model needs: {named}."))
        figures.save(figures.data_equivalence(pairs), folder, drawn[-1][0])
    return drawn


def terminal_summary(report: Report, console: Console) -> None:
    """Print the table of mean errors, what is missing, the verdict and where the page is."""
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
    for sentence, rows_by_chains in report.calibrations:
        _print_calibration(sentence, rows_by_chains, console)
    for line in report.trouble:
        console.print(line, style="red", highlight=False, markup=False)
    for line in report.notes[:MOST_NOTES]:
        console.print(line, style="dim", highlight=False, markup=False)
    if len(report.notes) > MOST_NOTES:
        console.print(f"and {len(report.notes) - MOST_NOTES} more notes on the page", style="dim", highlight=False)
    for line in (*report.extrapolations, *(sentence for sentence, _ in report.stabilities)):
        console.print(line, highlight=False, markup=False)
    for verdict in report.verdicts:
        console.print(verdict, style="bold", highlight=False, markup=False)
    console.print(f"page: {report.directory / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def _print_calibration(sentence: str, rows: list[dict[str, Any]], console: Console) -> None:
    if rows:
        titles = [title for title, _, _ in CALIBRATION]
        table = Table(*titles, title="simulated repetitions of this design", box=None)
        for cells in calibration_cells(rows):
            table.add_row(*cells)
        console.print(table)
    console.print(sentence, highlight=False, markup=False)
