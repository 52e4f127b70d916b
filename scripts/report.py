"""Analyse records or curves: python scripts/report.py name=quick, or curves=FILE.csv output=DIR (make report)."""

import shlex
from pathlib import Path

import hydra
from omegaconf import DictConfig
from pydantic import Field
from rich.console import Console

from crossover.analysis.runs import AnalysisError, read_curves
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, validate
from crossover.fields import Frozen
from crossover.report.build import write_findings
from crossover.report.findings import Findings, Report
from crossover.report.page import terminal_summary
from crossover.report.wandb import mirror_report
from crossover.store import read_sweep
from crossover.study import report_sweep
from crossover.sweep.plan import sweep_dir


class Options(Frozen):
    """The settings of conf/report.yaml, which documents them."""

    name: str = Field(coerce_numbers_to_str=True)
    also: tuple[str, ...]
    calibrate: int
    outputs: Path
    curves: Path | None
    output: Path | None
    seed: int


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@one_line_errors
def main(config: DictConfig) -> None:
    options = validate(Options, resolved(config), "report")
    try:
        report = report_of_sweep(options) if options.curves is None else report_of_curves(options.curves, options)
    except AnalysisError as error:
        raise CrossoverError(str(error)) from None
    terminal_summary(report, Console())


def report_of_sweep(options: Options) -> Report:
    sweep = read_sweep(options.outputs, options.name)
    directory = options.output or sweep_dir(options.outputs, options.name)
    also = [read_sweep(options.outputs, other) for other in options.also]
    report = report_sweep(sweep, directory, also=also, seed=options.seed, designs=options.calibrate)
    mirror_report(report, sweep)
    return report


def report_of_curves(path: Path, options: Options) -> Report:
    if options.output is None:
        raise CrossoverError("curves=... needs output=DIR, the folder to write to")
    curves, words = read_curves(path), [f"curves={path}", f"output={options.output}"]
    words += [f"seed={options.seed}"] if options.seed else []
    command = shlex.join([".venv/bin/python", "scripts/report.py", *words])
    findings = Findings(path.stem, command, curves, len(curves))
    return write_findings(findings, options.output, seed=options.seed, designs=options.calibrate)


if __name__ == "__main__":
    run_hydra(main)
