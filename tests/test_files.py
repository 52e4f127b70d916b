import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.store import replace_block, write_atomically, write_text


def test_block_between_markers_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("a\nBEGIN\nold\nEND\nb\n")
    replace_block(text, "BEGIN\n", "END\n", "new\n")
    assert text.read_text() == "a\nBEGIN\nnew\nEND\nb\n"


def test_text_without_markers_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("a\n")
    with pytest.raises(CrossoverError, match=r"text.md has lost its markers BEGIN and END; put them back"):
        replace_block(text, "BEGIN\n", "END\n", "new\n")
    assert text.read_text() == "a\n"


def test_file_whose_writing_fails_is_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(OSError, match="disk full") as caught:
        write_atomically(path, fail)
    assert caught.value.filename == str(path)  # a write that fails names no file itself
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_what_a_killed_writer_left_is_removed_and_that_of_a_live_one_is_kept(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    host = os.uname().nodename
    for name in (f".page.{host}.{dead.pid}.tmp", f".page.{host}.1.tmp", f".page.elsewhere.{dead.pid}.tmp", ".page.tmp"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "page", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("page", f".page.{host}.1.tmp", f".page.elsewhere.{dead.pid}.tmp", ".page.tmp"),
    }
