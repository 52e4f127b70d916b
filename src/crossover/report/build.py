"""What did a sweep find? Tables, figures and pages: a pure function of its records."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from crossover.analysis.classes import class_table
from crossover.analysis.pairing import Predictions
from crossover.analysis.robustness import calibrate, stability_table
from crossover.analysis.runs import primary_runs
from crossover.analysis.sentences import calibration_sentence, extrapolation_sentence, stability_sentence
from crossover.analysis.verdict import analyse, curve_summary
from crossover.config import CrossoverError
from crossover.record import Record, runs_table
from crossover.report import figures
from crossover.report.figures import Ceiling
from crossover.report.markdown import markdown_page
from crossover.report.page import html_page, shown_classes
from crossover.report.style import save
from crossover.store import State, SweepRecords, file_name, write_json, write_text

__all__ = ["Ceiling", "Extras", "Findings", "Report", "Sample", "write_curves_report", "write_findings", "write_report"]


@dataclass(frozen=True)
class Sample:
    """A picture of what networks are trained on: images of a data set above, augmented below."""

    dataset: str
    augment: str
    classes: tuple[str, ...]
    """Of the columns."""
    path: Path
    """PNG."""


@dataclass(frozen=True)
class Extras:
    """What is known of the data sets besides the records; by data set."""

    ceilings: Mapping[str, Sequence[Ceiling]] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    no_samples: str = "No sample images: only curves were given."
    """Why there are none."""


@dataclass(frozen=True)
class Findings:
    """What goes into a report: runs, and what is known of them."""

    title: str
    command: str
    """What repeats it."""
    runs: pd.DataFrame
    planned: int
    conditions: dict[str, Any] = field(default_factory=dict)
    unfinished: Mapping[str, State] = field(default_factory=dict)
    """Run id to state of the planned runs that are not done."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Run id to the message of a failed run."""
    predictions: Predictions = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Data set to its classes."""
    chance: Mapping[str, float] = field(default_factory=dict)
    """Data set to the error of guessing."""
    extras: Extras = Extras()
    sizes: str = "training images"
    """What n_train counts."""


@dataclass(frozen=True)
class Report:
    """A finished report and what it says."""

    findings: Findings
    directory: Path
    curves: pd.DataFrame
    result: dict[str, Any]
    stability: pd.DataFrame
    classes: pd.DataFrame
    calibration: dict[str, Any] | None = None

    @property
    def runs(self) -> pd.DataFrame:
        return self.findings.runs

    @property
    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        return [(study["dataset"], pair) for study in self.result["studies"] for pair in study["pairs"]]

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each pair, or why there is none."""
        said = [f"{dataset}: {pair['summary']}" for dataset, pair in self.pairs]
        return said or [f"One model only, {self.runs['model'].iloc[0]}: there is nothing to compare it with."]

    @property
    def trouble(self) -> list[str]:
        """What failed or is missing, one line each."""
        lines = [
            f"{run_id} failed: {text.strip().splitlines()[-1] if text.strip() else 'no message'}"
            for run_id, text in self.findings.errors.items()
        ]
        left = sum(state != "failed" for state in self.findings.unfinished.values())
        if left:
            lines.append(
                f"{left} of {self.findings.planned} runs are not done yet; continue with: {self.findings.command}"
            )
        return lines

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

    @property
    def commands(self) -> list[str]:
        """What repeats the study, from a clone of the code."""
        commits = [str(commit) for commit in self.findings.conditions.get("commit", []) if commit]
        return [*(f"git checkout {shlex.quote(commit)}" for commit in commits[:1]), self.findings.command]


def write_report(
    sweep: SweepRecords,
    directory: Path,
    *,
    also: Sequence[SweepRecords] = (),
    seed: int = 0,
    extras: Extras | None = None,
    designs: int = 0,
) -> Report:
    """Analyse a sweep and write report.html, report.md, crossover.json, the tables and figures/.

    The runs of `also` count as alternatives (another budget, augmentation or recipe) in the stability table;
    `designs` repetitions of the design are simulated (0: none).
    """
    seen: dict[str, Record] = {}
    for one in (sweep, *also):
        seen |= {record["run_id"]: record for record in one.records if record["run_id"] not in seen}
    records = list(seen.values())
    _check_names(records)
    paths = {run_id: path for one in (*also, sweep) for run_id, path in one.predictions.items()}
    named = {record["dataset"]: record["classes"] for record in records if record.get("classes")}
    findings = Findings(
        sweep.name,
        sweep.command,
        runs_table(records),
        planned=len(sweep.planned),
        conditions=environment(records),
        unfinished={run_id: state for run_id, state in sweep.states.items() if state != "done"},
        errors=sweep.errors,
        predictions=_read_predictions(paths),
        names=named,
        chance={dataset: 1 - 1 / len(classes) for dataset, classes in named.items()},
        extras=extras or Extras(),
    )
    return write_findings(findings, directory, seed=seed, designs=designs)


