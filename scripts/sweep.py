"""Train what is left of a sweep, then report: python scripts/sweep.py sweep=quick (make sweep SWEEP=quick)."""

import crossover  # isort: skip # noqa: F401
import importlib
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, validate
from crossover.store import freeze, is_done, read_sweep, write_plan
from crossover.sweep.launch import SlurmLauncher, SweepOptions, check_data, do_runs, repeat_command
from crossover.sweep.plan import group_runs, make_command, named, plan_runs, sweep_dir
from crossover.sweep.progress import Display
from crossover.text import say

FOR_REPORT = ("crossover.sweep_report", "crossover.data.loader", "wandb.sdk.launch")
"""Slow imports that a first report needs: torch for sample images, and a part of wandb.init."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="sweep")
@one_line_errors()
def main(config: DictConfig) -> None:
    console, options = Console(), validate(SweepOptions, resolved(config), "sweep")
    preset, given = HydraConfig.get().runtime.choices["sweep"], HydraConfig.get().overrides.task
    if options.sweep.name != preset and not any("sweep.name=" in item for item in given):
        raise CrossoverError(
            f"conf/sweep/{preset}.yaml says name: {options.sweep.name}, and would replace the report of that sweep; say"
            f" name: {preset}"
        )
    sweep, launcher = named(options.sweep, options.set), options.launcher
    runs = plan_runs(sweep, extra=options.set, outputs=options.outputs)
    left = [run for run in runs if not is_done(run.run_dir)]
    say(console, f"sweep {sweep.name}: {len(runs)} runs, {len(left)} to do")
    command = make_command(preset, options.set, given)
    outputs, directory = Path(options.outputs), sweep_dir(options.outputs, sweep.name)

    def ready() -> None:
        write_plan(directory, sweep.name, command, runs)
        if left:
            preload()

    if options.dry_run:
        print(*(run.run_id for run in runs), f"repeat: {command}", sep="\n")
    elif options.data_only:
        check_data(runs, console)
    elif options.commands is not None:
        check_data(runs, console)
        freeze(left)
        write_plan(directory, sweep.name, command, runs)
        for group in group_runs(runs, left, options.commands):
            print(repeat_command(outputs, group))
    elif isinstance(launcher, SlurmLauncher):
        from crossover.sweep import slurm

        slurm.require_slurm()
        check_data(runs, console)
        write_plan(directory, sweep.name, command, runs)
        slurm.submit_left(runs, launcher, directory, console)
        if launcher.wait:
            with Display(console, runs) as display:
                slurm.watch(runs, directory, display)
            report(outputs, sweep.name, console)
    else:
        from crossover.sweep_report import Interim

        watch = Interim(runs, console)
        do_runs(runs, console, parallel=launcher.parallel, runs_per_gpu=launcher.runs_per_gpu, ready=ready, watch=watch)
        report(outputs, sweep.name, console)


def preload() -> None:
    """Import what the report needs, while the runs start."""
    for module in FOR_REPORT:
        with suppress(ImportError):  # wandb is needed by its logger alone, which asks for it itself
            importlib.import_module(module)


def report(outputs: Path, name: str, console: Console) -> None:
    """Report on the runs that are done; exit with status 1 when one is not."""
    from crossover.sweep_report import present_sweep

    sweep = read_sweep(outputs, name)
    if sweep.records:
        present_sweep(sweep, sweep_dir(outputs, name), console)
    if left := len(sweep.states) - len(sweep.records):
        say(console, f"{left} of {len(sweep.states)} runs are not done; the same command tries again", style="red")
        sys.exit(1)


if __name__ == "__main__":
    run_hydra(main)
