"""Upload the W&B runs that are not on the server yet: python scripts/sync.py [OUTPUTS] (make sync)."""

import argparse
from pathlib import Path

from crossover.cli import run_app
from crossover.wandb_runs import sync


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", nargs="?", default="outputs", type=Path, help="the folder of runs and sweeps")
    sync(parser.parse_args().outputs)


if __name__ == "__main__":
    run_app(main)
