"""Upload the W&B runs that are not there yet: python scripts/sync.py [OUTPUTS] (make sync)."""

import sys
from pathlib import Path

from crossover import wandb_runs
from crossover.config import CrossoverError
from crossover.lock import is_held

USAGE = "usage: python scripts/sync.py [OUTPUTS]    the folder of runs and sweeps; default: outputs"
PATIENCE = 120.0
"""Seconds without a run taken after which it ends."""


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return sync(Path(arguments[0] if arguments else "outputs"))
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def sync(outputs: Path) -> int:
    """Upload what is left, but for runs that still train; return the exit status."""
    places = [place for place in sorted(outputs.glob("*/*/wandb")) if wandb_runs.is_left(place)]
    folders = [f for place in places if not is_held(place.parent / "lock") for f in wandb_runs.to_upload(place)]
    if not folders:
        print("nothing to upload: W&B has all that was logged")
        return 0
    wandb_runs.prepare(outputs)
    url, count, log = wandb_runs.api().settings["base_url"], len(folders), outputs / "wandb-sync.log"
    print(f"uploading {count} W&B runs to {url}", flush=True)
    taken = wandb_runs.upload(
        folders, log, patience=PATIENCE, report=lambda done: print(f"{done} of {count}", flush=True)
    )
    print(f"{taken} of {count} uploaded")
    if taken < count:
        raise CrossoverError(f"W&B has not taken the rest ({log} says more); nothing is lost: `make sync` tries again")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
