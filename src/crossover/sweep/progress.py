"""The progress of a sweep: a live display on a terminal, plain lines elsewhere and under Slurm."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from crossover.config import RunConfig
from crossover.record import Record
from crossover.store import State, read_record
from crossover.sweep.plan import estimate_costs
from crossover.sweep.pool import Progress
from crossover.text import duration, say

PLAIN_SECONDS = (10.0, 60.0)
"""Time between two plain lines, at first and after half an hour."""
MOST_RUNNING = 8
"""Most running runs that are listed by name."""


class Display:
    """Shows runs done, running, failed, and the time left; call it with each Progress."""

    def __init__(
        self, console: Console, runs: Sequence[RunConfig], environment: Mapping[str, str] = os.environ
    ) -> None:
        self._console, self._runs = console, runs
        columns = TextColumn("runs"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.description}")
        self._bar = Bar(*columns, TimeElapsedColumn(), console=console)
        self._task = self._bar.add_task("", total=len(runs))
        self._live = Live(self._bar, console=console, refresh_per_second=4)
        self._is_live = console.is_terminal and not console.is_dumb_terminal and "SLURM_JOB_ID" not in environment
        self._begun = self._next = time.monotonic()
        self._news, self._notes = (0, False), 0
        """Of the last plain line: failed runs, and whether all are done; notes printed."""
        self._since: dict[str, float] = {}
        """Run id to when it was first seen running."""
        self._records: dict[str, Record] = {}
        self._costs: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.update(self._bar, refresh=True)
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        running = [run_id for run_id, state in progress.states.items() if state == "running"]
        self._since = {run_id: self._since.get(run_id, now) for run_id in running}
        elapsed = {run_id: now - since for run_id, since in self._since.items()}
        left = seconds_left(self._expected(progress), progress.states, elapsed, progress.slots)
        done, failed = progress.count("done"), progress.count("failed")
        text = f"{len(running)} running, {failed} failed" + (f", about {duration(left)} left" if left > 0 else "")
        for note in progress.notes[self._notes :]:
            say(self._console, note, style="yellow")
        self._notes = len(progress.notes)
        news = failed, done == len(progress.states)
        if self._is_live:
            self._bar.update(self._task, completed=done, description=text)
            self._live.update(Group(self._bar, *_lines(elapsed)), refresh=True)
        elif news != self._news or now >= self._next:
            say(self._console, f"{done}/{len(progress.states)} runs done, {text}")
            self._news, self._next = news, now + min(max(PLAIN_SECONDS[0], (now - self._begun) / 30), PLAIN_SECONDS[1])

    def _expected(self, progress: Progress) -> Mapping[str, float]:
        """Return the seconds that each run takes, as the runs that are done tell; empty before the first."""
        done = [run for run in self._runs if progress.states[run.run_id] == "done" and run.run_id not in self._records]
        if done:
            self._records |= {run.run_id: read_record(run.run_dir / "record.json") for run in done}
            self._costs = estimate_costs(self._runs, self._records)
        return self._costs


def _lines(elapsed: Mapping[str, float]) -> list[Text]:
    lines = [f"  {run_id}  {duration(seconds)}" for run_id, seconds in elapsed.items()]
    if len(lines) > MOST_RUNNING:
        lines[MOST_RUNNING:] = [f"  and {len(lines) - MOST_RUNNING} more"]
    return [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines]


def seconds_left(
    costs: Mapping[str, float], states: Mapping[str, State], elapsed: Mapping[str, float], slots: int
) -> float:
    """Return how long the runs that are left take, given the seconds each costs and those it has been running.

    One that takes longer than expected is expected to need another tenth of its cost.
    """
    left = [
        max(cost - elapsed.get(run_id, 0.0), cost / 10)
        for run_id, cost in costs.items()
        if states[run_id] not in ("done", "failed")
    ]
    return max(sum(left) / slots, *left) if left else 0.0


@contextmanager
def working(console: Console, text: str | None) -> Iterator[None]:
    """Show what takes long: with its time on a terminal, else as one line when it begins; nothing for None."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    live = text is not None and console.is_terminal and not console.is_dumb_terminal
    with Bar(*columns, console=console, transient=True, disable=not live) as bar:
        if live:
            bar.add_task(text or "")
        elif text is not None:
            say(console, text)
        yield
