from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.store import replace_block, write_atomically


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
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"
