"""Many trials, each a sweep with several random faults, compared with the records of an undisturbed sweep."""

import itertools
import platform
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crossover.config import CrossoverError
from tests.faults.kinds import FAULTS, Fault
from tests.faults.world import FORK, STEPS, World

DISK_MB = 64


@dataclass(frozen=True)
class Hit:
    """A fault that struck, and the runs that were done when it began and ended."""

    trial: int
    fault: str
    what: str
    done_before: int
    done_after: int


@dataclass(frozen=True)
class Trial:
    """A sweep that was disturbed until it was done; `wrong` says in what it differs from the undisturbed one."""

    number: int
    hits: list[Hit]
    wrong: list[str]


def run_campaign(folder: Path, *, seed: int, faults: int, at_once: int, mounts: bool) -> dict[str, Any]:
    """Disturb sweeps in `folder` until so many faults have struck; return what happened, as faults.json has it.

    The faults and their moments follow from `seed`; what a moment hits depends on the machine. The folders of trials
    that went wrong are kept.
    """
    started = time.perf_counter()
    kinds = [fault for fault in FAULTS if mounts or not fault.mounts]
    reference = World(folder / "undisturbed", folder / "data", random.Random(seed), 0.0)
    wrong = reference.finish()  # builds the cache of the data as well
    again = World(folder / "timed", folder / "data", random.Random(seed), 0.0)
    before = time.perf_counter()
    wrong += again.finish()
    usual = time.perf_counter() - before
    if wrong or again.records() != reference.records():
        raise CrossoverError(f"two undisturbed sweeps differ; see {folder}: {', '.join(wrong)}")
    trials: list[Trial] = []
    with ProcessPoolExecutor(at_once, mp_context=FORK) as workers:
        trial = partial(_trial, folder, reference.records(), seed, kinds, usual, mounts)
        numbers = itertools.count()
        active, struck = {workers.submit(trial, next(numbers)) for _ in range(at_once)}, 0
        while active:
            ended, active = wait(active, return_when=FIRST_COMPLETED)
            for done in (future.result() for future in ended):
                trials.append(done)
                struck += len(done.hits)
                names = ", ".join(hit.fault for hit in done.hits)
                print(f"{struck} faults; sweep {done.number}: {'; '.join(done.wrong) or 'right'} ({names})", flush=True)
                if struck < faults:
                    active.add(workers.submit(trial, next(numbers)))
    return summarise(trials, kinds, seed, usual, time.perf_counter() - started)


def _trial(
    folder: Path, reference: dict[str, Any], seed: int, kinds: Sequence[Fault], usual: float, mounts: bool, number: int
) -> Trial:
    """Let faults strike one sweep until all runs are done, and compare its records with the undisturbed ones."""
    place, hits, wrong = folder / f"trial-{number}", list[Hit](), list[str]()
    place.mkdir()
    if mounts:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "crossover-faults", place], check=True)
    world = World(place, folder / "data", random.Random(f"{seed}/{number}"), usual)
    try:
        while world.done() < len(world.runs):
            fault, before = world.rng.choice(kinds), world.done()
            what = fault.strike(world)
            wrong += world.note_done()
            if what is not None:
                hits.append(Hit(number, fault.name, what, before, world.done()))
        wrong += world.finish()
        if not wrong and world.records() != reference:
            wrong.append("the records differ")
        if wrong:
            shutil.copytree(place, folder / f"wrong-{number}")
    finally:
        world.end()
        if mounts:
            subprocess.run(["umount", "--lazy", place], check=True)
    place.with_suffix(".log").unlink(missing_ok=True)
    shutil.rmtree(place)
    return Trial(number, hits, wrong)


def summarise(
    trials: Sequence[Trial], kinds: Sequence[Fault], seed: int, usual: float, seconds: float
) -> dict[str, Any]:
    """Return the content of faults.json."""
    hits = [hit for trial in trials for hit in trial.hits]
    right = {trial.number for trial in trials if not trial.wrong}
    return {
        "seed": seed,
        "faults": len(hits),
        "sweeps": len(trials),
        "sweeps_identical": len(right),
        "runs_per_sweep": 4,
        "steps_per_run": STEPS,
        "undisturbed_seconds": usual,
        "seconds": seconds,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "by_fault": [
            {
                "fault": fault.name,
                "how": fault.how,
                "struck": sum(hit.fault == fault.name for hit in hits),
                "sweeps": len(struck := {hit.trial for hit in hits if hit.fault == fault.name}),
                "sweeps_identical": len(struck & right),
            }
            for fault in kinds
        ],
        "wrong": [{"sweep": trial.number, "wrong": trial.wrong} for trial in trials if trial.wrong],
        "hits": [asdict(hit) for hit in hits],
    }


def table(result: dict[str, Any]) -> str:
    """Return the campaign as a Markdown table."""
    columns = ("fault", "how", "struck", "sweeps", "sweeps_identical")
    lines = [
        "| fault | how | struck | sweeps it struck | of them identical to the undisturbed |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in result["by_fault"]]
    total = f"**{result['faults']}** | **{result['sweeps']}** | **{result['sweeps_identical']}**"
    return "\n".join([*lines, f"| **all** | seed {result['seed']} | {total} |"])
