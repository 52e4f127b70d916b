"""Analyse records or curves: python scripts/report.py name=quick, or curves=FILE.csv output=DIR (make report)."""

import crossover  # isort: skip # noqa: F401
import shlex
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig
from pydantic import Field
from rich.console import Console

from crossover.analysis.runs import read_curves
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, validate
from crossover.fields import Frozen
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.report.page import terminal_summary
from crossover.store import read_sweep
from crossover.sweep.plan import sweep_dir
from crossover.sweep_report import present_sweep


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
@one_line_errors()
def main(config: DictConfig) -> None:
    given = validate(Options, resolved(config), "report")
    settings: dict[str, Any] = {"seed": given.seed, "designs": given.calibrate}
    if given.curves is None:
        sweep, *also = (read_sweep(given.outputs, name) for name in (given.name, *given.also))
        directory = given.output or sweep_dir(given.outputs, given.name)
        present_sweep(sweep, directory, Console(), also=also, **settings)
    elif given.output is None:
        raise CrossoverError("curves=... needs output=DIR, the folder to write to")
    else:
        words = [f"curves={given.curves}", f"output={given.output}", *([f"seed={given.seed}"] if given.seed else [])]
        command, curves = shlex.join([".venv/bin/python", "scripts/report.py", *words]), read_curves(given.curves)
        inputs = ReportInput(given.curves.stem, command, curves)
        terminal_summary(write_report(inputs, given.output, **settings), Console())


if __name__ == "__main__":
    run_hydra(main)
