"""The results of a sweep as W&B runs: one summary, and one per model and per pair for its panels."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from crossover import wandb_runs
from crossover.config import LoggerConfig
from crossover.record import N_TRAIN
from crossover.report.findings import Report
from crossover.report.section import report_files
from crossover.store import SweepRecords, write_json

CURVE = {"error_mean": "curve/error", "error_low": "curve/low", "error_high": "curve/high"}
"""Column of curves.csv: metric of the aggregate run of a model, one row per n_train."""
GAP = {name: f"gap/{name.removeprefix('ci_')}" for name in ("log_error_ratio", "ci_low", "ci_high")}
GAP |= {"accuracy_gap": "gap/accuracy"}
"""Field of a pair's `gap`: metric of the aggregate run of the pair, one row per n_train."""
EQUIVALENCE = {"factor": "equivalence/factor", "ci_low": "equivalence/low", "ci_high": "equivalence/high"}
VERDICT = ("verdict", "summary", "n_star", "ci_low", "ci_high", "p_in_range", "trend")
"""Fields of a pair that the summary of its aggregate run has."""
CURVE_JOB, PAIR_JOB, REPORT_JOB = "curve", "pair", "report"
"""Job types of the aggregates, and of the run that summarises a sweep."""
UPLOAD_SECONDS = 60.0


@dataclass(frozen=True)
class Aggregate:
    """A W&B run that stands for several trainings: its rows over n_train, and its summary."""

    job: str
    label: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)


def aggregates(report: Report) -> Iterator[Aggregate]:
    """Yield the curve of each model and the gap of each pair as metrics over n_train."""
    sweep = report.findings.title
    for (dataset, model), rows in report.curves.groupby(["dataset", "model"], sort=False):
        points = _rows(rows.sort_values(N_TRAIN).to_dict("records"), CURVE)
        config = {"dataset": dataset, "model": model, "sweep": sweep}
        yield Aggregate(CURVE_JOB, f"{model} on {dataset}", config, points)
    for dataset, pair in report.pairs:
        label = f"{pair['b']} and {pair['a']}"
        points = _rows(pair["gap"], GAP) + _rows(pair["data_equivalence"], EQUIVALENCE)
        config = {"dataset": dataset, "pair": label, "sweep": sweep}
        summary = {name: value for name, value in pair.items() if name in VERDICT and value is not None}
        yield Aggregate(PAIR_JOB, f"{label} on {dataset}", config, points, summary)
    config = {"command": report.findings.command, "sweep": sweep, "runs": len(report.runs)}
    summary = {"verdicts": "\n".join(report.verdicts), "trouble": "\n".join(report.trouble)}
    yield Aggregate(REPORT_JOB, f"report of {sweep}", config, summary=summary)


def _rows(points: Sequence[Any], metrics: Mapping[str, str]) -> list[dict[str, float]]:
    """Return each point with n_train and its known values, under the names of W&B."""
    names = {N_TRAIN: N_TRAIN, **metrics}
    return [{metric: point[name] for name, metric in names.items() if pd.notna(point[name])} for point in points]


def run_id(job: str, sweep: str, label: str) -> str:
    """Return the id that an aggregate of a sweep always has: at most 64 characters, those that W&B allows."""
    digest = hashlib.sha256(f"{sweep}\n{label}".encode()).hexdigest()[:8]
    return f"{job}-{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{sweep}-{label}')[:45]}-{digest}"


def logger_of(sweep: SweepRecords) -> LoggerConfig:
    """Return the logger of the runs of a sweep."""
    known = (record["config"]["logger"] for record in sweep.records)
    return LoggerConfig.model_validate(next(known, {"kind": "none"}))


def mirror_report(report: Report, sweep: SweepRecords) -> None:
    """Log a report to W&B when its runs are logged there, the same result once; a failure of W&B is printed."""
    logger = logger_of(sweep)
    if logger.kind not in ("wandb", "wandb_offline"):
        return
    folder = report.directory / "wandb"
    state = folder / "logged.json"
    parts = [(report.directory / name).read_bytes() for name in ("crossover.json", "curves.csv", "runs.csv")]
    digest = hashlib.sha256(b"\n".join([*parts, logger.model_dump_json().encode()])).hexdigest()
    if not state.exists() or json.loads(state.read_text())["digest"] != digest:
        for old in wandb_runs.offline_folders(folder):  # of an earlier state of the sweep
            shutil.rmtree(old)
        try:
            for aggregate in aggregates(report):
                _log(report, logger, aggregate)
        except Exception as error:  # noqa: BLE001 # a mirror must not end a sweep
            print(f"the report is not logged to W&B ({type(error).__name__}: {error}); `make report` tries again")
            return
        write_json(state, {"digest": digest})
    if logger.kind == "wandb":
        new = wandb_runs.to_upload(folder)
        wandb_runs.upload(new, folder / "upload.log", patience=UPLOAD_SECONDS, report=lambda _: None)
        places = [folder, *(folder.parents[3] / "runs" / name / "wandb" for name in sweep.states)]
        left = sum(map(wandb_runs.is_left, places))
        if left:
            print(f"W&B has not got {left} of {len(places)} runs of the sweep yet; `make sync` uploads them")


def _log(report: Report, logger: LoggerConfig, aggregate: Aggregate) -> None:
    """Log one aggregate; on the server it replaces the run of the same id."""
    import wandb

    sweep, folder = report.findings.title, report.directory
    run = wandb_runs.start_run(
        folder,
        logger.model_dump() | {"group": sweep[:128]},
        id=run_id(aggregate.job, sweep, aggregate.label),
        name=aggregate.label[:128],
        job_type=aggregate.job,
        config=dict(aggregate.config),
    )
    run.define_metric(N_TRAIN, hidden=True)
    for metric in {name: None for row in aggregate.rows for name in row if name != N_TRAIN}:
        run.define_metric(metric, step_metric=N_TRAIN)
    for row in aggregate.rows:
        run.log(dict(row))
    run.summary.update(dict(aggregate.summary))
    if aggregate.job == REPORT_JOB:
        table = report.curves.astype(object).where(report.curves.notna(), None)
        images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("figures/*.png"))}
        run.log({"learning_curves": wandb.Table(dataframe=table), **images})
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        for name in report_files(folder):
            artifact.add_file(str(folder / name), policy="immutable")
        run.log_artifact(artifact)
    run.finish()
