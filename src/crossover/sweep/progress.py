"""How far is the sweep? A live line on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from crossover.sweep.pool import Progress

PLAIN_SECONDS = 15.0
"""Between two plain lines, unless a run failed."""


class Display:
    """Shows runs done, running, failed, and the time left; call it with each Progress."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
        )
        self._bar = Bar(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("runs", total=total, text="") if self._bar else None
        self._last: tuple[float, int, int] = (-PLAIN_SECONDS, -1, 0)
        self._notes = 0

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        done, failed = progress.count("done"), progress.count("failed")
        text = describe(progress)
        for note in progress.notes[self._notes :]:
            self._console.print(note, style="yellow", highlight=False, markup=False)
        self._notes = len(progress.notes)
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        at, shown, shown_failed = self._last
        due = time.monotonic() - at >= PLAIN_SECONDS or failed > shown_failed or done == len(progress.states)
        if due and (done, failed) != (shown, shown_failed):
            self._console.print(f"{done}/{len(progress.states)} runs done, {text}", highlight=False)
            self._last = (time.monotonic(), done, failed)


def describe(progress: Progress) -> str:
    """Return such as `2 running, 0 failed, about 3 min left`."""
    left = progress.seconds_left
    end = "" if left is None or left <= 0 else f", about {duration(left)} left"
    return f"{progress.count('running')} running, {progress.count('failed')} failed{end}"


def duration(seconds: float) -> str:
    """Return seconds as a person would say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
