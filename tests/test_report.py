"""Claims about a report: its files, its page and its summary say what the records hold, and what is missing."""

import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from crossover.config import CrossoverError
from crossover.report.contents import Report
from crossover.report.page import terminal_summary
from crossover.store import State, SweepRecords
from tests.reported import N_STAR, crossing_records, record, report_of, sweep


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a finished sweep, which no test changes."""
    return report_of(sweep(crossing_records()), tmp_path_factory.mktemp("written"))


def test_known_crossover_is_in_the_verdict_the_page_and_the_contract(written: Report) -> None:
    pair = json.loads((written.directory / "crossover.json").read_text())["studies"][0]["pairs"][0]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("resnet_tiny", "vit_tiny", "crossover")
    assert pair["ci_low"] < N_STAR < pair["ci_high"]
    assert pair["n_star"] == pytest.approx(N_STAR, rel=0.15)
    for name in ("report.html", "report.md"):
        assert pair["summary"] in (written.directory / name).read_text().replace("&#39;", "'")


def test_all_files_are_written_and_the_page_asks_for_nothing_else(written: Report) -> None:
    directory = written.directory
    made = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    figures = {f"figures/{n}.{k}" for n in ("learning-curves", "gap", "data-equivalence") for k in ("svg", "png")}
    tables = {"runs.csv", "curves.csv", "stability.csv", "crossover.json", "environment.json"}
    names = {"report.html", "report.md"} | tables
    assert made == figures | names
    page = (directory / "report.html").read_text()
    assert [u for u in re.findall(r'(?:src|href)="([^"]*)"', page) if not u.startswith(("data:", "#"))] == []
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert all(re.findall(r'<svg role="img" aria-label="([^"]*)"', page))
    assert len(page) < 3_000_000


def visible(page: str) -> str:
    """Return the text of a page without its tags, one space between words."""
    body = re.sub(r"<(style|script|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", body).split()))


@pytest.mark.parametrize(
    ("records", "states", "said"),
    [
        (
            crossing_records(models=("vit_tiny",)),
            {},
            ["No data set has runs of two models: there is nothing to compare.", "a crossover needs two models."],
        ),
        (crossing_records(chains=1), {}, []),
        (
            [r for r in crossing_records() if r["n_train"] == 256],
            {},
            ["at 256 images", "One size: neither a crossing nor a trend can be seen; add sizes."],
        ),
        (
            crossing_records()[:20],
            {f"cues-vit_tiny-late{i}": "missing" for i in range(10)},
            ["10 of 30 runs are not done yet; continue with: make sweep", "missing cues-vit_tiny-late9"],
        ),
        ([record("resnet_tiny", 256, 0, 0.5)], {}, []),
        ([*crossing_records(), record("hybrid_tiny", 256, 0, 0.5)], {}, []),
    ],
    ids=["one model", "one chain", "one size", "half done", "one run", "a third model just begun"],
)
def test_unfinished_sweeps_claim_no_crossover_and_say_what_they_rest_on(
    records: list[dict[str, Any]], states: dict[str, State], said: list[str], report: Callable[..., Report]
) -> None:
    written = report(records, **states)
    third = any(r["model"] == "hybrid_tiny" for r in records)
    verdicts = {pair["verdict"] for _, pair in written.pairs if "hybrid_tiny" not in (pair["a"], pair["b"])}
    assert ("crossover" in verdicts) == third
    words = visible((written.directory / "report.html").read_text())
    assert [text for text in said if text not in words] == []


def test_what_failed_or_is_missing_is_said_and_escaped(report: Callable[..., Report]) -> None:
    states = {"cues-vit_tiny-bad": "failed", "late_run": "missing"}
    page = (report(crossing_records(), **states).directory / "report.html").read_text()
    assert "cues-vit_tiny-bad failed: ValueError: &lt;b&gt;boom&lt;/b&gt;" in page
    assert "1 of 32 runs are not done yet; continue with: make sweep" in page
    words = visible(page)
    assert "cues-vit_tiny-bad failed: ValueError: <b>boom</b>" in words
    assert "failed cues-vit_tiny-bad" in words


def test_a_finished_sweep_lacks_nothing(written: Report) -> None:
    assert "Nothing: all 30 runs are done." in visible((written.directory / "report.html").read_text())


def test_single_classes_have_a_table_and_a_file(tmp_path: Path) -> None:
    labels, records, paths = np.arange(200) % 4, crossing_records(), {}
    for r in records:
        r["classes"] = ["cat", "dog", "elk", "fox"]
        easy = labels == 3 if r["model"] == "vit_tiny" else labels > 1
        path = tmp_path / f"{r['run_id']}.npz"
        np.savez(path, labels=labels, predictions=np.where(easy, labels, (labels + 1) % 4))
        paths[r["run_id"]] = path
    known = sweep(records)
    whole = SweepRecords(known.name, known.command, known.records, known.states, {}, paths)
    written = report_of(whole, tmp_path / "report")
    saved = pd.read_csv(written.directory / "classes.csv")
    assert saved.groupby(["model", "class"])["error_mean"].mean().unstack().to_dict("index") == {
        "resnet_tiny": {"cat": 1.0, "dog": 1.0, "elk": 0.0, "fox": 0.0},
        "vit_tiny": {"cat": 1.0, "dog": 1.0, "elk": 1.0, "fox": 0.0},
    }
    words = visible((written.directory / "report.html").read_text())
    assert "elk 0.0 % [0.0 %, 0.0 %] 100.0 % [100.0 %, 100.0 %]" in words


def test_page_says_how_far_the_verdict_carries(tmp_path: Path) -> None:
    records = crossing_records()
    late = [r | {"run_id": r["run_id"] + "-long", "budget": "1280 steps"} for r in crossing_records()]
    for r in late:
        r["test_error"] = 0.3 if r["model"].startswith("resnet") else 0.4
    written = report_of(sweep(records), tmp_path, also=[sweep(late)], designs=20)
    assert "alternative analyses" in written.stabilities[0][0]
    assert "budget 1280 steps: resnet_tiny leads vit_tiny" in written.stabilities[0][0]
    assert "would be found in at least 80% of repetitions with 3 chains" in written.calibration[0]["note"]
    assert written.pairs[0][1]["verdict"] == "crossover"
    page = (tmp_path / "report.html").read_text()
    for text in (
        "survive other choices",
        "resnet_tiny leads vit_tiny (contradicts)",
        "Could this design find",
        "Fitted laws",
        "M2",
    ):
        assert text in page
    saved = pd.read_csv(tmp_path / "stability.csv")
    assert (saved.loc[saved["value"] == "1280 steps", "change"] != "same").all()
    assert json.loads((tmp_path / "calibration.json").read_text())["pairs"][0]["chains_needed"] == 3


def test_what_was_left_out_is_said_on_the_page_and_in_the_terminal(report: Callable[..., Report]) -> None:
    records = crossing_records()
    records[0]["test_error"] = None
    written = report(records)
    said = f"Left out because they have no test error: {records[0]['run_id']}."
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=200, file=nowhere)
        terminal_summary(written, console)
    texts = [(written.directory / name).read_text() for name in ("report.html", "report.md")]
    assert all(said in text for text in (*texts, console.export_text()))


def test_a_long_report_says_how_far_it_is_and_the_same_records_give_the_same_bytes(
    written: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crossover.text.TELL_SECONDS", -1)
    report_of(sweep(crossing_records()), tmp_path)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "pairs of cues compared: 1 of 1",
        "models of cues described: 1 of 2",
        "models of cues described: 2 of 2",
        "pairs of cues analysed in other ways: 1 of 1",
        "data sets drawn: 1 of 1",
    ]
    paths = list(written.directory.rglob("*.*"))
    assert len(paths) > 10
    for path in paths:
        assert path.read_bytes() == (tmp_path / path.relative_to(written.directory)).read_bytes(), path.name


def test_two_data_sets_of_one_name_are_refused(report: Callable[..., Report]) -> None:
    other = record("vit_tiny", 256, 7, 0.5) | {"dataset_hash": "def"}
    with pytest.raises(CrossoverError, match=r"two different data sets are called cues; .* data\.name=NAME"):
        report([*crossing_records(), other])


def test_extrapolation_is_labelled_and_its_refusal_explained(report: Callable[..., Report]) -> None:
    records = [r for r in crossing_records() if r["n_train"] <= 1024]
    (said,) = report(records).extrapolations
    assert said == (
        "cues: Extrapolated (not measured): refused, since laws need at least 6 sizes of each model to be fitted and"
        " tested."
    )


def test_terminal_summary_ends_with_verdict_and_page(written: Report) -> None:
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=200, file=nowhere)
        terminal_summary(written, console)
    lines = console.export_text().strip().splitlines()
    assert lines[-1].endswith("report.html")
    assert written.verdicts[0] in lines[-2]


def test_a_narrow_terminal_cuts_no_number_off_and_a_log_no_sentence(report: Callable[..., Report]) -> None:
    written = report(crossing_records())
    said = io.StringIO()
    terminal_summary(written, Console(width=20, file=said))
    assert "…" not in said.getvalue()
    assert written.verdicts[0] in said.getvalue()


@pytest.mark.parametrize(("dirty", "said"), [(False, ["git checkout c0ffee", "make sweep"]), (True, ["make sweep"])])
def test_only_a_commit_that_has_the_code_is_to_be_checked_out(
    dirty: bool, said: list[str], report: Callable[..., Report]
) -> None:
    records = [r | {"git": {"commit": "c0ffee", "dirty": dirty}} for r in crossing_records()]
    (code,) = re.findall("```\n(.*?)\n```", (report(records).directory / "report.md").read_text(), flags=re.DOTALL)
    assert code.splitlines() == said
