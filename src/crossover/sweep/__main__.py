"""Train a group of frozen runs on this machine: python -m crossover.sweep [--outputs DIR] RUN_ID...

This is what a cluster job runs, whatever starts it; `commands=N` of scripts/sweep.py prints one such command per group.
Finished runs and runs held by another process are skipped; the exit status is 1 when a run failed.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from crossover.config import CrossoverError
from crossover.lock import STALE_SECONDS
from crossover.store import read_frozen
from crossover.sweep.launch import do_runs


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m crossover.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_ID", help="a folder's name in OUTPUTS/runs")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--parallel", type=int, help="runs at a time; default: one per core or GPU")
    parser.add_argument("--runs-per-gpu", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        progress = do_runs(
            [read_frozen(options.outputs / "runs" / run_id) for run_id in options.runs],
            Console(),
            parallel=options.parallel,
            runs_per_gpu=options.runs_per_gpu,
            frozen=True,
            patience=2 * STALE_SECONDS,  # a dead owner's heartbeat is stale by then
        )
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if progress.count("failed") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
