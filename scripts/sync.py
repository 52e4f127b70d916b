"""Upload the W&B runs that are not on the server yet: python scripts/sync.py [OUTPUTS] (make sync)."""

import sys
from pathlib import Path

from crossover import wandb_runs
from crossover.config import CrossoverError
from crossover.lock import is_held

USAGE = "usage: python scripts/sync.py [OUTPUTS]    the folder of runs and sweeps; default: outputs"
PATIENCE = 120.0
"""Seconds without an upload after which it ends."""


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        sync(Path(arguments[0] if arguments else "outputs"))
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def sync(outputs: Path) -> None:
    """Upload what is left, except runs that are still training or wait to be continued without a complete log."""
    places = [place for place in sorted(outputs.glob("*/*/wandb")) if wandb_runs.is_left(place)]
    places = [place for place in places if not is_held(place.parent / "lock") and wandb_runs.is_ready(place)]
    if not places:
        print("nothing to upload: W&B has all runs that are logged and do not train any more")
        return
    wandb_runs.prepare(outputs)
    url, log = wandb_runs.api().settings["base_url"], outputs / "wandb-sync.log"
    folders = [folder for place in places for folder in wandb_runs.to_upload(place)]
    count = len(folders)
    print(f"uploading {count} W&B runs to {url}", flush=True)
    wandb_runs.upload(folders, log, patience=PATIENCE, report=lambda done: print(f"{done} of {count}", flush=True))
    left = sum(map(wandb_runs.is_left, places))
    if left:
        raise CrossoverError(f"W&B has not taken {left} of {len(places)} ({log} says more); `make sync` tries again")
    print(f"{count} of {count} uploaded")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
