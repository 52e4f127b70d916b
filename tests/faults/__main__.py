"""Disturb sweeps and compare their records: python -m tests.faults [--faults N] [--seed N] (make faults).

Disks that are full or read-only need file systems of our own: on Linux, `unshare` gives them to root and, where the
system allows it, to everyone. Elsewhere these two faults are left out, and the output says so.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from crossover.config import CrossoverError
from crossover.store import replace_block, write_json
from crossover.sweep.pool import ONE_THREAD, PRELOAD
from tests.faults.campaign import run_campaign, table

INSIDE = "CROSSOVER_FAULTS_INSIDE"
"""In the environment of a process that has a mount namespace of its own."""

BEGIN, END = "<!-- campaign: begin -->\n", "\n<!-- campaign: end -->"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faults", type=int, default=200, help="how many must strike; default: 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=len(os.sched_getaffinity(0)), help="sweeps; default: one a core")
    parser.add_argument("--results", type=Path, help="write faults.json there, and its table to docs/reliability.md")
    options = parser.parse_args(arguments)
    mounts = INSIDE in os.environ
    if not mounts:
        unshare = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            again = [*unshare, sys.executable, "-m", "tests.faults", *arguments]
            return subprocess.run(again, env=os.environ | {INSIDE: "1"}, check=False).returncode
        print("no mount namespace here (unshare --mount): without full and read-only disks")
    os.environ.update(ONE_THREAD)  # before torch is imported; and imports happen once, all else is forked
    for module in [*PRELOAD, "crossover.study"]:
        importlib.import_module(module)
    folder = Path(tempfile.mkdtemp(prefix="crossover-faults-"))
    try:
        result = run_campaign(folder, seed=options.seed, faults=options.faults, at_once=options.at_once, mounts=mounts)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.results:
        options.results.mkdir(parents=True, exist_ok=True)
        write_json(options.results / "faults.json", result)
        replace_block(Path("docs/reliability.md"), BEGIN, END, table(result))
    print(f"{result['faults']} faults, {result['sweeps']} sweeps, {result['sweeps_identical']} identical")
    if result["wrong"]:
        print(f"what went wrong is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
