"""Races: each measurement in a fresh process on the same core, with the contenders taking turns, repeated."""

import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import Any

from crossover.config import CrossoverError
from crossover.sweep.pool import fork_server

Row = dict[str, Any]
together: Barrier
"""In a process of a measurement: the barrier of all that are measured at the same time."""


def _begin(barrier: Barrier, environment: dict[str, str]) -> None:
    global together
    together = barrier
    os.environ.update(environment)


def apart(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], environment: dict[str, str] | None = None
) -> list[Any]:
    """Return the results of calls at the same time, each in a process from the fork server of a sweep."""
    context = fork_server()
    given = (context.Barrier(len(calls), timeout=120), environment or {})
    with ProcessPoolExecutor(len(calls), mp_context=context, initializer=_begin, initargs=given) as processes:
        waiting = [processes.submit(function, *arguments) for arguments in calls]
        try:
            return [future.result() for future in waiting]
        except Exception as error:
            raise CrossoverError(f"a measurement failed: {str(error) or type(error).__name__}") from error


def in_turns(ways: Sequence[str], repeats: int, measure: Callable[[str], Row]) -> list[Row]:
    """Return one row per measurement; every contender is measured once before any is measured again."""
    return [{"way": way, "repeat": repeat} | measure(way) for repeat in range(repeats) for way in ways]


def summarise(rows: Sequence[Row], field: str, against: str) -> dict[str, dict[str, float]]:
    """Return median, min and max of `field` for each contender, and its ratio to contender `against`.

    The ratio is that of the medians; its range is over the repeats, each compared with its neighbour in time.
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
