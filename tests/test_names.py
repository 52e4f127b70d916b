"""Names come from others too: as curves, image folders and records. None of them becomes code, a link or a path."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from crossover.analysis.runs import read_curves
from crossover.record import runs_table
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.report.page import terminal_summary
from crossover.report.section import plain
from crossover.store import file_name
from tests.reported import crossing_records

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>|\n[a](javascript:alert(1))'
PATH = "../../out/[/red]of"


class Tags(HTMLParser):
    """Collects what a browser would take for elements and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.handlers, self.addresses = 0, list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def check(directory: Path, inside: Path) -> None:
    """Check the pages in `directory`, and that nothing was written elsewhere below `inside`."""
    tags = Tags()
    tags.feed((directory / "report.html").read_text())
    assert tags.scripts == 1  # the page's own
    assert tags.handlers == []
    assert all(address.startswith(("#", "data:")) for address in tags.addresses)
    fenced = re.sub(r"^```\n.*?^```\n", "", (directory / "report.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", fenced)
    for bad in ("<script", "<img", "](javascript"):
        assert bad not in text
    widths: dict[int, set[int]] = {}
    table = 0
    for line in text.splitlines():
        table += not line.startswith("|")
        if line.startswith("|"):
            widths.setdefault(table, set()).add(line.replace("\\|", "").count("|"))
    assert widths
    assert all(len(found) == 1 for found in widths.values())
    assert [path for path in inside.iterdir() if path != directory] == []


def test_curves_with_hostile_names_make_a_harmless_report(tmp_path: Path) -> None:
    rows = [
        {"model": model, "n_train": n, "error": 0.3 * (n / 1000) ** -slope, "chain": chain, "task": task}
        for task in (IMAGE, PATH)
        for model, slope in ((SCRIPT, 0.2), (IMAGE, 0.4))
        for n in (100, 1000, 10_000)
        for chain in (0, 1, 2)
    ]
    folder = tmp_path / "a"
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "curves.csv", index=False)
    curves = read_curves(folder / "curves.csv")
    report = write_report(ReportInput(SCRIPT, f"`{SCRIPT}", curves), folder / "report")
    (folder / "curves.csv").unlink()
    check(folder / "report", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    terminal_summary(report, Console(file=io.StringIO()))


def test_records_with_hostile_names_make_a_harmless_report(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [r | {"dataset": IMAGE} for r in crossing_records(models=(SCRIPT, "vit|a"))]
    labels = np.arange(40) % 2
    inputs = ReportInput(
        SCRIPT,
        "make sweep",
        runs_table(records),
        conditions={SCRIPT: [IMAGE, SCRIPT]},
        unfinished={f"run-{IMAGE}": "failed"},
        errors={f"run-{IMAGE}": f"ValueError: {SCRIPT}"},
        predictions={r["run_id"]: (labels, np.roll(labels, r["chain"])) for r in records},
        names={IMAGE: [SCRIPT, IMAGE]},
    )
    write_report(inputs, tmp_path / "report")
    check(tmp_path / "report", tmp_path)


@pytest.mark.parametrize("text", [SCRIPT, IMAGE, PATH, "..", "a/b", "x" * 200])
def test_a_file_name_stays_in_its_folder_and_differs_by_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure-{file_name(text)}.svg"
    path.write_text("x")
    assert path.parent.resolve() == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert file_name(text) != file_name(f"{text} ")


def test_usual_names_stay_as_they_are() -> None:
    assert file_name("cifar10-patches_0.5") == "cifar10-patches_0.5"
    assert plain("N* = 2.9k images [2.4k, 3.7k]; a -> b") == "N* = 2.9k images [2.4k, 3.7k]; a -> b"


def test_a_dollar_sign_is_drawn_as_it_is(tmp_path: Path) -> None:
    runs = runs_table(crossing_records(models=(r"res$\qq$x", "vit_$^$")))
    write_report(ReportInput("$a$", "make sweep", runs), tmp_path)
    assert r"res$\qq$x" in (tmp_path / "figures" / "learning-curves.svg").read_text()
