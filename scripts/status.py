"""Runs of each sweep that are done, running, failed and left: python scripts/status.py [OUTPUTS] (make status).

With --cancel SWEEP (make cancel), cancel the queued and running Slurm jobs of a sweep; its runs save their state first.
With --sync (make sync), upload the W&B runs that are not on the server yet.
"""

import crossover  # isort: skip # noqa: F401
import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossover import wandb_runs
from crossover.cli import run_app
from crossover.config import CrossoverError
from crossover.store import STATES, read_plan, run_state
from crossover.sweep.plan import sweep_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="?", default="outputs", type=Path, help="the folder of runs and sweeps")
    parser.add_argument("--cancel", metavar="SWEEP")
    parser.add_argument("--sync", action="store_true")
    options = parser.parse_args()
    if options.sync:
        wandb_runs.sync(options.outputs)
    elif options.cancel is None:
        show(options.outputs)
    else:
        cancel(sweep_dir(options.outputs, options.cancel))


def show(outputs: Path) -> None:
    table = Table("sweep", *STATES, "planned", "Slurm tasks", box=None)
    for path in sorted((outputs / "sweeps").glob("*/plan.json")):
        runs, jobs = read_plan(path)["runs"], None
        if (path.parent / "jobs").is_dir():
            from crossover.sweep.slurm import count_jobs  # submitit takes a second to import

            jobs = count_jobs(path.parent)
        said = "" if jobs is None else f"{jobs['queued']} queued, {jobs['running']} running"
        counts = Counter(run_state(outputs / "runs" / run_id) for run_id in runs)
        table.add_row(path.parent.name, *(str(counts[state]) for state in STATES), str(len(runs)), said)
    if table.rows:
        Console(width=400).print(table)  # names are never cut off, as users must type them
    else:
        print(f"no sweep in {outputs}; `make sweep` starts one")


def cancel(directory: Path) -> None:
    if not directory.is_dir():
        raise CrossoverError(f"no sweep {directory.name!r}: {directory} does not exist; `make status` lists them")
    from crossover.sweep.slurm import cancel_jobs

    count = cancel_jobs(directory)
    print(f"{count} tasks cancelled; runs save what they have, and the same `make sweep` continues them")


if __name__ == "__main__":
    run_app(main)
