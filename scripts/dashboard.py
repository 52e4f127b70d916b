"""Show a sweep in W&B or in the terminal, or upload what was logged offline (make dashboard, make sync)."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from crossover import wandb_runs
from crossover.cli import run_app
from crossover.config import CrossoverError
from crossover.report.wandb import logger_of
from crossover.store import read_sweep
from crossover.sweep.plan import sweep_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", nargs="?")
    parser.add_argument("--sync", action="store_true", help="upload the W&B runs that are not on the server yet")
    parser.add_argument("--offline", action="store_true", help="write both specs to files; no connection")
    parser.add_argument("--terminal", action="store_true", help="W&B's terminal dashboard on the files; no connection")
    parser.add_argument("--outputs", default="outputs", type=Path, help="the folder of runs and sweeps")
    parser.add_argument("--entity", help="default: the one that the runs were logged to, else your own")
    parser.add_argument("--project", help="default: the one that the runs were logged to")
    given = parser.parse_args()
    if given.sync:
        wandb_runs.sync(given.outputs)
        return
    if given.sweep is None:
        parser.error("give the name of a sweep, or --sync")
    sweep, directory = read_sweep(given.outputs, given.sweep), sweep_dir(given.outputs, given.sweep)
    wandb_runs.prepare(directory)
    if given.terminal:
        terminal(directory, [directory, *(given.outputs / "runs" / run_id for run_id in sweep.planned)])
    from crossover.report.dashboard import read_dashboard, save, write_specs

    logger = logger_of(sweep)
    entity, project = given.entity or logger.entity, given.project or logger.project
    if given.offline:
        shown = read_dashboard(sweep, directory, entity=entity or "anyone", project=project)
        print(*write_specs(shown, directory), sep="\n")
        return
    with wandb_runs.server_errors():
        import wandb

        entity = entity or wandb.Api(timeout=20).default_entity
        print(*save(read_dashboard(sweep, directory, entity=str(entity), project=project)), sep="\n")


def terminal(directory: Path, places: list[Path]) -> NoReturn:
    """Open `wandb leet` on a folder of links to the W&B runs of the sweep and its report."""
    logged = [folder for place in places for folder in wandb_runs.offline_folders(place / "wandb")]
    if not logged:
        raise CrossoverError(f"no run of {directory} was logged to W&B yet; logger=wandb_offline does that")
    links = directory / "leet"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for folder in logged:
        (links / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
    program = str(Path(sys.executable).with_name("wandb"))
    sys.exit(
        subprocess.run([program, "leet", "run", str(links)], env=os.environ | {"WANDB_MODE": "offline"}).returncode
    )


if __name__ == "__main__":
    run_app(main)
