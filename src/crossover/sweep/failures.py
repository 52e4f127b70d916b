"""What failed, and how is it repeated?"""

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from crossover.store import read_error

LAST_LINES = 3


def describe_failures(outputs: Path, run_ids: Iterable[str]) -> list[str]:
    """Return for each failed run its name, the last lines of its error and the command that repeats it."""
    lines = []
    for run_id in run_ids:
        last = read_error(outputs, run_id).strip().splitlines()[-LAST_LINES:] or ["no message"]
        lines += [f"failed: {run_id}: {last[0]}", *(f"  {line}" for line in last[1:])]
        lines.append(f"  repeat: {repeat_command(outputs, [run_id])}")
    return lines


def repeat_command(outputs: Path, run_ids: list[str]) -> str:
    """Return the shell command that does these frozen runs on the machine where it is given."""
    return shlex.join([sys.executable, "-m", "crossover.sweep", "--outputs", str(outputs), *run_ids])
