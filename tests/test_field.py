"""Machines of other kinds: no hard links, a TMPDIR that is long or full, a terminal that is not UTF-8."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from crossover.cli import one_line
from crossover.config import CrossoverError
from crossover.lock import HeldError, Lock, is_held
from crossover.store import write_json, write_text
from crossover.training.run import execute
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]


def test_a_lock_needs_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT, gcsfuse and the file systems of some clusters have none."""
    monkeypatch.delattr(os, "link")
    path = tmp_path / "lock"
    with Lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(HeldError), Lock(path):
            pass
    assert list(tmp_path.iterdir()) == []
    path.write_text("")  # of one that ended between the name and its content
    assert is_held(path)
    os.utime(path, (0, 0))
    with Lock(path):
        assert is_held(path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_where_nothing_can_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match="Read-only") as caught, Lock(tmp_path / "lock"):
        pass
    assert "choose other folders: outputs=DIR" in one_line(caught.value)


FORK = """
from crossover.sweep.pool import PRELOAD, fork_server

if __name__ == "__main__":
    PRELOAD.clear()  # the imports of a run, of which this one needs none
    process = fork_server().Process(target=print, args=("it runs",), kwargs={"flush": True})
    process.start()
    process.join()
    print(process.exitcode)
"""


def test_the_fork_server_starts_with_a_tmpdir_of_120_letters(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    (tmp_path / "fork.py").write_text(FORK)
    environment = os.environ | {"TMPDIR": str(long)}
    command = [sys.executable, str(tmp_path / "fork.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("it runs\n0\n", 0), done.stderr


def test_a_run_saves_and_ends_though_tmpdir_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/full")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)  # where files go whose folder is not given
    assert execute(small_run(tmp_path))["steps"] > 0


def test_an_error_with_two_paths_names_the_one_that_was_to_be_written() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/tmp/part", None, "outputs/record.json")
    assert one_line(error).startswith("outputs/record.json (from /tmp/part): the disk is full")
    assert one_line(OSError(errno.ENOSPC, "No space left on device")).startswith("a file: the disk is full")


SAY = """
import sys
from crossover.cli import run_app
from crossover.config import CrossoverError

def main():
    print("N* \\u2265 3 \\udce9")
    raise CrossoverError("no class \\u00e9\\udce9")

run_app(main)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_show_a_name_gets_its_code(encoding: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", SAY], env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout.decode(encoding).rstrip().endswith("3 \\udce9")
    assert done.stderr.decode(encoding).startswith("error: no class ")
    assert b"Traceback" not in done.stderr


def test_bytes_that_are_no_text_end_in_files_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "report.md", f"class {name}\n")
    assert (tmp_path / "report.md").read_text() == "class caf\\udce9\n"
    write_json(tmp_path / "record.json", {"classes": [name]})
    assert json.loads((tmp_path / "record.json").read_text()) == {"classes": [name]}
    assert "\n" not in one_line(CrossoverError(name))
