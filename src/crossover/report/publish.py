"""Publishing of a report under results/, and rebuilding of its pages from the published files alone."""

import json
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from crossover.analysis.contract import Result
from crossover.config import CrossoverError
from crossover.report.findings import NO_EXTRAS, Extras, Fact, Findings, unpack_predictions
from crossover.report.section import PREDICTIONS, WRITTEN, Table, columns, markdown_table, report_files

BEGIN, END = "<!-- results: written by make publish -->\n", "<!-- end of results -->\n"


@dataclass(frozen=True)
class Study:
    """A published study, read from its files."""

    name: str
    sweep: str
    command: str
    changes: tuple[str, ...]
    """Overrides of every run: SET of the command."""
    overrides: tuple[str, ...]
    """Overrides of the sweep's own settings: ARGS of the command."""
    run_ids: tuple[str, ...]
    runs: pd.DataFrame
    result: Result
    """crossover.json"""
    environment: dict[str, list[Fact]]

    @property
    def is_transfer(self) -> bool:
        """Whether it is a transfer study: its rows are then probes of another sweep's backbones, not runs."""
        return self.command.startswith("make transfer ")


def publish(report: Path, study: Path) -> None:
    """Copy a finished report to results/<study>."""
    missing = [name for name in (*WRITTEN, "plan.json", PREDICTIONS) if not (report / name).exists()]
    if missing:
        raise CrossoverError(
            f"{report} has no {', '.join(missing)}; run make sweep, make transfer or make report first"
        )
    study.mkdir(parents=True, exist_ok=True)
    for name in report_files(report):
        shutil.copyfile(report / name, study / name)
    shutil.rmtree(study / "figures", ignore_errors=True)
    shutil.copytree(report / "figures", study / "figures")
    keep_one_format(study)


def keep_one_format(study: Path) -> None:
    """Remove figures of a study that also exist as SVG."""
    for drawing in (study / "figures").glob("*.svg"):
        drawing.with_suffix(".png").unlink(missing_ok=True)


def read_study(folder: Path) -> Study:
    """Return a published study; raise CrossoverError if it does not exist."""
    if not (folder / "plan.json").exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/plan.json"))
        raise CrossoverError(f"no study {folder.name!r} in {folder.parent}; there is {', '.join(known) or 'none'}")
    plan, result, environment = (
        json.loads((folder / name).read_text()) for name in ("plan.json", "crossover.json", "environment.json")
    )
    given = dict(word.split("=", 1) for word in shlex.split(plan["command"]) if "=" in word)
    return Study(
        name=folder.name,
        sweep=given.get("SWEEP", plan["name"]),
        command=plan["command"],
        changes=tuple(shlex.split(given.get("SET", ""))),
        overrides=tuple(shlex.split(given.get("ARGS", ""))),
        run_ids=tuple(plan["runs"]),
        runs=pd.read_csv(folder / "runs.csv", dtype={"run_id": str, "dataset": str, "model": str}),
        result=result,
        environment=environment,
    )


def study_findings(folder: Path, extras: Extras = NO_EXTRAS) -> Findings:
    """Return the findings of a published study, read from its files."""
    study = read_study(folder)
    planned = len(study.runs) if study.is_transfer else len(study.run_ids)
    found = Findings(study.sweep, study.command, study.runs, planned, study.environment, extras=extras)
    predictions, names = unpack_predictions(folder, study.runs)
    found = replace(found, predictions=predictions, names=names)
    if study.is_transfer:
        return replace(found, sizes="pre-training images")
    done = set(study.runs["run_id"])
    return replace(found, unfinished={run_id: "missing" for run_id in study.run_ids if run_id not in done})


def study_block(study: Path) -> str:
    """Return Markdown of a study: the verdicts and the mean test error by n_train and model, from its files alone."""
    curves = pd.read_csv(study / "curves.csv")
    errors = curves.pivot_table(index="n_train", columns="model", values="error_mean", sort=False).sort_index()
    pairs = [pair for part in json.loads((study / "crossover.json").read_text())["studies"] for pair in part["pairs"]]
    heads = columns("training images", *((f"test error of {model}", "%") for model in errors))
    rows = tuple((f"{n:,}", *cells) for n, *cells in errors.itertuples())
    lines = [f"**{pair['summary']}**\n" for pair in pairs]
    return "\n".join(lines + markdown_table(Table(caption="", columns=heads, rows=rows))) + "\n"
