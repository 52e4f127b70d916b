"""Analyse records or curves: python scripts/report.py name=quick, or curves=FILE.csv output=DIR (make report)."""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from crossover.analysis.runs import AnalysisError, read_curves
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError
from crossover.report.build import write_curves_report
from crossover.report.terminal import terminal_summary
from crossover.report.wandb import mirror_report
from crossover.store import read_sweep
from crossover.study import report_sweep
from crossover.sweep.plan import sweep_dir


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
@one_line_errors
def main(config: DictConfig) -> None:
    values, console = resolved(config), Console()
    try:
        if values["curves"] is None:
            name, outputs = values["name"], Path(values["outputs"])
            sweep = read_sweep(outputs, name)
            report = report_sweep(
                sweep,
                Path(values["output"] or sweep_dir(outputs, name)),
                also=[read_sweep(outputs, other) for other in values["also"]],
                seed=values["seed"],
                designs=values["calibrate"],
            )
            mirror_report(report, sweep)
        else:
            if values["output"] is None:
                raise CrossoverError("curves=... needs output=DIR, the folder to write to")
            path = Path(values["curves"])
            command = f"python scripts/report.py curves={path} output={values['output']}"
            report = write_curves_report(
                read_curves(path),
                Path(values["output"]),
                title=path.stem,
                command=command,
                seed=values["seed"],
                designs=values["calibrate"],
            )
    except AnalysisError as error:
        raise CrossoverError(str(error)) from None
    terminal_summary(report, console)


if __name__ == "__main__":
    run_hydra(main)
