"""Upload the W&B runs that were logged offline: python scripts/sync.py [OUTPUTS] (make sync). Only what is new."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crossover.lock import is_held
from crossover.record import INCOMPLETE

USAGE = "usage: python scripts/sync.py [OUTPUTS]    the folder of runs and sweeps; default: outputs"
CHUNK = 100
"""Runs per `wandb sync`."""


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    runs = left_to_upload(Path(arguments[0] if arguments else "outputs"))
    if not runs:
        print("nothing to upload: no run was logged offline since the last time")
        return 0
    import wandb

    try:
        wandb.Api()
    except wandb.errors.Error as error:
        print(f"error: W&B: {error}; `.venv/bin/wandb login` logs in, or set WANDB_API_KEY", file=sys.stderr)
        return 2
    for mark in (mark for parts in runs for folder in parts for mark in _marks(folder)):
        mark.unlink()  # of a part that goes again
    _upload([parts[0] for parts in runs], {})
    rest = [folder for parts in runs if is_uploaded(parts[0]) for folder in parts[1:]]
    _upload(rest, {"WANDB_RESUME": "allow"})  # else what was logged online takes the place of the first part
    uploaded = [parts for parts in runs if all(map(is_uploaded, parts))]
    for parts in uploaded:
        (parts[0].parent / INCOMPLETE).unlink(missing_ok=True)
    print(f"{len(uploaded)} of {len(runs)} runs uploaded")
    if len(uploaded) < len(runs):
        print("error: the same command tries the rest again", file=sys.stderr)
        return 1
    return 0


def left_to_upload(outputs: Path) -> list[list[Path]]:
    """Return the W&B folders of each run or report that the server has not got, the oldest first.

    A resumed run has several. Of one that was logged online and is incomplete there all go again: the first replaces
    what is there, the others continue it. Runs that still train are left out.
    """
    runs = [[folder] for folder in outputs.glob("sweeps/*/wandb/offline-run-*") if not is_uploaded(folder)]
    for place in outputs.glob("runs/*/wandb"):
        left = [folder for folder in place.glob("offline-run-*") if not is_uploaded(folder)]
        if (place / INCOMPLETE).exists():
            left = [*place.glob("offline-run-*"), *place.glob("run-*")]
        if left and not is_held(place.parent / "lock"):
            runs.append(sorted(left, key=_started))
    return sorted(runs, key=lambda parts: _started(parts[0]))


def _started(folder: Path) -> str:
    return folder.name.removeprefix("offline-")


def _upload(folders: Sequence[Path], how: dict[str, str]) -> None:
    program = str(Path(sys.executable).with_name("wandb"))
    for start in range(0, len(folders), CHUNK):
        chunk = [str(folder) for folder in folders[start : start + CHUNK]]
        command = [program, "sync", "--yes", "--include-online", *chunk]
        subprocess.run(command, env=os.environ | {"WANDB_DIR": "."} | how)


def _marks(folder: Path) -> list[Path]:
    return list(folder.glob("*.wandb.synced"))


def is_uploaded(folder: Path) -> bool:
    return bool(_marks(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
