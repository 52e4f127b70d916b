"""The W&B workspace view and W&B report of a sweep as code, built from the files of its report."""

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from crossover.config import CrossoverError
from crossover.record import ACCURACY, CONFUSION_TABLE, GPU_SECONDS, HISTORY, N_TRAIN, SAMPLES, SUMMARY
from crossover.report.page import QUESTION
from crossover.report.section import code
from crossover.report.style import styles
from crossover.report.wandb import CURVE, CURVE_JOB, EQUIVALENCE, GAP, PAIR_JOB, run_id
from crossover.store import SweepRecords, write_text

MOST_RUNS = 500
"""Runs that a panel draws; W&B's own default is 10."""
WIDE, HALF = wr.Layout(w=24, h=12), wr.Layout(w=12, h=8)


@dataclass(frozen=True)
class Dashboard:
    """A sweep, what its report wrote, and where its runs are in W&B."""

    sweep: SweepRecords
    entity: str
    project: str
    models: Mapping[str, str]
    """Run id to model, of the runs that are done."""
    studies: Sequence[Mapping[str, Any]]
    text: str
    """The report in Markdown, without its figures."""

    @property
    def title(self) -> str:
        """The title by which view and report are found again: wandb-workspaces reads + and = as emojis."""
        name = "".join(" " if unicodedata.category(letter)[0] in "SC" else letter for letter in self.sweep.name)
        mark = "" if name[:100] == self.sweep.name else f" {slug(self.sweep.name)[:6]}"
        return f"Crossover: {name[:100]}{mark}"

    @property
    def in_sweep(self) -> str:
        """The filter of the runs that the sweep trained, and of its aggregates."""
        return f"Metric('Group') == {_quoted(self.sweep.name[:128])}"

    @property
    def is_planned(self) -> str:
        """The filter of its runs, whichever sweep trained them."""
        return f"Metric('Name') in [{', '.join(map(_quoted, self.sweep.planned))}]"

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each run: that of its model, the same as in every figure."""
        chosen = styles(list(dict.fromkeys(self.models.values())))
        curves = {
            run_id(CURVE_JOB, self.sweep.name, f"{model} on {study['dataset']}"): style.colour
            for study in self.studies
            for model, style in chosen.items()
        }
        return {name: chosen[model].colour for name, model in self.models.items()} | curves


def _quoted(text: str) -> str:
    """Return a text escaped for a filter: wandb-workspaces changes =, < and > before parsing it."""
    letters = (c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text)
    return f"'{''.join(letters)}'"


def slug(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:11]


def read_dashboard(sweep: SweepRecords, directory: Path, *, entity: str, project: str) -> Dashboard:
    """Return the contents of the report in `directory`; raise CrossoverError when there is none."""
    path = directory / "crossover.json"
    if not path.exists():
        raise CrossoverError(f"{path} is missing: make report SWEEP={sweep.name} writes it")
    runs = pd.read_csv(directory / "runs.csv", dtype={"run_id": str, "model": str}, keep_default_na=False)
    models = dict(zip(runs["run_id"], runs["model"], strict=True))
    lines = (directory / "report.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("!["))  # W&B does not have the files
    return Dashboard(sweep, entity, project, models, json.loads(path.read_text())["studies"], text)


def _lines(title: str, metrics: Sequence[str], label: str, *, log_y: bool = False) -> wr.LinePlot:
    """Return metrics of aggregate runs over the training images."""
    axes = {"x": N_TRAIN, "log_x": True, "log_y": log_y, "title_x": "training images", "title_y": label}
    return wr.LinePlot(title=title, y=list(metrics), max_runs_to_show=MOST_RUNS, layout=WIDE, **axes)


def _training(title: str, metric: str) -> wr.LinePlot:
    """Return a metric over the images seen, one line per model and n_train with the range over chains."""
    group = {"groupby": wr.Config("cell"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    axes = {"x": HISTORY["images_seen"], "y": [HISTORY[metric]], "title_x": "images seen"}
    return wr.LinePlot(title=title, max_runs_to_show=MOST_RUNS, layout=HALF, **group, **axes)


def _points(title: str, x: Any, y: str, *, log_x: bool = True, log_y: bool = False) -> wr.ScatterPlot:
    return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), log_x=log_x, log_y=log_y, layout=HALF)


def _bars(title: str, metric: str, how: Any) -> wr.BarPlot:
    group = {"groupby": wr.Config("model"), "groupby_aggfunc": how}
    return wr.BarPlot(title=title, metrics=[metric], max_runs_to_show=MOST_RUNS, layout=HALF, **group)


def panels() -> dict[str, list[Any]]:
    """Return the panels by section; each uses only names from record.py and report/wandb.py."""
    n_train, val_error = wr.Config(N_TRAIN), wr.SummaryMetric(SUMMARY["val_error"])
    columns = [wr.Config("model"), n_train, wr.Config("chain"), val_error, wr.SummaryMetric(SUMMARY["test_error"])]
    coordinates = [wr.ParallelCoordinatesPlotColumn(column, log=column is n_train) for column in columns]
    gap = [GAP[field] for field in ("log_error_ratio", "ci_low", "ci_high")]
    factor = "Data equivalence: images needed for the same error, as a factor"
    return {
        "Learning curves": [
            _lines("Test error over training images", [*CURVE.values()], "error (fraction)", log_y=True)
        ],
        "Gap": [_lines("Log error ratio: below zero the second model leads", gap, "log error ratio")],
        "Data equivalence": [_lines(factor, [*EQUIVALENCE.values()], "factor")],
        "All runs": [
            _points("All runs: test error", n_train, SUMMARY["test_error"], log_y=True),
            _points("Validation and test error", val_error, SUMMARY["test_error"], log_x=False),
            wr.ParallelCoordinatesPlot(title="All runs", columns=coordinates, layout=WIDE),
        ],
        "Training curves by training images": [
            _training("Validation error", "val_error"),
            _training("Training loss", "train_loss"),
            _training("Validation loss", "val_loss"),
            _training("Learning rate", "lr"),
        ],
        "Throughput and cost": [
            _bars("Images per second", SUMMARY["images_per_second"], "mean"),
            _bars("GPU seconds, sum", GPU_SECONDS, "sum"),
            _points("Wall seconds of a run", n_train, SUMMARY["total_seconds"]),
            _points("Accuracy over training FLOPs", wr.Config("flops"), ACCURACY),
        ],
    }


def workspace(shown: Dashboard) -> ws.Workspace:
    """Return the saved view of a sweep: all its runs, whichever sweep trained them, and its aggregates."""
    sections = panels() | {
        "Images": [wr.MediaBrowser(media_keys=[name]) for name in (SAMPLES, CONFUSION_TABLE)],
        "Failures": [wr.MarkdownPanel(markdown=troubles(shown), layout=WIDE)],
    }
    columns = ["run:state", "config:dataset", "config:model", f"config:{N_TRAIN}", "config:chain"]
    return ws.Workspace(
        entity=shown.entity,
        project=shown.project,
        name=shown.title,
        sections=[ws.Section(name=name, panels=drawn, is_open=True) for name, drawn in sections.items()],
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=f"{shown.in_sweep} or {shown.is_planned}",
            run_settings={name: ws.RunSettings(color=colour) for name, colour in shown.colours.items()},
            pinned_columns=[*columns, f"summary:{SUMMARY['val_error']}", f"summary:{SUMMARY['test_error']}"],
        ),
    )


def story(shown: Dashboard, *, offline: bool = False) -> wr.Report:
    """Return the report of a sweep: verdicts, the panels, and the text of its page."""
    place = {} if offline else {"entity": shown.entity, "project": shown.project}  # a place would ask the server
    settings = {name: wr.RunSettings(color=colour) for name, colour in shown.colours.items()}
    jobs = {"Learning curves": CURVE_JOB, "Gap": PAIR_JOB, "Data equivalence": PAIR_JOB}
    verdicts = [f"{study['dataset']}: {pair['summary']}" for study in shown.studies for pair in study["pairs"]]
    blocks: list[Any] = [wr.P(QUESTION), wr.UnorderedList(verdicts)]
    for section, drawn in panels().items():
        job = jobs.get(section)
        filters = f"{shown.in_sweep} and Metric('JobType') == '{job}'" if job else shown.is_planned
        runs = wr.Runset(name=shown.sweep.name, filters=filters, run_settings=settings, **place)
        blocks += [wr.H2(section), wr.PanelGrid(runsets=[runs], panels=drawn)]
    return wr.Report(
        entity=shown.entity,
        project=shown.project,
        title=shown.title,
        description=f"Made by `make dashboard` from the records of {len(shown.models)} runs.",
        blocks=[*blocks, wr.H2("The whole report"), wr.MarkdownBlock(f"{shown.text}\n\n{troubles(shown)}")],
        width="fluid",
    )


def troubles(shown: Dashboard) -> str:
    """Return failed and unfinished runs as Markdown."""
    states = shown.sweep.states
    lines = [f"- `{code(name)}`: {state}" for name, state in states.items() if state != "done"]
    done = f"{len(states) - len(lines)} of {len(states)} runs are done. Continue with `{code(shown.sweep.command)}`."
    return "\n".join([done, *lines])


def write_specs(shown: Dashboard, directory: Path) -> list[Path]:
    """Write both specs as JSON, without a connection."""
    specs = {"workspace": workspace(shown)._to_model().spec, "report": story(shown, offline=True)._to_model().spec}
    paths = [directory / f"wandb-{name}.json" for name in specs]
    for path, spec in zip(paths, specs.values(), strict=True):
        write_text(path, spec.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n")
    return paths


def save(shown: Dashboard) -> list[str]:
    """Create or update the view and the report; return their addresses."""
    import wandb

    view, report = workspace(shown), story(shown)
    view._internal_name = f"nw-{slug(shown.sweep.name)}-v"
    try:
        view._internal_id = ws.internal.get_view_dict(shown.entity, shown.project, slug(shown.sweep.name))["id"]
    except ValueError:  # there is none yet
        view._internal_id = ""
    saved = {r.display_name: r.id for r in wandb.Api().reports(f"{shown.entity}/{shown.project}")}
    report.id = saved.get(shown.title, "")
    return [cast(str, view.save().url), cast(str, report.save().url)]
