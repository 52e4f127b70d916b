"""How are contenders compared? Each measurement in a fresh process on the same core, in turns, and again."""

import multiprocessing
import statistics
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.steady import Way, images_per_second, on_core
from benchmarks.worlds import Task, with_fields
from crossover.config import CrossoverError

PRELOAD = ["torch", "pytorch_lightning", "timm", "torchvision", "benchmarks.steady"]


class Apart:
    """Calls functions in processes of their own, with everything imported."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def together(self, calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """Return the results of calls that run at the same time; raise CrossoverError when one fails."""
        ends = []
        for function, arguments in calls:
            here, there = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_answer, args=(there, function, arguments))
            process.start()
            there.close()
            ends.append((here, process))
        results = []
        for here, process in ends:
            try:
                results.append(here.recv())
            except EOFError:
                results.append(f"the process ended with exit status {process.exitcode}")
            process.join()
        for result in results:
            if isinstance(result, str):
                raise CrossoverError(f"a measurement failed: {result.strip().splitlines()[-1]}")
        return [result[0] for result in results]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.together([(function, arguments)])[0]


def _answer(end: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        end.send((function(*arguments),))
    except Exception:  # noqa: BLE001 - it is told to the parent
        end.send(traceback.format_exc())


def in_turns(ways: Sequence[str], repeats: int, measure: Callable[[str], dict[str, float]]) -> list[dict[str, Any]]:
    """Return one row per measurement; every contender is measured once before any is measured again."""
    return [{"way": way, "repeat": repeat} | measure(way) for repeat in range(repeats) for way in ways]


def summarise(rows: Sequence[dict[str, Any]], field: str, against: str) -> dict[str, dict[str, float]]:
    """Return median, min and max of `field` for each contender, and its ratio to contender `against`.

    The ratio is that of the medians; its range is that of the repeats, each against its neighbour in time.
    """
    by_way: dict[str, list[float]] = {}
    for row in rows:
        by_way.setdefault(row["way"], []).append(row[field])
    summary = {}
    for way, values in by_way.items():
        ratios = [value / other for value, other in zip(values, by_way[against], strict=True)]
        summary[way] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "ratio": statistics.median(values) / statistics.median(by_way[against]),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def steady(
    apart: Apart, task: Task, ways: Sequence[Way], *, steps: int, repeats: int, core: int | None, workers: int
) -> list[dict[str, Any]]:
    """Return the rows of a race of training alone, one process at a time."""
    with tempfile.TemporaryDirectory() as folder:

        def measure(way: str) -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                placed = replace(task, run=with_fields(task.run, machine__outputs=own))
                placed.run.run_dir.mkdir(parents=True)
                return apart.call(on_core, core, images_per_second, placed, way, steps, workers)

        return in_turns(ways, repeats, measure)


def side_by_side(apart: Apart, task: Task, count: int, *, steps: int, cores: Sequence[int | None]) -> float:
    """Return the images per second of `count` runs at the same time, added up."""
    with tempfile.TemporaryDirectory() as folder:
        calls = []
        for index in range(count):
            placed = replace(task, run=with_fields(task.run, machine__outputs=f"{folder}/{index}"))
            placed.run.run_dir.mkdir(parents=True)
            calls.append((on_core, (cores[index % len(cores)], images_per_second, placed, "ours", steps, 0)))
        return sum(result["images_per_second"] for result in apart.together(calls))
