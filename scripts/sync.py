"""Upload the W&B runs that were logged offline: python scripts/sync.py [OUTPUTS] (make sync). Only what is new."""

import os
import subprocess
import sys
from pathlib import Path

from crossover.vocabulary import INCOMPLETE

USAGE = "usage: python scripts/sync.py [OUTPUTS]    the folder of runs and sweeps; default: outputs"
CHUNK = 100
"""Runs per `wandb sync`."""


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    folders = left_to_upload(Path(arguments[0] if arguments else "outputs"))
    if not folders:
        print("nothing to upload: no run was logged offline since the last time")
        return 0
    import wandb

    try:
        wandb.Api()
    except wandb.errors.Error as error:
        print(f"error: W&B: {error}; `.venv/bin/wandb login` logs in, or set WANDB_API_KEY", file=sys.stderr)
        return 2
    program = str(Path(sys.executable).with_name("wandb"))
    for start in range(0, len(folders), CHUNK):
        chunk = [str(folder) for folder in folders[start : start + CHUNK]]
        subprocess.run([program, "sync", "--yes", "--include-online", *chunk], env=os.environ | {"WANDB_DIR": "."})
    uploaded = [folder for folder in folders if is_uploaded(folder)]
    for folder in uploaded:
        (folder.parent / INCOMPLETE).unlink(missing_ok=True)
    print(f"{len(uploaded)} of {len(folders)} runs uploaded")
    if len(uploaded) < len(folders):
        print("error: the same command tries the rest again", file=sys.stderr)
        return 1
    return 0


def left_to_upload(outputs: Path) -> list[Path]:
    """Return the W&B folders of runs and reports that the server has not got, the oldest first."""
    places = [*outputs.glob("runs/*/wandb"), *outputs.glob("sweeps/*/wandb")]
    folders = [folder for place in places for folder in place.glob("offline-run-*")]
    folders += [folder for place in places if (place / INCOMPLETE).exists() for folder in place.glob("run-*")]
    return sorted((f for f in folders if not is_uploaded(f)), key=lambda folder: folder.name.removeprefix("offline-"))


def is_uploaded(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