def _check_names(records: Sequence[Mapping[str, Any]]) -> None:
    """Raise CrossoverError when one name stands for two data sets: their runs would be taken for one."""
    hashes: dict[str, str] = {}
    for record in records:
        name = record["dataset"]
        if hashes.setdefault(name, record["dataset_hash"]) != record["dataset_hash"]:
            raise CrossoverError(
                f"two different data sets are called {name}; give one another name: data.name=NAME in its sweep"
            )


def _read_predictions(paths: Mapping[str, Path]) -> Predictions:
    """Return labels and predictions of each run. Runs share the labels of one test set: size and checksum tell."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    known: dict[tuple[int, int], np.ndarray] = {}
    for run_id, path in paths.items():
        with np.load(path) as saved:
            member = saved.zip.getinfo("labels.npy")
            key = member.file_size, member.CRC
            if key not in known:
                known[key] = saved["labels"]
            read[run_id] = known[key], saved["predictions"]
    return read


def write_curves_report(
    curves: pd.DataFrame, directory: Path, *, title: str, command: str, seed: int = 0, designs: int = 0
) -> Report:
    """Analyse learning curves from anywhere and write the same files."""
    return write_findings(Findings(title, command, curves, len(curves)), directory, seed=seed, designs=designs)


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


def write_findings(findings: Findings, directory: Path, *, seed: int = 0, designs: int = 0) -> Report:
    """Analyse findings and write all files of a report."""
    runs, predictions = findings.runs, findings.predictions
    report = Report(
        findings=findings,
        directory=directory,
        curves=curve_summary(runs),
        result=analyse(runs, seed=seed, predictions=predictions, chance=findings.chance),
        stability=stability_table(runs, seed=seed, predictions=predictions),
        classes=class_table(runs, predictions, findings.names),
        calibration=_calibration(findings, seed, designs) if designs else None,
    )
    directory.mkdir(parents=True, exist_ok=True)
    drawings = _draw(report)
    write_json(directory / "crossover.json", report.result)
    write_json(directory / "environment.json", findings.conditions)
    write_text(directory / "runs.csv", runs.to_csv(index=False))
    tables = {"curves": report.curves, "stability": report.stability, "classes": report.classes}
    for name, table in tables.items():
        if len(table) or name != "classes":
            write_text(directory / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    if report.calibration:
        write_json(directory / "calibration.json", report.calibration)
    write_text(directory / "report.md", markdown_page(report, drawings))
    write_text(directory / "report.html", html_page(report, drawings))
    return report


def _calibration(findings: Findings, seed: int, designs: int) -> dict[str, Any]:
    return calibrate(findings.runs, seed=seed, designs=designs, predictions=findings.predictions)


def _draw(report: Report) -> list[tuple[str, str]]:
    """Write the figures; return the name and the text alternative of each."""
    folder, drawn = report.directory / "figures", []
    several, shown = len(report.result["studies"]) > 1, shown_classes(report)
    sizes = report.findings.sizes
    x_label = figures.X_LABEL if sizes == "training images" else sizes
    for study in report.result["studies"]:
        dataset, suffix = study["dataset"], f"-{file_name(study['dataset'])}" if several else ""
        runs, curves = (table[table["dataset"] == dataset] for table in (report.runs, report.curves))
        said = " ".join(pair["summary"] for pair in study["pairs"])
        drawn.append((f"learning-curves{suffix}", f"Test error over {sizes} on {dataset}. {said}".strip()))
        ceilings = report.findings.extras.ceilings.get(dataset, ())
        save(figures.learning_curves(primary_runs(runs)[0], curves, study, ceilings, x_label), folder, drawn[-1][0])
        pairs = [pair for pair in study["pairs"] if pair["gap"]]
        if pairs:
            named = " and of ".join(f"{pair['b']} to {pair['a']}" for pair in pairs)
            drawn.append((f"gap{suffix}", f"Log error ratio of {named} over {sizes} on {dataset}."))
            save(figures.gap(pairs, x_label), folder, drawn[-1][0])
            named = "; ".join(f"{pair['b']} for the error of {pair['a']}" for pair in pairs)
            drawn.append((f"data-equivalence{suffix}", f"How many images a model needs on {dataset}: {named}."))
            save(figures.data_equivalence(pairs, x_label), folder, drawn[-1][0])
        if dataset in shown:
            kept = report.classes[report.classes["dataset"] == dataset]
            chosen = kept[kept["class"].isin(shown[dataset])]
            words = f"Test error over {sizes} on {dataset} for {len(shown[dataset])} classes."
            drawn.append((f"classes{suffix}", words))
            save(figures.by_class(chosen, list(dict.fromkeys(curves["model"]))), folder, drawn[-1][0])
    return drawn
