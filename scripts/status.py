"""Runs of each sweep that are done, running, failed and left: python scripts/status.py [OUTPUTS] (make status).

With --cancel SWEEP (make cancel), cancel the queued and running Slurm jobs of a sweep; its runs save their state first.
"""

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossover.cli import run_app
from crossover.config import CrossoverError
from crossover.store import STATES, read_plan, run_state
from crossover.sweep.plan import sweep_dir

WIDTH = 400
"""Largest width of the table; names are never cut off, as users must type them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="?", default="outputs", type=Path, help="the folder of runs and sweeps")
    parser.add_argument("--cancel", metavar="SWEEP")
    options = parser.parse_args()
    if options.cancel is not None:
        cancel(options.outputs, options.cancel)
    else:
        show(options.outputs)


def show(outputs: Path) -> None:
    table = Table("sweep", *STATES, "planned", "Slurm tasks", box=None)
    for path in sorted((outputs / "sweeps").glob("*/plan.json")):
        plan = read_plan(path)
        counts = Counter(run_state(outputs / "runs" / run_id) for run_id in plan["runs"])
        row = [str(counts[state]) for state in STATES]
        table.add_row(path.parent.name, *row, str(len(plan["runs"])), describe_jobs(path.parent))
    if not table.rows:
        print(f"no sweep in {outputs}; `make sweep` starts one")
        return
    Console(width=WIDTH).print(table)


def describe_jobs(directory: Path) -> str:
    """Return such as `3 queued, 2 running`; empty if there is no Slurm or nothing was submitted."""
    if not (directory / "jobs").is_dir():
        return ""
    from crossover.sweep.slurm import count_jobs  # submitit takes a second to import

    jobs = count_jobs(directory)
    return "" if jobs is None else f"{jobs['queued']} queued, {jobs['running']} running"


def cancel(outputs: Path, name: str) -> None:
    directory = sweep_dir(outputs, name)
    if not directory.is_dir():
        raise CrossoverError(f"no sweep {name!r}: {directory} does not exist; `make status` lists them")
    from crossover.sweep.slurm import cancel_jobs

    count = cancel_jobs(directory)
    print(f"{count} tasks cancelled; runs save what they have, and the same `make sweep` continues them")


if __name__ == "__main__":
    run_app(main)
