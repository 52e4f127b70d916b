"""Do what is left of a sweep, then report: python scripts/sweep.py sweep=quick (make sweep SWEEP=quick)."""

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_app
from crossover.report.build import terminal_summary
from crossover.study import report_sweep
from crossover.sweep.launch import check_data, local_slots, parse_launcher, run_pool
from crossover.sweep.plan import named, parse_sweep, plan_runs, sweep_dir
from crossover.sweep.progress import Display
from crossover.sweep.records import freeze, read_sweep, run_state, write_plan


def compose_train(overrides: list[str]) -> dict[str, Any]:
    return resolved(compose("train", overrides))


@hydra.main(version_base="1.3", config_path="../conf", config_name="sweep")
@one_line_errors
def main(config: DictConfig) -> None:
    console = Console()
    values = resolved(config)
    sweep = named(parse_sweep(values["sweep"]), values["set"])
    launcher = parse_launcher(values["launcher"])
    runs = plan_runs(sweep, compose_train, extra=values["set"], outputs=values["outputs"])
    left = sum(run_state(run.run_dir) != "done" for run in runs)
    console.print(f"sweep {sweep.name}: {len(runs)} runs, {left} to do", highlight=False)
    if values["dry_run"]:
        console.print("\n".join(run.run_id for run in runs), highlight=False)
        return
    if left:
        for line in check_data(runs):
            console.print(line, highlight=False)
    freeze(runs)
    directory = sweep_dir(values["outputs"], sweep.name)
    write_plan(directory, sweep.name, command(values), runs)
    with Display(console, len(runs)) as display:
        progress = run_pool(runs, slots=local_slots(launcher.parallel, launcher.runs_per_gpu), report=display)
    failed = progress.count("failed")
    records = read_sweep(Path(values["outputs"]), sweep.name)
    for run_id, text in records.errors.items():
        last = text.strip().splitlines()[-1]
        console.print(f"failed: {run_id}: {last}", style="red", highlight=False, markup=False)
    if records.records:
        terminal_summary(report_sweep(records, directory), console)
    if failed:
        console.print(f"{failed} of {len(runs)} runs failed; the same command tries them again", style="red")
        sys.exit(1)


def command(values: dict[str, Any]) -> str:
    """Return the make command that repeats this sweep."""
    changes = f' SET="{" ".join(values["set"])}"' if values["set"] else ""
    return f"make sweep SWEEP={values['sweep']['name']}{changes}"


if __name__ == "__main__":
    run_app(main)
