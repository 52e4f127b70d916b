"""How does the result of a sweep appear in W&B? One summary run, and one aggregate run per model and per pair."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from crossover import wandb_runs
from crossover.config import LoggerConfig
from crossover.record import N_TRAIN
from crossover.report.build import Report
from crossover.report.section import report_files
from crossover.store import SweepRecords, write_json
from crossover.vocabulary import (
    CURVE,
    CURVE_JOB,
    EQUIVALENCE,
    FIGURES,
    GAP,
    PAIR,
    PAIR_JOB,
    REPORT_JOB,
    TABLE,
    VERDICT,
    VERDICTS,
)

if TYPE_CHECKING:
    import wandb


@dataclass(frozen=True)
class Aggregate:
    """A run of W&B that stands for several trainings: its rows over n_train, and its summary."""

    job: str
    label: str
    config: dict[str, Any]
    rows: Sequence[dict[str, float]]
    summary: dict[str, Any]


def aggregates(report: Report) -> list[Aggregate]:
    """Return the curve of each model and the gap of each pair as metrics over n_train."""
    found = []
    for (dataset, model), rows in report.curves.groupby(["dataset", "model"], sort=False):
        points = _rows(rows.sort_values(N_TRAIN).to_dict("records"), CURVE)
        config = {"dataset": dataset, "model": model, "sweep": report.findings.title}
        found.append(Aggregate(CURVE_JOB, f"{model} on {dataset}", config, points, {}))
    for dataset, pair in report.pairs:
        label = f"{pair['b']} and {pair['a']}"
        gap, equivalence = _rows(pair["gap"], GAP), _rows(pair["data_equivalence"], EQUIVALENCE)
        config = {"dataset": dataset, PAIR: label, "sweep": report.findings.title}
        summary = {name: pair[name] for name in VERDICT if pair.get(name) is not None}
        found.append(Aggregate(PAIR_JOB, f"{label} on {dataset}", config, [*gap, *equivalence], summary))
    return found


def _rows(points: Sequence[Any], names: dict[str, str]) -> list[dict[str, float]]:
    """Return each point with n_train and its known values, under the names of W&B."""
    return [
        {N_TRAIN: int(point[N_TRAIN])} | {metric: float(point[f]) for f, metric in names.items() if _known(point[f])}
        for point in points
    ]


def _known(value: Any) -> bool:
    return value is not None and value == value


def run_id(job: str, sweep: str, label: str) -> str:
    """Return the id that an aggregate of a sweep always has: at most 64 characters, those that W&B allows."""
    digest = hashlib.sha256(f"{sweep}\n{label}".encode()).hexdigest()[:8]
    return f"{job}-{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{sweep}-{label}')[:45]}-{digest}"


def logger_of(sweep: SweepRecords) -> LoggerConfig:
    """Return how the runs of a sweep are logged."""
    known = (record["config"]["logger"] for record in sweep.records if "config" in record)
    return LoggerConfig.model_validate(next(known, {"kind": "none"}))


def mirror_report(report: Report, sweep: SweepRecords, say: Callable[[str], object] = print) -> None:
    """Log a report to W&B when its runs are logged there; the same result is logged once, under the same ids.

    An outage of W&B takes seconds (see wandb_runs) and no file of the report.
    """
    logger = logger_of(sweep)
    if logger.kind not in ("wandb", "wandb_offline"):
        return
    folder = report.directory / "wandb"
    state = folder / "logged.json"
    parts = [(report.directory / name).read_bytes() for name in ("crossover.json", "curves.csv", "runs.csv")]
    digest = hashlib.sha256(b"\n".join([*parts, logger.model_dump_json().encode()])).hexdigest()
    if state.exists() and json.loads(state.read_text())["digest"] == digest:
        return
    import wandb

    for old in folder.glob("offline-run-*"):  # of an earlier state of the sweep
        shutil.rmtree(old)
    try:
        online = logger.kind == "wandb"
        for aggregate in aggregates(report):
            online = _log_aggregate(report, logger, aggregate, online)
        _log_summary(report, logger, online)
    except (wandb.errors.Error, OSError) as error:
        say(f"W&B has not taken the report ({error}); its files are complete, and the next `make report` tries again")
        return
    write_json(state, {"digest": digest})


@contextmanager
def _run(
    report: Report, logger: LoggerConfig, job: str, label: str, config: dict[str, Any], online: bool
) -> Iterator["wandb.Run"]:
    run = wandb_runs.start_run(
        report.directory,
        online=online,
        id=run_id(job, report.findings.title, label),
        name=label,
        project=logger.project,
        entity=logger.entity,
        group=report.findings.title,
        job_type=job,
        config=config,
    )  # not resumed: a run of the same id is replaced
    try:
        yield run
    finally:
        wandb_runs.finish_run(run)


def _log_aggregate(report: Report, logger: LoggerConfig, aggregate: Aggregate, online: bool) -> bool:
    """Log one aggregate; return whether W&B was reached."""
    with _run(report, logger, aggregate.job, aggregate.label, aggregate.config, online) as run:
        for row in aggregate.rows:
            run.log(row)
        run.summary.update(aggregate.summary)
        return online and not run.offline


def _log_summary(report: Report, logger: LoggerConfig, online: bool) -> None:
    import wandb

    config = {"command": report.findings.command, "sweep": report.findings.title, "runs": len(report.runs)}
    with _run(report, logger, REPORT_JOB, f"report of {report.findings.title}", config, online) as run:
        run.log({TABLE: wandb.Table(columns=list(report.curves.columns), data=_cells(report.curves))})
        for path in sorted((report.directory / "figures").glob("*.png")):
            run.log({f"{FIGURES}{path.stem}": wandb.Image(str(path))})
        run.summary[VERDICTS] = "\n".join(report.verdicts)
        run.summary["trouble"] = "\n".join(report.trouble)
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for name in report_files(report.directory):
            artifact.add_file(str(report.directory / name), policy="immutable")
        run.log_artifact(artifact)


def _cells(table: pd.DataFrame) -> list[Any]:
    return table.astype(object).where(table.notna(), None).to_numpy().tolist()
