"""What does a reader of W&B open first? A saved workspace view and a report of a sweep, built from its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import wandb_workspaces.expr as expr
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from crossover.config import CrossoverError
from crossover.record import CONFUSION_TABLE, N_TRAIN, SAMPLES, SUMMARY
from crossover.report.markdown import code
from crossover.report.mirror import run_id
from crossover.report.panels import MOST_RUNS, WIDE, all_runs, cost, equivalence, gap, learning_curves, trainings
from crossover.report.style import styles
from crossover.report.table import plain
from crossover.store import SweepRecords, write_text
from crossover.vocabulary import CURVE_JOB, PAIR_JOB


@dataclass(frozen=True)
class Findings:
    """What the report of a sweep wrote, and where its runs are in W&B."""

    name: str
    command: str
    entity: str
    project: str
    planned: Sequence[str]
    states: Mapping[str, str]
    models: Mapping[str, str]
    """Run id to model, of the runs that are done."""
    studies: Sequence[dict[str, Any]]
    environment: Mapping[str, Sequence[Any]]

    @property
    def pairs(self) -> list[tuple[str, dict[str, Any]]]:
        return [(study["dataset"], pair) for study in self.studies for pair in study["pairs"]]


def read_findings(sweep: SweepRecords, directory: Path, *, entity: str, project: str) -> Findings:
    """Return what the report in `directory` says; raise CrossoverError when there is none."""
    path = directory / "crossover.json"
    if not path.exists():
        raise CrossoverError(f"{path} is missing: make report SWEEP={sweep.name} writes it")
    runs = pd.read_csv(directory / "runs.csv")
    return Findings(
        name=sweep.name,
        command=sweep.command,
        entity=entity,
        project=project,
        planned=sweep.planned,
        states=sweep.states,
        models=dict(zip(runs["run_id"], runs["model"], strict=True)),
        studies=json.loads(path.read_text())["studies"],
        environment=json.loads((directory / "environment.json").read_text()),
    )


def troubles(found: Findings) -> str:
    """Return what failed or is not done, as Markdown."""
    lines = [f"- `{code(name)}`: {state}" for name, state in found.states.items() if state != "done"]
    done = len(found.states) - len(lines)
    return "\n".join([f"{done} of {len(found.states)} runs are done. Continue with `{code(found.command)}`.", *lines])


def workspace(found: Findings) -> ws.Workspace:
    """Return the saved view of a sweep: all its runs, whichever sweep trained them, and its aggregates."""
    sections = [
        ("Learning curves", [learning_curves()]),
        ("Gap", [gap(), equivalence()]),
        ("All runs", all_runs()),
        ("Training curves by training images", trainings()),
        ("Throughput and cost", cost()),
        ("Images", [wr.MediaBrowser(media_keys=[name]) for name in (SAMPLES, CONFUSION_TABLE)]),
        ("Failures", [wr.MarkdownPanel(markdown=troubles(found), layout=WIDE)]),
    ]
    columns = ["run:state", "config:dataset", "config:model", f"config:{N_TRAIN}", "config:chain"]
    return ws.Workspace(
        entity=found.entity,
        project=found.project,
        name=view_title(found),
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections],
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=expr.Or(expr.Metric("Group") == found.name, expr.Metric("Name").isin(list(found.planned))),
            run_settings={name: ws.RunSettings(color=color) for name, color in colours(found).items()},
            pinned_columns=[*columns, f"summary:{SUMMARY['val_error']}", f"summary:{SUMMARY['test_error']}"],
        ),
    )


def colours(found: Findings) -> dict[str, str]:
    """Return the colour of each run: that of its model, the same as in every figure."""
    models = list(dict.fromkeys(found.models.values()))
    chosen = {model: colour for model, (colour, _) in styles(models).items()}
    datasets = [study["dataset"] for study in found.studies]
    curves = {run_id(CURVE_JOB, found.name, f"{m} on {d}"): chosen[m] for d in datasets for m in models}
    return {name: chosen[model] for name, model in found.models.items()} | curves


def story(found: Findings, *, offline: bool = False) -> wr.Report:
    """Return the report of a sweep: question, figure, verdict, data equivalence, claims, methods.

    Offline it names no project to look its runs up in, as that would ask the server.
    """
    place = {} if offline else {"entity": found.entity, "project": found.project}
    in_sweep = expr.Metric("Group") == found.name

    def grid(job: str, panels: list[Any]) -> wr.PanelGrid:
        runs = wr.Runset(
            name=found.name,
            filters=[in_sweep, expr.Metric("JobType") == job],
            run_settings={name: wr.RunSettings(color=colour) for name, colour in colours(found).items()},
            **place,
        )
        return wr.PanelGrid(runsets=[runs], panels=panels)

    everything = wr.Runset(name="trainings", filters=[expr.Metric("Name").isin(list(found.planned))], **place)
    blocks: list[Any] = [
        wr.H2("Question"),
        wr.P(question(found)),
        grid(CURVE_JOB, [learning_curves()]),
        wr.H2("Verdict"),
        wr.UnorderedList(
            [f"{dataset}: {pair['summary']}" for dataset, pair in found.pairs] or ["no pair of models yet"]
        ),
        grid(PAIR_JOB, [gap()]),
        wr.H2("Data equivalence"),
        wr.P(
            "How many times as many images the second model needs for the error of the first; below 1 it needs fewer."
        ),
        grid(PAIR_JOB, [equivalence()]),
        wr.H2("Claims, and what limits them"),
        wr.UnorderedList(claims(found)),
        wr.H2("Training"),
        wr.PanelGrid(runsets=[everything], panels=[*all_runs(), *trainings(), *cost()]),
        wr.H2("Methods"),
        wr.MarkdownBlock(methods(found)),
    ]
    return wr.Report(
        entity=found.entity,
        project=found.project,
        title=view_title(found),
        description=f"Made by `make dashboard` from the records of {len(found.models)} runs.",
        blocks=blocks,
        width="fluid",
    )


def question(found: Findings) -> str:
    models = ", ".join(dict.fromkeys(found.models.values()))
    datasets = ", ".join(study["dataset"] for study in found.studies)
    return f"On {datasets}: at how many training images does one of {models} overtake another, and how sure is that?"


def claims(found: Findings) -> list[str]:
    """Return the verdict's numbers of each pair and every note that limits them."""
    said = [
        f"{dataset}, {pair['b']} and {pair['a']}: verdict {pair['verdict']}, trend of the gap {pair['trend']},"
        f" {pair['chains']} chains, {pair['n_min']:,} to {pair['n_max']:,} images"
        for dataset, pair in found.pairs
    ]
    notes = [f"{s['dataset']}: {note}" for s in found.studies for note in s["notes"]]
    return [*said, *notes, *(f"{dataset}: {note}" for dataset, pair in found.pairs for note in pair["notes"])]


