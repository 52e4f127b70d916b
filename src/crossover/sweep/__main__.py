"""Do a group of frozen runs here: python -m crossover.sweep [--outputs DIR] RUN_ID...

This is what a job of a cluster does, whoever starts it; `commands=N` of scripts/sweep.py prints one such command per
group. Runs that are done are skipped, runs that others hold are left to them; the exit status is 1 when one failed.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from crossover.config import CrossoverError
from crossover.lock import STALE_SECONDS
from crossover.store import read_frozen
from crossover.sweep.failures import describe_failures
from crossover.sweep.launch import check_data
from crossover.sweep.pool import run_pool
from crossover.sweep.progress import Display
from crossover.sweep.slots import slots_for


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the pool then lets its runs save
    try:
        runs = [read_frozen(options.outputs / "runs" / run_id) for run_id in options.runs]
        check_data(runs)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with Display(console, len(runs)) as display:
        progress = run_pool(
            runs,
            slots=slots_for(runs, options.parallel, options.runs_per_gpu),
            report=display,
            patience=2 * STALE_SECONDS,  # a dead owner's heartbeat is stale by then
        )
    failed = [run_id for run_id, state in progress.states.items() if state == "failed"]
    for line in describe_failures(options.outputs, failed):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if failed else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m crossover.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_ID", help="a folder's name in OUTPUTS/runs")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--parallel", type=int, help="runs at a time; default: one per core or GPU")
    parser.add_argument("--runs-per-gpu", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
