"""The results of a sweep as W&B runs: one summary, and one per model and per pair for its panels."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from crossover import wandb_runs
from crossover.record import N_TRAIN
from crossover.report.contents import Report
from crossover.report.section import report_files
from crossover.store import SweepRecords, write_json

if TYPE_CHECKING:
    import wandb

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


def run_id(job: str, sweep: str, label: str) -> str:
    """Return the id that an aggregate of a sweep always has: at most 64 characters, those that W&B allows."""
    digest = hashlib.sha256(f"{sweep}\n{label}".encode()).hexdigest()[:8]
    return f"{job}-{re.sub(r'[^A-Za-z0-9_-]+', '-', f'{sweep}-{label}')[:45]}-{digest}"


def mirror_report(report: Report, sweep: SweepRecords) -> None:
    """Log a report to W&B when its runs are logged there, the same result once; a failure of W&B is printed."""
    logger = sweep.records[0]["config"]["logger"]
    if logger["kind"] not in ("wandb", "wandb_offline"):
        return
    folder = report.directory / "wandb"
    state = folder / "logged.json"
    parts = [(report.directory / name).read_bytes() for name in ("crossover.json", "curves.csv", "runs.csv")]
    digest = hashlib.sha256(b"\n".join([*parts, json.dumps(logger).encode()])).hexdigest()
    if not state.exists() or json.loads(state.read_text())["digest"] != digest:
        for old in wandb_runs.offline_folders(folder):  # of an earlier state of the sweep
            shutil.rmtree(old, ignore_errors=True)  # another command may remove it too
        try:
            log_report(report, logger)
        except Exception as error:  # noqa: BLE001 # a mirror must not end a sweep
            print(f"the report is not logged to W&B ({type(error).__name__}: {error}); `make report` tries again")
            return
        write_json(state, {"digest": digest})
    if logger["kind"] == "wandb":
        runs = [folder.parents[3] / "runs" / name / "wandb" for name in sweep.states]
        left = wandb_runs.upload([folder], folder / "upload.log", UPLOAD_SECONDS, lambda _: None)
        left += sum(map(wandb_runs.is_left, runs))
        if left:
            print(f"W&B has not got {left} of {1 + len(runs)} runs of the sweep yet; `make sync` uploads them")


def log_report(report: Report, logger: Mapping[str, Any]) -> None:
    """Log the curve of each model and the gap of each pair as metrics over n_train, and a run that summarises both."""
    sweep = report.inputs.title

    def start(job: str, label: str, **config: object) -> "wandb.Run":
        """Start an aggregate run; on the server it replaces the run of the same id."""
        named = {"id": run_id(job, sweep, label), "name": label[:128], "job_type": job}
        return wandb_runs.start_run(
            report.directory, {**logger, "group": sweep}, config=config | {"sweep": sweep}, **named
        )

    for (dataset, model), rows in report.curves.groupby(["dataset", "model"], sort=False):
        with start(CURVE_JOB, f"{model} on {dataset}", dataset=dataset, model=model) as run:
            _log_points(run, rows.sort_values(N_TRAIN).to_dict("records"), CURVE)
    for dataset, pair in report.pairs:
        label = f"{pair['b']} and {pair['a']}"
        with start(PAIR_JOB, f"{label} on {dataset}", dataset=dataset, pair=label) as run:
            _log_points(run, pair["gap"], GAP)
            _log_points(run, pair["data_equivalence"], EQUIVALENCE)
            known = {name: value for name, value in pair.items() if name in VERDICT and value is not None}
            run.summary.update(known)
    with start(REPORT_JOB, f"report of {sweep}", command=report.inputs.command, runs=len(report.runs)) as run:
        run.summary.update({"verdicts": "\n".join(report.verdicts), "trouble": "\n".join(report.trouble)})
        _log_files(run, report)


def _log_points(run: "wandb.Run", points: Sequence[Any], metrics: Mapping[str, str]) -> None:
    """Log n_train and the known values of each point, under the names of W&B."""
    run.define_metric(N_TRAIN, hidden=True)
    for metric in metrics.values():
        run.define_metric(metric, step_metric=N_TRAIN)
    names = {N_TRAIN: N_TRAIN, **metrics}
    for point in points:
        run.log({metric: point[name] for name, metric in names.items() if pd.notna(point[name])})


def _log_files(run: "wandb.Run", report: Report) -> None:
    """Log the table of curves, the figures, and the files of a report as an artifact."""
    import wandb

    table, folder = report.curves.astype(object).where(report.curves.notna(), None), report.directory
    images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("figures/*.png"))}
    run.log({"learning_curves": wandb.Table(dataframe=table), **images})
    artifact = wandb.Artifact(f"report-{run.id}", type="report")
    for name in report_files(folder):
        artifact.add_file(str(folder / name), policy="immutable")
    run.log_artifact(artifact)
