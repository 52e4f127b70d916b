"""Commands that are interrupted, or started without their standard streams or with an odd environment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USUAL = ("env", "--default-signal=INT,HUP,TERM", sys.executable)
"""Python with the signals of a terminal: `nohup make test &` ignores some of them."""
WRITER = """
import time
from pathlib import Path
from crossover.cli import run_app
from crossover.store import write_atomically

def write(temporary):
    temporary.write_text("half")
    print("begun", flush=True)
    while True:  # a signal just before signal.pause() would be slept through
        time.sleep(0.05)

run_app(lambda: write_atomically(Path("page"), write))
"""
SERVER = """
import signal
from crossover.sweep import pool

pool.PRELOAD = []

def ignored():
    print(*[number.name for number in pool.NOT_FOR_RUNS if signal.getsignal(number) == signal.SIG_IGN], flush=True)

if __name__ == "__main__":
    process = pool.fork_server().Process(target=ignored)
    process.start()
    process.join()
    print(*[number.name for number in pool.NOT_FOR_RUNS if signal.getsignal(number) == signal.SIG_IGN], flush=True)
"""
WORKERS = """
import time
from multiprocessing import get_context
from crossover.training.ranks import worker_processes

def work(number):
    print("begun", flush=True)
    while True:
        time.sleep(0.05)

if __name__ == "__main__":
    with worker_processes(2, get_context("{kind}")) as pool:
        list(pool.map(work, [0, 1]))
"""
APART = """
import time
from multiprocessing import get_context
from benchmarks import race

def work(number):
    print("begun", flush=True)
    time.sleep(3600)

if __name__ == "__main__":
    race.fork_server = lambda: get_context("spawn")
    race.apart(work, [(0,), (1,)])
"""
CLOSED = """
import subprocess
import sys
from crossover.cli import run_app

def main():
    print("to nobody")
    subprocess.run(["sh", "-c", "echo a && echo b >&2 && ! read -r c"], check=True)
    with open("seen", "w") as file:
        file.write(f"{sys.stdin.read()!r}")

run_app(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_command_that_is_told_to_end_leaves_no_half_file(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen([*USUAL, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert list(tmp_path.iterdir())
        process.send_signal(number)
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_command_imports_shows_no_traceback(tmp_path: Path) -> None:
    for script in (ROOT / "scripts").glob("*.py"):
        first = next(line for line in script.read_text().splitlines() if line.startswith(("import ", "from ")))
        assert first.startswith("import crossover ") or script.name == "wheels.py"
    (tmp_path / "hydra.py").write_text("raise KeyboardInterrupt")
    known = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [*USUAL, str(ROOT / "scripts" / "report.py")]
    done = subprocess.run(command, env=known, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_under_nohup_a_closed_terminal_ends_nothing(tmp_path: Path) -> None:
    said = "import signal; print(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN)"
    code = f"from crossover.cli import run_app; run_app(lambda: exec({said!r}))"
    command = ["nohup", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_what_reaches_the_whole_terminal_ends_no_run(tmp_path: Path) -> None:
    """Ctrl-C while the fork server imports showed a traceback, and a closed terminal ended the runs unsaved."""
    (tmp_path / "server.py").write_text(SERVER)
    done = subprocess.run([*USUAL, tmp_path / "server.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "SIGINT SIGHUP SIGTERM SIGUSR2\n\n", done.stderr


@pytest.mark.parametrize("code", [WORKERS.format(kind="spawn"), WORKERS.format(kind="forkserver"), APART])
def test_workers_of_a_killed_command_end_too(tmp_path: Path, code: str) -> None:
    """They waited for more work for ever."""
    (tmp_path / "workers.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "workers.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"begun\n"] * 2
        process.kill()
        assert process.stdout.read() == b""  # ends with the last process that could write


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_no_command(tmp_path: Path, closed: str) -> None:
    (tmp_path / "closed.py").write_text(CLOSED)
    command = f'exec "{sys.executable}" closed.py {closed}'
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0
    assert (tmp_path / "seen").read_text() == "''"


@pytest.mark.parametrize(("backend", "then"), [("nonsense", "agg"), ("module://pages", "module://pages")])
def test_a_backend_that_matplotlib_does_not_know_ends_no_command(backend: str, then: str) -> None:
    code = "import os, crossover.cli, matplotlib; print(os.environ['MPLBACKEND'])"
    known = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == then
