"""Do what is left of a sweep, then report: python scripts/sweep.py sweep=quick (make sweep SWEEP=quick)."""

import contextlib
import importlib
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_app
from crossover.config import RunConfig
from crossover.store import freeze, is_done, read_record, read_sweep, write_plan
from crossover.sweep.failures import describe_failures, repeat_command
from crossover.sweep.groups import estimate_costs, group_runs
from crossover.sweep.jobs import queued_runs
from crossover.sweep.launch import LocalLauncher, SlurmLauncher, check_data, parse_launcher
from crossover.sweep.plan import named, parse_sweep, plan_runs, sweep_dir
from crossover.sweep.pool import Progress, fork_server, run_pool
from crossover.sweep.progress import Display
from crossover.sweep.slots import slots_for
from crossover.sweep.slurm import require_slurm, submit, watch


def compose_train(overrides: list[str]) -> dict[str, Any]:
    return resolved(compose("train", overrides))


FOR_REPORT = ("crossover.study", "crossover.data.augment", "wandb.sdk.launch")
"""What a first report needs and takes seconds to import: torch for sample images, and a part of wandb.init."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="sweep")
@one_line_errors
def main(config: DictConfig) -> None:
    console = Console()
    values = resolved(config)
    sweep = named(parse_sweep(values["sweep"]), values["set"])
    launcher = parse_launcher(values["launcher"])
    if isinstance(launcher, SlurmLauncher):
        require_slurm()
    runs = plan_runs(sweep, compose_train, extra=values["set"], outputs=values["outputs"])
    left = [run for run in runs if not is_done(run.run_dir)]
    console.print(f"sweep {sweep.name}: {len(runs)} runs, {len(left)} to do", highlight=False)
    if values["dry_run"]:
        console.print("\n".join(run.run_id for run in runs), highlight=False)
        return
    if left and isinstance(launcher, LocalLauncher) and values["commands"] is None:
        fork_server()  # imports while the data is prepared
    for line in check_data(left):
        console.print(line, highlight=False)
    outputs, directory = Path(values["outputs"]), sweep_dir(values["outputs"], sweep.name)
    write_plan(directory, sweep.name, command(values), runs)
    if values["commands"] is not None:
        freeze(left)
        print_commands(grouped(runs, left, values["commands"]), outputs)
        return
    if isinstance(launcher, LocalLauncher):
        freeze(left)
        for module in FOR_REPORT if left else ():  # while the fork server imports, which takes as long
            with contextlib.suppress(ModuleNotFoundError):  # W&B, where it is not used
                importlib.import_module(module)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the pool then lets its runs save
        with Display(console, len(runs)) as display:
            progress = run_pool(runs, slots=slots_for(left, launcher.parallel, launcher.runs_per_gpu), report=display)
    else:
        submit_left(runs, left, launcher, directory, console)
        if not launcher.wait:
            return
        with Display(console, len(runs)) as display:
            progress = watch(runs, directory, display)
    finish(progress, directory, console)


def grouped(runs: list[RunConfig], left: list[RunConfig], size: int) -> list[list[str]]:
    """Return the runs of `left` in groups, the longest first."""
    kept = {run.run_id for run in left}
    done = {run.run_id: read_record(run.run_dir / "record.json") for run in runs if is_done(run.run_dir)}
    costs = estimate_costs(runs, done)
    return group_runs({run_id: cost for run_id, cost in costs.items() if run_id in kept}, size)


def print_commands(groups: list[list[str]], outputs: Path) -> None:
    for group in groups:
        print(repeat_command(outputs, group))


def submit_left(
    runs: list[RunConfig], left: list[RunConfig], launcher: SlurmLauncher, directory: Path, console: Console
) -> None:
    """Freeze and submit the runs that are neither done nor in the queue: what is queued stays as it was."""
    outputs, queued = directory.parent.parent, queued_runs(directory)
    new = [run for run in left if run.run_id not in queued]
    if len(new) < len(left):
        console.print(f"{len(left) - len(new)} runs are in the queue already", highlight=False)
    if not new:
        return
    freeze(new)
    tasks, jobs = 0, []
    for shape in dict.fromkeys(run.trainer for run in new):
        size = launcher.runs_per_job if shape.num_nodes == 1 else 1
        groups = grouped(runs, [run for run in new if run.trainer == shape], size)
        jobs += submit(groups, launcher, directory, outputs, shape)
        tasks += len(groups)
    console.print(
        f"submitted {len(new)} runs in {tasks} tasks: job {', '.join(jobs)}; logs in {directory / 'slurm'}\n"
        f"`make status` shows them; `make cancel SWEEP={directory.name}` ends them; `make report` reads what is done",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def finish(progress: Progress, directory: Path, console: Console) -> None:
    """Report; exit with status 1 when a run failed or is not done."""
    from crossover.report.mirror import mirror_report  # seconds to import: not where jobs are only submitted
    from crossover.report.terminal import terminal_summary
    from crossover.study import report_sweep

    records = read_sweep(directory.parent.parent, directory.name)
    for line in describe_failures(directory.parent.parent, records.errors):
        console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    if records.records:
        report = report_sweep(records, directory)
        terminal_summary(report, console)
        mirror_report(report, records)
    left = len(progress.states) - progress.count("done")
    if left:
        console.print(f"{left} of {len(progress.states)} runs are not done; the same command tries again", style="red")
        sys.exit(1)


def command(values: dict[str, Any]) -> str:
    """Return the make command that repeats this sweep."""
    changes = f' SET="{" ".join(values["set"])}"' if values["set"] else ""
    return f"make sweep SWEEP={values['sweep']['name']}{changes}"


if __name__ == "__main__":
    run_app(main)
