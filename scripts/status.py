"""What is done of each sweep: python scripts/status.py (make status)."""

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossover.config import CrossoverError
from crossover.store import STATES, read_plan, run_state
from crossover.sweep.jobs import count_jobs

USAGE = "usage: python scripts/status.py [OUTPUTS]    the folder of runs and sweeps; default: outputs"


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    outputs = Path(arguments[0] if arguments else "outputs")
    table = Table("sweep", *STATES, "planned", "Slurm tasks", box=None)
    try:
        for path in sorted((outputs / "sweeps").glob("*/plan.json")):
            plan = read_plan(path)
            counts = Counter(run_state(outputs / "runs" / run_id) for run_id in plan["runs"])
            row = [str(counts[state]) for state in STATES]
            table.add_row(plan["name"], *row, str(len(plan["runs"])), describe_jobs(path.parent))
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table.columns[-1].no_wrap = True
    if not table.rows:
        print(f"no sweep in {outputs}; `make sweep` starts one")
        return 0
    Console().print(table)
    return 0


def describe_jobs(directory: Path) -> str:
    """Return such as `3 queued, 2 running`; empty where there is no Slurm or nothing was submitted to it."""
    jobs = count_jobs(directory)
    return "" if jobs is None else f"{jobs['queued']} queued, {jobs['running']} running"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
