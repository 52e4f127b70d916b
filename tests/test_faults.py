"""The published campaign says what its file says; a short one finds no sweep that faults changed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import BEGIN, END, table

ROOT = Path(__file__).parents[1]


def test_the_page_holds_the_table_of_the_campaign() -> None:
    page = ROOT / "docs" / "reliability.md"
    result = json.loads((ROOT / "results" / "faults" / "faults.json").read_text())
    assert BEGIN + table(result) + END in page.read_text(encoding="utf-8")
    assert result["faults"] == len(result["hits"]) >= 200
    assert result["sweeps_identical"] == result["sweeps"]


@pytest.mark.slow
def test_ten_faults_change_no_record() -> None:
    command: list[str | Path] = [sys.executable, "-m", "tests.faults", "--faults", "10", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^(\d+) faults, (\d+) sweeps, (\d+) identical$", done.stdout, re.MULTILINE)
    assert said is not None
    assert int(said[1]) >= 10
    assert said[2] == said[3]
