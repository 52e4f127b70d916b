import io
import re

import pytest
from rich.console import Console

from crossover.store import State
from crossover.sweep.pool import Progress
from crossover.sweep.progress import Display, describe, duration

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[25])")
"""A code that sets a foreground colour."""


def shown(terminal: bool, environment: dict[str, str], states: list[State]) -> str:
    """Return what a terminal, or a file, gets while ten runs go on and end."""
    file = io.StringIO()
    variables = {"TERM": "xterm-256color"} | environment
    console = Console(file=file, force_terminal=terminal, width=100, _environ=variables)
    with Display(console, 10, environment) as display:
        for state in states:
            progress = Progress({f"cues-vit_tiny-n{i}": state for i in range(10)}, seconds=[30.0], slots=2)
            progress.notes.append("out of memory with 4 runs on GPU 0: going on with 2")
            display(progress)
    return file.getvalue()


def test_a_file_gets_plain_lines_and_each_note_once() -> None:
    lines = shown(False, {}, ["running", "running", "failed", "done"]).splitlines()
    assert lines == [
        "out of memory with 4 runs on GPU 0: going on with 2",
        "0/10 runs done, 10 running, 0 failed, about 75 s left",
        "0/10 runs done, 0 running, 10 failed",
        "10/10 runs done, 0 running, 0 failed",
    ]


def test_a_terminal_names_the_runs_that_go_on_and_ends_with_the_bar() -> None:
    text = shown(True, {}, ["running", "done"])
    assert "cues-vit_tiny-n7" in text
    assert "and 2 more" in text
    assert "10/10" in text.rsplit("and 2 more", 1)[1]
    assert COLOUR.search(text)


def test_no_color_is_respected() -> None:
    assert not COLOUR.search(shown(True, {"NO_COLOR": "1"}, ["running", "done"]))


@pytest.mark.parametrize("environment", [{"SLURM_JOB_ID": "7"}, {"TERM": "dumb"}], ids=["Slurm", "dumb terminal"])
def test_logs_get_plain_lines_though_they_call_themselves_terminals(environment: dict[str, str]) -> None:
    text = shown(True, environment, ["running", "done"])
    assert "10/10 runs done, 0 running, 0 failed" in text
    assert "\x1b[?25l" not in text  # the cursor is hidden by a live display only
    assert "cues-vit_tiny-n7" not in text


def test_time_left_counts_running_runs_as_half_done() -> None:
    states: dict[str, State] = {"a": "done", "b": "running", "c": "missing", "d": "missing", "e": "failed"}
    assert describe(Progress(states, seconds=[100.0], slots=1)) == "1 running, 1 failed, about 4 min left"
    assert [duration(s) for s in (30, 600, 9000)] == ["30 s", "10 min", "2.5 h"]