def methods(found: Findings) -> str:
    facts = [f"- {plain(name)}: {plain(', '.join(map(str, values)))}" for name, values in found.environment.items()]
    return "\n".join(
        [
            "Models share chains: nested, class-stratified orders of the training pool; chains are the random unit of",
            "every interval. Checkpoints are chosen on validation images; the test set is read once per run.",
            "",
            f"Repeat with `{code(found.command)}`.",
            "",
            *facts,
            "",
            troubles(found),
        ]
    )


def view_title(found: Findings) -> str:
    """Return the title by which view and report are found again."""
    return f"Crossover: {found.name}"[:128]


def write_specs(found: Findings, directory: Path) -> list[Path]:
    """Write both specs as JSON, without a connection."""
    specs = {"workspace": workspace(found)._to_model().spec, "report": story(found, offline=True)._to_model().spec}
    paths = []
    for name, spec in specs.items():
        paths.append(directory / f"wandb-{name}.json")
        write_text(paths[-1], spec.model_dump_json(by_alias=True, exclude_none=True, indent=1) + "\n")
    return paths


def save(found: Findings) -> list[str]:
    """Create or update the view and the report; return their addresses."""
    import wandb

    view, report = workspace(found), story(found)
    slug = hashlib.sha256(found.name.encode()).hexdigest()[:11]
    view._internal_name = f"nw-{slug}-v"
    try:
        view._internal_id = ws.internal.get_view_dict(found.entity, found.project, slug)["id"]
    except ValueError:  # there is none yet
        view._internal_id = ""
    saved = {r.display_name: r.id for r in wandb.Api().reports(f"{found.entity}/{found.project}")}
    report.id = saved.get(view_title(found), "")
    return [cast(str, view.save().url), cast(str, report.save().url)]
