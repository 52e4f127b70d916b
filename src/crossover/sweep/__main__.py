"""Train a group of frozen runs on this machine: python -m crossover.sweep [--outputs DIR] RUN_ID...

This is what a cluster job runs, whatever starts it; `commands=N` of scripts/sweep.py prints one such command per group.
Finished runs and runs held by another process are skipped; the exit status is 1 when a run failed.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from crossover.cli import run_app
from crossover.store import read_frozen
from crossover.sweep.launch import do_runs


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m crossover.sweep", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_ID", help="a folder's name in OUTPUTS/runs")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--parallel", type=int, help="runs at a time; default: one per core or GPU")
    parser.add_argument("--runs-per-gpu", type=int, default=1)
    options = parser.parse_args(arguments)
    runs = [read_frozen(options.outputs / "runs" / run_id) for run_id in options.runs]
    progress = do_runs(runs, Console(), parallel=options.parallel, runs_per_gpu=options.runs_per_gpu, frozen=True)
    return 1 if progress.count("failed") else 0


if __name__ == "__main__":
    run_app(lambda: sys.exit(main(sys.argv[1:])))
