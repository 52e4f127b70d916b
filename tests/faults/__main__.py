"""Disturb sweeps and compare their records: python -m tests.faults [--faults N] [--seed N] (make faults).

Disks that are full or read-only need file systems of our own: on Linux, `unshare` gives them to root and, where the
system allows it, to everyone. Elsewhere these two faults are left out, and the output says so.
"""

import argparse
import importlib
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from crossover.data.cache import open_dataset
from crossover.store import replace_block, write_json
from crossover.sweep.pool import ONE_THREAD, PRELOAD
from tests.faults.world import FAULTS, FORK, RUNS, STEPS, Fault, World

Row = dict[str, Any]
INSIDE = "CROSSOVER_FAULTS_INSIDE"
"""In the environment of a process that has a mount namespace of its own."""
BEGIN, END = "<!-- campaign: begin -->\n", "\n<!-- campaign: end -->"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--faults", type=int, default=200, help="how many must strike; default: 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="write faults.json there, and its table to docs/reliability.md")
    options = parser.parse_args(arguments)
    if INSIDE not in os.environ:
        unshare = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        if shutil.which("unshare") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            again = [*unshare, sys.executable, "-m", "tests.faults", *arguments]
            return subprocess.run(again, env=os.environ | {INSIDE: "1"}, check=False).returncode
        print("no mount namespace here (unshare --mount): without full and read-only disks")
    os.environ.update(ONE_THREAD)  # before torch is imported; and imports happen once, all else is forked
    for module in [*PRELOAD, "crossover.sweep_report"]:
        importlib.import_module(module)
    folder = Path(tempfile.mkdtemp(prefix="crossover-faults-"))
    result = run_campaign(folder, seed=options.seed, faults=options.faults)
    if options.results:
        write_json(options.results / "faults.json", result)
        replace_block(Path("docs/reliability.md"), BEGIN, END, table(result))
    print(f"{result['faults']} faults, {result['sweeps']} sweeps, {result['sweeps_identical']} identical")
    if result["wrong"]:
        print(f"what went wrong is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def run_campaign(folder: Path, *, seed: int, faults: int) -> Row:
    """Disturb sweeps in `folder` until so many faults have struck; return what happened, as faults.json has it.

    The faults and their moments follow from `seed`; what a moment hits depends on the machine.
    """
    started, at_once = time.perf_counter(), len(os.sched_getaffinity(0))
    kinds = [fault for fault in FAULTS if INSIDE in os.environ or not fault.mounts]
    undisturbed = World(folder / "undisturbed", folder / "data", random.Random(seed), 0.0)
    open_dataset(undisturbed.runs[0].data, folder / "data")  # once for all
    before = time.perf_counter()
    if wrong := undisturbed.finish():
        sys.exit(f"error: the undisturbed sweep went wrong; see {folder}: {', '.join(wrong)}")
    usual = time.perf_counter() - before
    trials: list[Row] = []
    trial = partial(_trial, folder, undisturbed.records(), seed, kinds, usual)
    with ProcessPoolExecutor(at_once, mp_context=FORK) as workers:
        while len(hits := [hit for trial in trials for hit in trial["hits"]]) < faults:
            trials += workers.map(trial, range(len(trials), len(trials) + 2 * at_once))
    right = {trial["sweep"] for trial in trials if not trial["wrong"]}
    by_fault = []
    for fault in kinds:
        sweeps = [hit["trial"] for hit in hits if hit["fault"] == fault.name]
        row = {"fault": fault.name, "how": fault.how, "struck": len(sweeps), "sweeps": len(set(sweeps))}
        by_fault.append(row | {"sweeps_identical": len(right.intersection(sweeps))})
    return {
        "seed": seed,
        "faults": len(hits),
        "sweeps": len(trials),
        "sweeps_identical": len(right),
        "runs_per_sweep": RUNS,
        "steps_per_run": STEPS,
        "undisturbed_seconds": usual,
        "seconds": time.perf_counter() - started,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "by_fault": by_fault,
        "wrong": [{"sweep": trial["sweep"], "wrong": trial["wrong"]} for trial in trials if trial["wrong"]],
        "hits": hits,
    }


def _trial(
    folder: Path, reference: Mapping[str, Any], seed: int, kinds: Sequence[Fault], usual: float, number: int
) -> Row:
    """Let faults strike one sweep until all runs are done, and compare its records; keep its folder if they differ."""
    world = World(folder / f"trial-{number}", folder / "data", random.Random(f"{seed}/{number}"), usual)
    hits, wrong, mounts = list[Row](), list[str](), INSIDE in os.environ
    world.folder.mkdir()
    if mounts:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "crossover-faults", world.folder], check=True)
    while (before := world.done()) < RUNS:
        fault = world.rng.choice(kinds)
        what = fault.strike(world)
        wrong += world.note_done()
        if what is not None:
            hit = {"trial": number, "fault": fault.name, "what": what}
            hits.append(hit | {"done_before": before, "done_after": world.done()})
    wrong += world.finish()
    if not wrong and world.records() != reference:
        wrong.append("the records differ")
    if wrong:
        shutil.copytree(world.folder, folder / f"wrong-{number}")
    if mounts:
        subprocess.run(["umount", "--lazy", world.folder], check=True)
    print(f"sweep {number}: {'; '.join(wrong) or 'right'} after {len(hits)} faults", flush=True)
    return {"sweep": number, "wrong": wrong, "hits": hits}


def table(result: Mapping[str, Any]) -> str:
    """Return the campaign as a Markdown table."""
    lines = ["| fault | how | struck | sweeps it struck | of them identical to the undisturbed |", f"|{5 * '---|'}"]
    lines += [f"| {' | '.join(map(str, row.values()))} |" for row in result["by_fault"]]
    total = f"**{result['faults']}** | **{result['sweeps']}** | **{result['sweeps_identical']}**"
    return "\n".join([*lines, f"| **all** | seed {result['seed']} | {total} |"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
