"""Races: each measurement in a fresh process on the same core, with the contenders taking turns, repeated."""

import os
import statistics
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from crossover.config import CrossoverError
from crossover.sweep.pool import fork_server

Row = dict[str, Any]


class Apart:
    """Calls functions in separate processes, from the fork server of a sweep."""

    def __init__(self) -> None:
        self._context = fork_server()

    def together(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], environment: dict[str, str] | None = None
    ) -> list[Any]:
        """Return the results of calls that run at the same time; raise CrossoverError when one fails.

        Their first argument is a barrier for all of them.
        """
        barrier, ends = self._context.Barrier(len(calls), timeout=120), []
        for arguments in calls:
            here, there = self._context.Pipe(duplex=False)
            given = (there, environment or {}, function, (barrier, *arguments))
            process = self._context.Process(target=_answer, args=given)
            process.start()
            there.close()
            ends.append((here, process))
        results = []
        for here, process in ends:
            try:
                results.append(here.recv())
            except EOFError:
                results.append("")
            process.join()
            if not results[-1]:
                results[-1] = f"the process ended with exit status {process.exitcode}"
        for result in results:
            if isinstance(result, str):
                raise CrossoverError(f"a measurement failed: {result.strip().splitlines()[-1]}")
        return [result[0] for result in results]

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self.together(_without_barrier, [(function, *arguments)])[0]


def _without_barrier(_: object, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _answer(
    end: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    try:
        end.send((function(*arguments),))
    except CrossoverError as error:
        end.send(str(error))
    except Exception:  # noqa: BLE001 - the parent process is told
        end.send(traceback.format_exc())


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
