"""What holds for every test: nothing of the process that started them reaches the commands they start."""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from crossover.report.contents import Report
    from crossover.store import State


Called = Callable[..., subprocess.CompletedProcess[str]]
SCRIPTS = Path(__file__).parents[1] / "scripts"


def pytest_configure() -> None:
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CROSSOVER_SET"):  # of `make test`
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has one core: threads that wait for one another stall it


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore what commands set for their process, and this one goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a folder with the images of tests.pets: 24 to train with, 9 to test with."""
    from tests.pets import write_pets  # which imports numpy: not before the threads are set

    write_pets(tmp_path, train=8, test=3)
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Called:
    """Return a function that runs a script with arguments, as a command does, in the process of the tests.

    That has imported torch already. What a process alone can show has tests with processes in test_cli and test_train.
    """

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        for name in ("CROSSOVER_TRACEBACK", "HYDRA_FULL_ERROR"):  # the script sets them for its process
            monkeypatch.setenv(name, "0")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        said, status = capsys.readouterr(), ended.value.code
        assert isinstance(status, int)
        return subprocess.CompletedProcess([script, *arguments], status, said.out, said.err)

    return run


@pytest.fixture
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs train in the process of the tests, which keeps its allocator."""
    from crossover.training import run

    monkeypatch.setattr(run, "tune_allocator", lambda: None)


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., "Report"]:
    """Return a function that writes the report of some records, whose states are given by run id."""
    from tests.reported import report_of, sweep

    def write(records: list[dict[str, Any]], **states: "State") -> "Report":
        ceilings = {"cues": {"local cue alone": 0.18}}
        return report_of(sweep(records, **states), tmp_path / "report", ceilings=ceilings)

    return write
