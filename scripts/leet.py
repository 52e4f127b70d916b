"""Watch the offline W&B runs of a sweep in the terminal: python scripts/leet.py SWEEP [OUTPUTS] (make leet)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from crossover.config import CrossoverError
from crossover.store import read_plan
from crossover.sweep.plan import sweep_dir

USAGE = "usage: python scripts/leet.py SWEEP [OUTPUTS]    OUTPUTS: the folder of runs and sweeps; default: outputs"


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    outputs = Path(arguments[1] if len(arguments) > 1 else "outputs")
    try:
        folder = gather(outputs, arguments[0])
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    program = str(Path(sys.executable).with_name("wandb"))
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    return subprocess.run([program, "leet", "run", str(folder)], env=environment).returncode


def gather(outputs: Path, name: str) -> Path:
    """Return a folder of links to the W&B folders of the sweep's runs and report, as `wandb leet` opens one folder."""
    directory = sweep_dir(outputs, name)
    if not (directory / "plan.json").exists():
        raise CrossoverError(f"no sweep {name!r}: {directory} has no plan; `make status` lists them")
    places = [outputs / "runs" / run_id / "wandb" for run_id in read_plan(directory / "plan.json")["runs"]]
    found = [folder for place in [*places, directory / "wandb"] for folder in sorted(place.glob("*run-*"))]
    found = [folder for folder in found if folder.is_dir() and not folder.is_symlink()]
    if not found:
        raise CrossoverError(f"no run of sweep {name!r} was logged to W&B yet; logger=wandb_offline does that")
    links = directory / "leet"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir()
    for folder in found:
        (links / folder.name).symlink_to(folder.resolve(), target_is_directory=True)
    return links


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
