"""Text that people read: lines, the progress of long work every few seconds, durations, and names of others."""

import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
TELL_SECONDS = 5.0
"""Seconds between two lines."""
INVISIBLE = ("Cc", "Cf", "Cs")
"""Unicode's control, format and surrogate characters: nobody could tell apart two names that differ in them alone."""


class Clock:
    """Prints how much is done and, of a known `total`, how long the rest will take; to standard error by default."""

    def __init__(self, what: str, total: int | None, *, begun: int = 0, to: TextIO | None = None) -> None:
        self.what, self.total, self.begun, self.to = what, total, begun, to
        self._start = self._told = time.monotonic()

    def tell(self, done: int, news: str = "") -> None:
        """Print a line if the last one is TELL_SECONDS old, or at once if there is news."""
        now = time.monotonic()
        if news or now - self._told > TELL_SECONDS:
            self._told = now
            line = f"{self.what} {done:,}{news}"
            if self.total is not None:
                left = (now - self._start) / max(1, done - self.begun) * (self.total - done)
                line = f"{self.what} {done:,} of {self.total:,}{news}, {duration(left)} left"
            print(line, file=self.to or sys.stderr, flush=True)


def say(console: "Console", text: str, style: str = "") -> None:
    """Print text as it is: wrapped between words on a terminal, in whole lines elsewhere, where they are searched."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def tracked(items: Iterable[T], text: str, total: int) -> Iterator[T]:
    """Yield the items and print how many are done."""
    clock = Clock(f"{text}:", total)
    for number, item in enumerate(items, 1):
        yield item
        clock.tell(number)


def duration(seconds: float) -> str:
    """Return seconds in readable units."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as `1 run` or `2,000 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def readable(name: str) -> str:
    """Return a name in composed characters (NFC), with single blanks and without characters that cannot be seen."""
    seen = (c for c in unicodedata.normalize("NFC", name) if c.isspace() or unicodedata.category(c) not in INVISIBLE)
    return " ".join("".join(seen).split())
