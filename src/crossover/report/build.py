"""Writing of a report: tables, figures and pages, a pure function of the records of a sweep."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from crossover.analysis.contract import Study
from crossover.analysis.robustness import calibrate, stability_table
from crossover.analysis.runs import Item, Method, Predictions, Told, primary_runs
from crossover.analysis.testset import class_table
from crossover.analysis.verdict import analyse, curve_summary
from crossover.config import CrossoverError
from crossover.record import Record, runs_table
from crossover.report import figures
from crossover.report.contents import report_sections, shown_classes
from crossover.report.findings import Extras, Fact, Findings, Report
from crossover.report.page import html_page, markdown_page
from crossover.report.section import PAGE, Drawing
from crossover.report.style import save, styles
from crossover.store import SweepRecords, file_name, write_json, write_text

TOLD_EVERY = 10.0
"""Seconds between two messages on the progress of a report."""
MOST_PANELS = 3
"""Most pairs of a data set drawn as panels of gap and data-equivalence; with more, only the tables have them."""


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
        predictions=read_predictions(paths),
        names=named,
        chance={dataset: 1 - 1 / len(classes) for dataset, classes in named.items()},
        extras=extras or Extras(),
    )
    return write_findings(findings, directory, seed=seed, designs=designs)


def _check_names(records: Sequence[Record]) -> None:
    """Raise CrossoverError when two data sets have one name, since their runs would be pooled."""
    hashes: dict[str, str] = {}
    for record in records:
        name = record["dataset"]
        if hashes.setdefault(name, record["dataset_hash"]) != record["dataset_hash"]:
            raise CrossoverError(
                f"two different data sets are called {name}; give one another name: data.name=NAME in its sweep"
            )


def read_predictions(paths: Mapping[str, Path]) -> Predictions:
    """Return labels and predictions of each run. Runs share the labels of a test set (same size and checksum)."""
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
    """Analyse external learning curves and write the same files."""
    return write_findings(Findings(title, command, curves, len(curves)), directory, seed=seed, designs=designs)


def environment(records: Sequence[Record]) -> dict[str, list[Fact]]:
    """Return the conditions of the runs: each field with the distinct values that occur."""
    seen: dict[str, list[Fact]] = {}
    for record in records:
        facts: dict[str, Fact] = {"device": record["device"], "precision": record["precision"]}
        facts |= {"threads": record["threads"], "commit": record["git"]["commit"], "dirty": record["git"]["dirty"]}
        facts |= {f"{record['dataset']} hash": record["dataset_hash"]} | record["versions"]
        for name, value in facts.items():
            if value not in seen.setdefault(name, []):
                seen[name].append(value)
    return seen


def write_findings(findings: Findings, directory: Path, *, seed: int = 0, designs: int = 0) -> Report:
    """Analyse findings and write all files of a report."""
    runs, predictions = findings.runs, findings.predictions
    method, told = Method(seed, predictions=predictions), told_every(TOLD_EVERY)
    report = Report(
        findings=findings,
        directory=directory,
        curves=curve_summary(runs, method),
        result=analyse(runs, method, chance=findings.chance, told=told),
        stability=stability_table(runs, method, told),
        classes=class_table(runs, predictions, findings.names),
        calibration=calibrate(runs, method, designs=designs, told=told) if designs else (),
    )
    directory.mkdir(parents=True, exist_ok=True)
    drawings = _draw(report, told)
    write_json(directory / "crossover.json", report.result)
    write_json(directory / "environment.json", findings.conditions)
    write_text(directory / "runs.csv", runs.to_csv(index=False))
    tables = {"curves": report.curves, "stability": report.stability, "classes": report.classes}
    for name, table in tables.items():
        if len(table) or name != "classes":
            write_text(directory / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    if report.calibration:
        simulated = {"confidence": method.confidence, "pairs": report.calibration}
        write_json(directory / "calibration.json", simulated)
    sections = report_sections(report, drawings)
    write_text(directory / "report.md", markdown_page(report, sections))
    write_text(directory / PAGE, html_page(report, sections))
    return report


def told_every(seconds: float) -> Told:
    """Return an iterator factory that prints progress to standard error, at most once in so many seconds."""
    since = time.monotonic()

    def told(items: Sequence[Item], what: str) -> Iterator[Item]:
        nonlocal since
        for done, item in enumerate(items):
            if time.monotonic() - since > seconds:
                print(f"{done} of {len(items)} {what}", file=sys.stderr, flush=True)
                since = time.monotonic()
            yield item

    return told


def _draw(report: Report, told: Told) -> dict[str, list[Drawing]]:
    """Write the figures; return those of each data set."""
    studies = report.result["studies"]
    several = len(studies) > 1
    return {one["dataset"]: _draw_study(report, one, several) for one in told(studies, "data sets drawn")}


def _draw_study(report: Report, study: Study, several: bool) -> list[Drawing]:
    dataset, folder, sizes = study["dataset"], report.directory / "figures", report.findings.sizes
    suffix = f"-{file_name(dataset)}" if several else ""
    x_label = figures.X_LABEL if sizes == "training images" else sizes
    runs, curves = (table[table["dataset"] == dataset] for table in (report.runs, report.curves))
    ceilings = report.findings.extras.ceilings.get(dataset, ())
    said = " ".join(pair["summary"] for pair in study["pairs"][:MOST_PANELS])
    drawn = [(f"learning-curves{suffix}", f"Test error over {sizes} on {dataset}. {said}".strip())]
    save(figures.learning_curves(primary_runs(runs)[0], curves, study, ceilings, x_label), folder, drawn[-1][0])
    pairs = [pair for pair in study["pairs"] if pair["gap"]]
    if 0 < len(pairs) <= MOST_PANELS:
        named = " and of ".join(f"{pair['b']} to {pair['a']}" for pair in pairs)
        drawn.append((f"gap{suffix}", f"Log error ratio of {named} over {sizes} on {dataset}."))
        save(figures.by_pair(figures.draw_gap, pairs, x_label), folder, drawn[-1][0])
        named = "; ".join(f"{pair['b']} for the error of {pair['a']}" for pair in pairs)
        drawn.append((f"data-equivalence{suffix}", f"How many images a model needs on {dataset}: {named}."))
        save(figures.by_pair(figures.draw_equivalence, pairs, x_label), folder, drawn[-1][0])
    names = shown_classes(report).get(dataset, [])
    if names:
        kept = report.classes[(report.classes["dataset"] == dataset) & report.classes["class"].isin(names)]
        shown = styles(list(dict.fromkeys(curves["model"])), figures.families_of(runs))
        words = f"Test error over {sizes} on {dataset} for {len(names)} classes; bands are the range of chains."
        drawn.append((f"classes{suffix}", words))
        save(figures.by_class(kept, shown, x_label), folder, drawn[-1][0])
    return [Drawing(name=name, alt=alt) for name, alt in drawn]
