"""Does a disturbed sweep end with the records of an undisturbed one? Many trials, each with several random faults."""

import json
import platform
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from crossover.config import CrossoverError
from crossover.store import write_json, write_text
from tests.faults.kinds import FAULTS, Fault
from tests.faults.world import FORK, STEPS, World

DISK_MB = 64
BEGIN, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


@dataclass(frozen=True)
class Hit:
    """A fault that struck."""

    trial: int
    fault: str
    what: str
    done_before: int
    """Runs that were done when it began."""
    done_after: int


@dataclass(frozen=True)
class Plan:
    """What all trials share."""

    folder: Path
    reference: dict[str, Any]
    """The records of the undisturbed sweep."""
    seed: int
    kinds: Sequence[Fault]
    usual_seconds: float
    mounts: bool


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

    def struck() -> int:
        return sum(len(trial.hits) for trial in trials)

    plan = Plan(folder, reference.records(), seed, kinds, usual, mounts)
    for trial in _trials(plan, at_once, lambda: struck() < faults):
        trials.append(trial)
        names = ", ".join(hit.fault for hit in trial.hits)
        print(f"{struck()} faults; sweep {trial.number}: {'; '.join(trial.wrong) or 'right'} ({names})", flush=True)
    return summarise(trials, kinds, seed, usual, time.perf_counter() - started)


def _trials(plan: Plan, at_once: int, more: Callable[[], bool]) -> Iterator[Trial]:
    """Yield trials as they end, so many at a time, and start new ones while `more` says so."""
    active: dict[Any, ForkProcess] = {}
    number = 0
    while active or more():
        while len(active) < at_once and more():
            number += 1
            ours, theirs = FORK.Pipe(duplex=False)
            process = FORK.Process(target=_trial, args=(theirs, plan, number))
            process.start()
            theirs.close()
            active[ours] = process
        ready = wait(list(active))
        for pipe in [pipe for pipe in active if pipe in ready]:
            process = active.pop(pipe)
            try:
                trial: Trial = pipe.recv()
            except EOFError:
                raise CrossoverError("a trial ended without a result; its traceback is above") from None
            process.join()
            yield trial


def _trial(pipe: Connection, plan: Plan, number: int) -> None:
    place = plan.folder / f"trial-{number}"
    with _own_disk(place, plan.mounts):
        world = World(place, plan.folder / "data", random.Random(f"{plan.seed}/{number}"), plan.usual_seconds)
        try:
            hits, wrong = disturb(world, plan.kinds, number)
            wrong += world.finish()
            if not wrong and world.records() != plan.reference:
                wrong.append("the records differ")
        finally:
            world.end()
        if wrong:
            shutil.copytree(place, plan.folder / f"wrong-{number}")
    pipe.send(Trial(number, hits, wrong))
    place.with_suffix(".log").unlink(missing_ok=True)
    shutil.rmtree(place)


def disturb(world: World, kinds: Sequence[Fault], number: int) -> tuple[list[Hit], list[str]]:
    """Let faults strike until all runs are done; return them, and which runs were done again without need."""
    hits: list[Hit] = []
    wrong: list[str] = []
    while True:
        fault, before = world.rng.choice(kinds), world.done()
        what = fault.strike(world)
        wrong += world.note_done()
        if what is not None:
            hits.append(Hit(number, fault.name, what, before, world.done()))
        if world.done() == len(world.runs):
            return hits, wrong


@contextmanager
def _own_disk(place: Path, mounts: bool) -> Iterator[None]:
    place.mkdir()
    if not mounts:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "crossover-faults", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


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


def write_results(result: dict[str, Any], folder: Path, page: Path) -> None:
    """Write faults.json to `folder` and the table to `page`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "faults.json", result)
    write_text(page, page_with(page.read_text(encoding="utf-8"), json.loads((folder / "faults.json").read_text())))


def page_with(page: str, result: dict[str, Any]) -> str:
    """Return the page with the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(result)}\n{END}{after}"


def table(result: dict[str, Any]) -> str:
    """Return the campaign as a Markdown table."""
    lines = [
        "| fault | how | struck | sweeps it struck | of them identical to the undisturbed |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['fault']} | {row['how']} | {row['struck']} | {row['sweeps']} | {row['sweeps_identical']} |"
        for row in result["by_fault"]
    ]
    lines.append(
        f"| **all** | seed {result['seed']} | **{result['faults']}** | **{result['sweeps']}** |"
        f" **{result['sweeps_identical']}** |"
    )
    return "\n".join(lines)
