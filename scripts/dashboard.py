"""Create or update the W&B view and report of a sweep: python scripts/dashboard.py SWEEP (make dashboard)."""

import argparse
import os
import sys
from pathlib import Path

from crossover.cli import one_line
from crossover.config import CrossoverError
from crossover.report.mirror import logger_of
from crossover.store import read_sweep
from crossover.sweep.plan import sweep_dir

ANY = "anyone"
"""Entity in specs that are not saved."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep")
    parser.add_argument("--offline", action="store_true", help="write both specs to files; no connection")
    parser.add_argument("--outputs", default="outputs", help="the folder of runs and sweeps")
    parser.add_argument("--entity", help="default: the one that the runs were logged to, else your own")
    parser.add_argument("--project", help="default: the one that the runs were logged to")
    given = parser.parse_args(arguments)
    try:
        for line in dashboard(given):
            print(line)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def dashboard(given: argparse.Namespace) -> list[str]:
    """Write or save view and report; return where they are."""
    sweep = read_sweep(Path(given.outputs), given.sweep)
    directory = sweep_dir(given.outputs, given.sweep)
    os.environ["WANDB_SILENT"] = "true"
    if given.offline:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    from crossover.report.dashboard import read_findings, save, write_specs

    logger = logger_of(sweep)
    entity, project = given.entity or logger.entity, given.project or logger.project
    if given.offline:
        found = read_findings(sweep, directory, entity=entity or ANY, project=project)
        return [str(path) for path in write_specs(found, directory)]
    try:
        entity = entity or wandb.Api().default_entity
        return save(read_findings(sweep, directory, entity=str(entity), project=project))
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise CrossoverError(
            f"W&B: {one_line(error)}; `wandb login` logs in, OFFLINE=1 writes the specs to files"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
