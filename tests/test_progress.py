import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from crossover.config import RunConfig
from crossover.store import State, write_json
from crossover.sweep.pool import Progress
from crossover.sweep.progress import Display, seconds_left
from crossover.text import Clock, duration
from tests.reported import record
from tests.worlds import small_run

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[25])")
"""A code that sets a foreground colour."""


def finish(run: RunConfig, total: float, trained: float = 0.0) -> None:
    run.run_dir.mkdir(parents=True)
    took = {"total_seconds": total, "train_seconds": trained}
    write_json(run.run_dir / "record.json", record("resnet_test", 100, 0, 0.5) | took)


def shown(folder: Path, terminal: bool, environment: dict[str, str], states: list[State]) -> str:
    """Return what a terminal, or a file, gets while ten runs go on and end; an eleventh took 300 s before."""
    first, *runs = (small_run(folder, seed=seed) for seed in range(11))
    finish(first, 300.0)
    file = io.StringIO()
    variables = {"TERM": "xterm-256color"} | environment
    console = Console(file=file, force_terminal=terminal, width=100, _environ=variables)
    with Display(console, [first, *runs], environment) as display:
        for state in states:
            if state == "done":
                for run in runs:
                    finish(run, 300.0)
            states_now: dict[str, State] = {first.run_id: "done", **{run.run_id: state for run in runs}}
            progress = Progress(states_now, slots=2)
            progress.notes.append("out of memory with 4 runs on GPU 0: going on with 2")
            display(progress)
    return file.getvalue()


def test_a_file_gets_plain_lines_and_each_note_once(tmp_path: Path) -> None:
    lines = shown(tmp_path, False, {}, ["missing", "missing", "failed", "done"]).splitlines()
    assert lines == [
        "out of memory with 4 runs on GPU 0: going on with 2",
        "1/11 runs done, 0 running, 0 failed, about 25 min left",
        "1/11 runs done, 0 running, 10 failed",
        "11/11 runs done, 0 running, 0 failed",
    ]


def test_a_terminal_names_the_runs_that_go_on_and_ends_with_the_bar(tmp_path: Path) -> None:
    text = shown(tmp_path, True, {}, ["running", "done"])
    assert "cues-resnet_test-n100-c0-s7" in text
    assert "and 2 more" in text
    assert "11/11" in text.rsplit("and 2 more", 1)[1]
    assert COLOUR.search(text)


def test_no_color_is_respected(tmp_path: Path) -> None:
    assert not COLOUR.search(shown(tmp_path, True, {"NO_COLOR": "1"}, ["running", "done"]))


@pytest.mark.parametrize("environment", [{"SLURM_JOB_ID": "7"}, {"TERM": "dumb"}], ids=["Slurm", "dumb terminal"])
def test_logs_get_plain_lines_though_they_call_themselves_terminals(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    text = shown(tmp_path, True, environment, ["running", "done"])
    assert "11/11 runs done, 0 running, 0 failed" in text
    assert "\x1b[?25l" not in text  # the cursor is hidden by a live display only
    assert "cues-resnet_test-n100-c0-s7" not in text


COSTS = {"a": 600.0, "b": 600.0, "c": 60.0, "d": 600.0, "e": 600.0}
"""Seconds that a run takes."""


@pytest.mark.parametrize(
    ("states", "elapsed", "slots", "left"),
    [
        ({}, {}, 1, 2460),
        ({}, {}, 3, 820),
        ({"e": "failed", "d": "done", "c": "done", "b": "done"}, {}, 4, 600),  # one alone takes its own time
        ({"c": "done", "a": "running", "b": "running"}, {"a": 540.0, "b": 300.0}, 2, 780),
        ({"c": "done", "d": "done", "e": "done", "a": "running", "b": "running"}, {"a": 590.0, "b": 999.0}, 2, 60),
        (dict.fromkeys("abcde", "done"), {}, 2, 0),
    ],
)
def test_time_left_follows_from_what_the_runs_cost(
    states: dict[str, State], elapsed: dict[str, float], slots: int, left: float
) -> None:
    now: dict[str, State] = {**dict.fromkeys(COSTS, "missing"), **states}
    assert seconds_left(COSTS, now, elapsed, slots) == left


def test_a_sweep_that_goes_on_knows_what_its_runs_took(tmp_path: Path) -> None:
    """Short runs, and one of which only the last part ran here, say nothing of the long ones that are left."""
    short = small_run(tmp_path, budget={"steps": 24, "evaluations": 4})
    resumed, left = (small_run(tmp_path, seed=seed, budget={"steps": 2400, "evaluations": 4}) for seed in (0, 1))
    finish(short, 8.0)
    finish(resumed, 6.0, trained=800.0)
    file = io.StringIO()
    with Display(Console(file=file), [short, resumed, left], {}) as display:
        display(Progress({short.run_id: "done", resumed.run_id: "done", left.run_id: "running"}))
    assert "2/3 runs done, 1 running, 0 failed, about 13 min left" in file.getvalue()


def test_a_clock_tells_at_once_what_is_new_and_else_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.monotonic", iter([0.0, 4.0, 8.0, 9.0]).__next__)
    clock = Clock("step", 1_000, begun=600)
    clock.tell(700)
    clock.tell(800)
    clock.tell(900, ", loss 0.5")
    assert capsys.readouterr().err == "step 800 of 1,000, 8 s left\nstep 900 of 1,000, loss 0.5, 3 s left\n"


def test_durations_have_readable_units() -> None:
    assert [duration(s) for s in (30, 600, 9000)] == ["30 s", "10 min", "2.5 h"]
