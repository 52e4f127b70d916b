"""Reports: written from the records of a sweep, published under results/, and rebuilt from their published files."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from crossover.analysis.contract import Analysis
from crossover.analysis.robustness import calibrate, stability_table
from crossover.analysis.runs import Method, primary_runs
from crossover.analysis.testset import class_table
from crossover.analysis.verdict import analyse, curve_summary
from crossover.config import CrossoverError
from crossover.record import Record, runs_table
from crossover.report import figures
from crossover.report.contents import (
    Fact,
    Report,
    ReportInput,
    read_predictions,
    unpack_predictions,
)
from crossover.report.page import html_page, markdown_page, report_sections
from crossover.report.section import PAGE, PREDICTIONS, WRITTEN, Drawing, markdown_table, report_files, table_of
from crossover.report.style import save
from crossover.store import (
    RUN_COLUMNS,
    Plan,
    SweepRecords,
    file_name,
    read_json,
    read_plan,
    read_table,
    write_atomically,
    write_json,
    write_text,
)
from crossover.text import tracked

MOST_PANELS = 3
"""Most pairs of a data set drawn as panels of gap and data-equivalence; with more, only the tables have them."""
BEGIN, END = "<!-- results: written by make publish -->\n", "<!-- end of results -->\n"


def sweep_input(sweep: SweepRecords, also: Sequence[SweepRecords] = ()) -> ReportInput:
    """Return the input of the report of a sweep.

    The runs of `also` count as alternatives (another budget, augmentation or recipe) in the stability table.
    """
    records = list({record["run_id"]: record for one in (sweep, *also) for record in one.records}.values())
    conditions = environment(records)
    for name in {record["dataset"] for record in records}:
        if len(conditions[f"{name} hash"]) > 1:
            raise CrossoverError(
                f"two different data sets are called {name}; give one another name: data.name=NAME in its sweep"
            )
    return ReportInput(
        sweep.name,
        sweep.command,
        runs_table(records),
        conditions=conditions,
        unfinished={run_id: state for run_id, state in sweep.states.items() if state != "done"},
        errors=sweep.errors,
        predictions=read_predictions({k: path for one in (*also, sweep) for k, path in one.predictions.items()}),
        names={record["dataset"]: record["classes"] for record in records if record.get("classes")},
    )


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


def write_report(inputs: ReportInput, directory: Path, *, seed: int = 0, designs: int = 0) -> Report:
    """Analyse runs and write report.html, report.md, crossover.json, the tables and figures/.

    `designs` repetitions of the design are simulated (0: none).
    """
    directory.mkdir(parents=True, exist_ok=True)  # before the analysis: it may be refused
    runs, method = inputs.runs, Method(seed, predictions=inputs.predictions)
    report = Report(
        inputs=inputs,
        directory=directory,
        curves=curve_summary(runs, method),
        result=analyse(runs, method, chance=inputs.chance),
        stability=stability_table(runs, method),
        classes=class_table(runs, method.predictions, inputs.names),
        calibration=calibrate(runs, method, designs=designs) if designs else (),
    )
    analyses = report.result["studies"]
    drawings = {one["dataset"]: _draw(report, one) for one in tracked(analyses, "data sets drawn", len(analyses))}
    write_json(directory / "crossover.json", report.result)
    write_json(directory / "environment.json", inputs.conditions)
    write_text(directory / "runs.csv", runs.to_csv(index=False))
    tables = {"curves": report.curves, "stability": report.stability}
    tables |= {"classes": report.classes} if len(report.classes) else {}
    for name, table in tables.items():
        write_text(directory / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    if report.calibration:
        write_json(directory / "calibration.json", {"confidence": method.confidence, "pairs": report.calibration})
    sections = report_sections(report, drawings)
    write_text(directory / "report.md", markdown_page(report, sections))
    write_text(directory / PAGE, html_page(report, sections))
    return report


def _draw(report: Report, analysis: Analysis) -> list[Drawing]:
    """Write the figures of a data set and return them."""
    dataset, sizes = analysis["dataset"], report.inputs.sizes
    x_label = figures.X_LABEL if sizes == "training images" else sizes
    runs, curves = (table[table["dataset"] == dataset] for table in (report.runs, report.curves))
    ceilings = report.inputs.ceilings.get(dataset, {})
    said = " ".join(pair["summary"] for pair in analysis["pairs"][:MOST_PANELS])
    learning = figures.learning_curves(primary_runs(runs)[0], curves, analysis, ceilings, x_label)
    drawn = [("learning-curves", f"Test error over {sizes} on {dataset}. {said}".strip(), learning)]
    pairs = [pair for pair in analysis["pairs"] if pair["gap"]]
    if 0 < len(pairs) <= MOST_PANELS:
        named = " and of ".join(f"{pair['b']} to {pair['a']}" for pair in pairs)
        gap = figures.by_pair(figures.draw_gap, pairs, x_label)
        drawn.append(("gap", f"Log error ratio of {named} over {sizes} on {dataset}.", gap))
        named = "; ".join(f"{pair['b']} for the error of {pair['a']}" for pair in pairs)
        equivalence = figures.by_pair(figures.draw_equivalence, pairs, x_label)
        drawn.append(("data-equivalence", f"How many images a model needs on {dataset}: {named}.", equivalence))
    suffix = f"-{file_name(dataset)}" if len(report.result["studies"]) > 1 else ""
    for name, _, figure in drawn:
        save(figure, report.directory / "figures", f"{name}{suffix}")
    return [Drawing(name=f"{name}{suffix}", alt=alt) for name, alt, _ in drawn]


def publish(report: Path, study: Path) -> None:
    """Copy a finished report to results/<study>, its figures as SVG where they are drawings."""
    missing = [name for name in (*WRITTEN, "plan.json", PREDICTIONS) if not (report / name).exists()]
    if missing:
        raise CrossoverError(
            f"{report} has no {', '.join(missing)}; run make sweep, make transfer or make report first"
        )
    if (study / "plan.json").exists():
        ours, theirs = (_source(read_plan(folder / "plan.json")) for folder in (report, study))
        if ours != theirs:
            raise CrossoverError(f"{study} is a study of {theirs}; publish {ours} under another name: STUDY={ours}")
    drawn = [f"figures/{path.name}" for path in (report / "figures").glob("[!.]*")]
    for name in (*report_files(report), *drawn):
        write_atomically(study / name, partial(shutil.copyfile, report / name))
    for path in (study / "figures").glob("*"):
        if f"figures/{path.name}" not in drawn:
            path.unlink()
    keep_one_format(study)


def keep_one_format(study: Path) -> None:
    """Remove figures of a study that also exist as SVG."""
    for drawing in (study / "figures").glob("*.svg"):
        drawing.with_suffix(".png").unlink(missing_ok=True)


def study_folder(results: Path, name: str) -> Path:
    """Return the folder of a published study; raise CrossoverError for a name that leads elsewhere."""
    if name in ("", ".", "..") or name != file_name(name):
        raise CrossoverError(f"STUDY={name!r} is no name of a study: name one folder of {results}, such as STUDY=cues")
    return results / name


def read_study(folder: Path) -> ReportInput:
    """Return the report input of a published study, read from its files; raise CrossoverError if it does not exist."""
    if not (folder / "plan.json").exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/plan.json"))
        raise CrossoverError(f"no study {folder.name!r} in {folder.parent}; there is {', '.join(known) or 'none'}")
    plan = read_plan(folder / "plan.json")
    runs = read_table(folder / "runs.csv", needed=RUN_COLUMNS, dtype={"run_id": str, "dataset": str, "model": str})
    predictions, names = unpack_predictions(folder, runs)
    found = ReportInput(
        _source(plan),
        plan["command"],
        runs,
        conditions=read_json(folder / "environment.json", "file of conditions"),
        predictions=predictions,
        names=names,
    )
    left = [] if found.is_transfer else set(plan["runs"]).difference(runs["run_id"])
    return replace(found, unfinished={run_id: "missing" for run_id in plan["runs"] if run_id in left})


def _source(plan: Plan) -> str:
    """Return the sweep of conf/, or the transfer study, that a plan is of."""
    return settings(plan["command"]).get("SWEEP", plan["name"])


def settings(command: str) -> dict[str, str]:
    """Return the settings of a command: SWEEP, SET with overrides of every run, ARGS with those of the sweep."""
    return dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)


def study_block(study: Path) -> str:
    """Return Markdown of a study from its files: the verdicts, and the geometric mean error by n_train and model."""
    curves = read_table(study / "curves.csv", needed=("n_train", "model", "error_mean"))
    errors = curves.pivot_table(index="n_train", columns="model", values="error_mean", sort=False).sort_index()
    titles = {model: f"test error of {model}" for model in errors}
    rows = errors.rename(columns=titles).rename_axis("training images").reset_index().to_dict("records")
    pairs = [pair for part in read_json(study / "crossover.json", "result")["studies"] for pair in part["pairs"]]
    lines = [f"**{pair['summary']}**\n" for pair in pairs]
    return "\n".join(lines + markdown_table(table_of(rows, dict.fromkeys(titles.values(), "%")))) + "\n"
