"""The progress of a sweep: a live display on a terminal, plain lines elsewhere and under Slurm."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, track
from rich.progress import Progress as Bar
from rich.text import Text

from crossover.sweep.pool import Progress

T = TypeVar("T")
PLAIN_SECONDS, PATIENT_SECONDS = 10.0, 60.0
"""Seconds between two plain lines: while something changes or in the first minutes, and later."""
FIRST_MINUTES = 5
MOST_RUNNING = 8
"""Most running runs that are listed by name."""


class Display:
    """Shows runs done, running, failed, and the time left; call it with each Progress."""

    def __init__(self, console: Console, total: int, environment: Mapping[str, str] = os.environ) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, console=console)
        self._task = self._bar.add_task("runs", total=total, text="")
        live = console.is_terminal and not console.is_dumb_terminal and "SLURM_JOB_ID" not in environment
        self._live = Live(self._bar, console=console, refresh_per_second=4) if live else None
        self._begun = time.monotonic()
        self._last: tuple[float, int, int] = (-PATIENT_SECONDS, -1, 0)
        self._notes = 0
        self._since: dict[str, float] = {}
        """Run id to when it was first seen running."""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self._bar, refresh=True)
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        done, failed = progress.count("done"), progress.count("failed")
        text = describe(progress)
        for note in progress.notes[self._notes :]:
            self._console.print(note, style="yellow", highlight=False, markup=False)
        self._notes = len(progress.notes)
        if self._live:
            self._bar.update(self._task, completed=done, text=text)
            self._live.update(Group(self._bar, *self._running(progress)), refresh=True)
            return
        at, shown, shown_failed = self._last
        now, changed = time.monotonic(), (done, failed) != (shown, shown_failed)
        often = changed or now - self._begun < 60 * FIRST_MINUTES
        over = changed and (failed > shown_failed or done == len(progress.states))
        if over or now - at >= (PLAIN_SECONDS if often else PATIENT_SECONDS):
            self._console.print(f"{done}/{len(progress.states)} runs done, {text}", highlight=False)
            self._last = (now, done, failed)

    def _running(self, progress: Progress) -> list[Text]:
        """Return a line for each running run, with its time so far."""
        now = time.monotonic()
        running = [run_id for run_id, state in progress.states.items() if state == "running"]
        self._since = {run_id: self._since.get(run_id, now) for run_id in running}
        lines = [f"  {run_id}  {duration(now - self._since[run_id])}" for run_id in running[:MOST_RUNNING]]
        if len(running) > MOST_RUNNING:
            lines.append(f"  and {len(running) - MOST_RUNNING} more")
        return [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines]


def describe(progress: Progress) -> str:
    """Return such as `2 running, 0 failed, about 3 min left`."""
    left = progress.seconds_left
    end = "" if left is None or left <= 0 else f", about {duration(left)} left"
    return f"{progress.count('running')} running, {progress.count('failed')} failed{end}"


def duration(seconds: float) -> str:
    """Return seconds in readable units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def working(console: Console, text: str | None) -> Iterator[None]:
    """Show what takes long: with its time on a terminal, else as one line when it begins; nothing for None."""
    if text is None:
        yield
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Bar(*columns, console=console, transient=True) as bar:
            bar.add_task(text)
            yield
    else:
        console.print(text, highlight=False, markup=False)
        yield


def tracked(items: Iterable[T], text: str, total: int, console: Console) -> Iterator[T]:
    """Yield the items and show how many are done: as a bar on a terminal, else in occasional lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        yield from track(items, text, total, console=console, transient=True)
        return
    shown = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown >= PLAIN_SECONDS:
            console.print(f"{text}: {number} of {total}", highlight=False, markup=False)
            shown = time.monotonic()
