import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from rich.console import Console

from crossover import progress
from crossover.analysis.runs import read_curves
from crossover.config import CrossoverError
from crossover.record import Record
from crossover.report.build import write_findings, write_report
from crossover.report.contents import report_sections
from crossover.report.figures import Ceiling, by_pair, draw_equivalence, learning_curves
from crossover.report.findings import Extras, Findings, Report
from crossover.report.page import terminal_summary
from crossover.report.style import FAMILIES, PAPER, styles
from crossover.report.words import recipe_table
from crossover.store import State, SweepRecords
from tests.worlds import VIT, small_run

SIZES = (256, 1024, 4096, 16384, 65536)
N_STAR = 2000.0


def record(model: str, n: int, chain: int, error: float, dataset: str = "cues") -> dict[str, Any]:
    return {
        "schema": 1,
        "run_id": f"{dataset}-{model}-n{n}-c{chain}",
        "dataset": dataset,
        "model": model,
        "family": model.split("_")[0],
        "n_train": n,
        "chain": chain,
        "seed": chain,
        "recipe": "r",
        "augment": "none",
        "budget": "640 steps",
        "test_error": error,
        "val_error": error,
        "train_error": 0.0,
        "n_test": 5000,
        "params": 78042,
        "steps": 640,
        "train_seconds": 10.0,
        "device": "a CPU",
        "precision": "fp32",
        "threads": 1,
        "dataset_hash": "abc",
        "versions": {"torch": "2.14.1"},
        "git": {"commit": "c0ffee", "dirty": False},
    }


def crossing_records(chains: int = 3, models: tuple[str, ...] = ("resnet_tiny", "vit_tiny")) -> list[dict[str, Any]]:
    """Return records whose curves cross at N_STAR, with one per cent of noise between chains."""
    rng = np.random.default_rng(0)
    records = []
    for model in models:
        for n in SIZES:
            for chain in range(chains):
                slope = -0.25 if model.startswith("resnet") else -0.45
                error = 0.3 * (n / N_STAR) ** slope * np.exp(0.01 * rng.standard_normal())
                records.append(record(model, n, chain, float(min(error, 0.9))))
    return records


def sweep(records: list[dict[str, Any]], **states: State) -> SweepRecords:
    known: dict[str, State] = {r["run_id"]: "done" for r in records}
    known |= states
    errors = {run_id: "Traceback\nValueError: <b>boom</b>\n" for run_id, state in states.items() if state == "failed"}
    return SweepRecords(
        "quick", "make sweep", tuple(known), cast("tuple[Record, ...]", tuple(records)), known, errors, {}
    )


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Report]:
    def write(records: list[dict[str, Any]], **states: State) -> Report:
        extras = Extras({"cues": [Ceiling("local cue alone", 0.18)]})
        return write_report(sweep(records, **states), tmp_path / "report", extras=extras)

    return write


def test_known_crossover_is_in_the_verdict_the_page_and_the_contract(report: Callable[..., Report]) -> None:
    written = report(crossing_records())
    pair = json.loads((written.directory / "crossover.json").read_text())["studies"][0]["pairs"][0]
    assert (pair["a"], pair["b"], pair["verdict"]) == ("resnet_tiny", "vit_tiny", "crossover")
    assert pair["ci_low"] < N_STAR < pair["ci_high"]
    assert pair["n_star"] == pytest.approx(N_STAR, rel=0.15)
    for name in ("report.html", "report.md"):
        assert pair["summary"] in (written.directory / name).read_text().replace("&#39;", "'")


def test_all_files_are_written_and_the_page_asks_for_nothing_else(report: Callable[..., Report]) -> None:
    directory = report(crossing_records()).directory
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


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(sweep(crossing_records()), tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def test_what_failed_or_is_missing_is_said_and_escaped(report: Callable[..., Report]) -> None:
    page = (report(crossing_records(), bad_run="failed", late_run="missing").directory / "report.html").read_text()
    assert "bad_run failed: ValueError: &lt;b&gt;boom&lt;/b&gt;" in page
    assert "1 of 32 runs are not done yet; continue with: make sweep" in page


@pytest.mark.parametrize(
    "records",
    [
        crossing_records(models=("vit_tiny",)),
        crossing_records(chains=1),
        [r for r in crossing_records() if r["n_train"] == 256],
        crossing_records()[:20],
        [record("resnet_tiny", 256, 0, 0.5)],
        [*crossing_records(), record("hybrid_tiny", 256, 0, 0.5)],
    ],
    ids=["one model", "one chain", "one size", "half done", "one run", "a third model just begun"],
)
def test_unfinished_sweeps_claim_no_crossover_and_do_not_fail(
    records: list[dict[str, Any]], report: Callable[..., Report]
) -> None:
    written = report(records)
    third = any(r["model"] == "hybrid_tiny" for r in records)
    verdicts = {pair["verdict"] for _, pair in written.pairs if "hybrid_tiny" not in (pair["a"], pair["b"])}
    assert ("crossover" in verdicts) == third
    assert (written.directory / "report.html").exists()


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
            ["One model only, vit_tiny: there is nothing to compare it with.", "a crossover needs two models."],
        ),
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
        (
            crossing_records(),
            {"cues-vit_tiny-bad": "failed"},
            ["cues-vit_tiny-bad failed: ValueError: <b>boom</b>", "failed cues-vit_tiny-bad"],
        ),
        (crossing_records(), {}, ["Nothing: all 30 runs are done."]),
    ],
    ids=["one model", "one size", "half done", "one failed", "all done"],
)
def test_page_says_plainly_what_it_rests_on(
    records: list[dict[str, Any]], states: dict[str, State], said: list[str], report: Callable[..., Report]
) -> None:
    words = visible((report(records, **states).directory / "report.html").read_text())
    assert [text for text in said if text not in words] == []


def test_single_classes_have_curves_a_table_and_a_file(tmp_path: Path) -> None:
    labels, records, paths = np.arange(200) % 4, crossing_records(), {}
    for r in records:
        r["classes"] = ["cat", "dog", "elk", "fox"]
        easy = labels == 3 if r["model"] == "vit_tiny" else labels > 1
        path = tmp_path / f"{r['run_id']}.npz"
        np.savez(path, labels=labels, predictions=np.where(easy, labels, (labels + 1) % 4))
        paths[r["run_id"]] = path
    known = sweep(records)
    whole = SweepRecords(known.name, known.command, known.planned, known.records, known.states, {}, paths)
    written = write_report(whole, tmp_path / "report")
    saved = pd.read_csv(written.directory / "classes.csv")
    assert saved.groupby(["model", "class"])["error_mean"].mean().unstack().to_dict("index") == {
        "resnet_tiny": {"cat": 1.0, "dog": 1.0, "elk": 0.0, "fox": 0.0},
        "vit_tiny": {"cat": 1.0, "dog": 1.0, "elk": 1.0, "fox": 0.0},
    }
    words = visible((written.directory / "report.html").read_text())
    assert "elk 0.0 % [0.0 %, 0.0 %] 100.0 % [100.0 %, 100.0 %]" in words
    assert (written.directory / "figures" / "classes.png").exists()


def test_page_says_how_far_the_verdict_carries(tmp_path: Path) -> None:
    records = crossing_records()
    late = [r | {"run_id": r["run_id"] + "-long", "budget": "1280 steps"} for r in crossing_records()]
    for r in late:
        r["test_error"] = 0.3 if r["model"].startswith("resnet") else 0.4
    written = write_report(sweep(records), tmp_path, also=[sweep(late)], designs=20)
    assert "alternative analyses" in written.stabilities[0][0]
    assert "budget 1280 steps: resnet_tiny leads" in written.stabilities[0][0]
    assert "would be found in at least 80% of repetitions with 3 chains" in written.calibrations[0][0]
    assert written.pairs[0][1]["verdict"] == "crossover"
    page = (tmp_path / "report.html").read_text()
    for text in (
        "survive other choices",
        "resnet_tiny leads (contradicts)",
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
    said = f"1 runs have no test error and are left out: {records[0]['run_id']}."
    assert f"cues: {said}" in written.notes
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=200, file=nowhere)
        terminal_summary(written, console)
    texts = [(written.directory / name).read_text() for name in ("report.html", "report.md")]
    assert all(said in text for text in (*texts, console.export_text()))


def test_a_long_report_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TELL_SECONDS", -1)
    write_report(sweep(crossing_records()), tmp_path)
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        "pairs of cues compared: 1 of 1",
        "models of cues described: 1 of 2",
        "models of cues described: 2 of 2",
        "pairs of cues analysed in other ways: 1 of 1",
        "data sets drawn: 1 of 1",
    ]


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


def test_a_ceiling_of_zero_is_not_on_a_logarithmic_axis(tmp_path: Path) -> None:
    written = write_report(sweep(crossing_records()), tmp_path)
    ceilings = [Ceiling("best possible (exact Bayes)", 0.0), Ceiling("local cue alone", 0.18)]
    figure = learning_curves(written.runs, written.curves, written.result["studies"][0], ceilings)
    assert [text.get_text() for text in figure.axes[0].texts if "%" in text.get_text()] == ["local cue alone: 18.0 %"]
    plt.close(figure)


def test_labels_of_ceilings_keep_clear_of_curves_and_of_the_band(tmp_path: Path) -> None:
    written = write_report(sweep(crossing_records()), tmp_path)
    ceilings = [Ceiling("best possible (exact Bayes)", 0.05), Ceiling("local cue alone", 0.18)]
    (study,) = written.result["studies"]
    n_star = study["pairs"][0]["n_star"] or 0.0
    study["pairs"][0] |= {"ci_low": 0.95 * n_star, "ci_high": 1.15 * n_star}  # a band that leaves room for labels
    figure = learning_curves(written.runs, written.curves, study, ceilings)
    (axes,) = figure.axes
    labels = [text.get_window_extent() for text in axes.texts if "%" in text.get_text()]
    assert len(labels) == 2
    (band,) = (patch.get_window_extent() for patch in axes.patches)
    curves = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    for label in labels:
        assert axes.bbox.contains(*label.min)
        assert axes.bbox.contains(*label.max)
        assert not label.overlaps(band)
        assert not any(curve.intersects_bbox(label, filled=False) for curve in curves)
    assert not labels[0].overlaps(labels[1])
    plt.close(figure)


def test_a_ceiling_far_below_the_errors_is_named_and_squeezes_no_curve(tmp_path: Path) -> None:
    written = write_report(sweep(crossing_records()), tmp_path)
    study, ceilings = written.result["studies"][0], [Ceiling("best possible", 0.004)]
    figure = learning_curves(written.runs, written.curves, study, ceilings)
    (axes,) = figure.axes
    assert "best possible, 0.4 %" in axes.get_xlabel()
    assert axes.get_ylim()[0] > 0.5 * written.curves["error_mean"].min()
    plt.close(figure)


def test_bounds_on_either_side_of_the_equivalence_are_drawn(tmp_path: Path) -> None:
    written = write_report(sweep(crossing_records()), tmp_path)
    pair: Any = dict(written.pairs[0][1])
    rows = [(100, None, 2.0, None), (200, None, None, 0.5), (400, 1.5, 1.2, 1.8), (800, None, 0.2, 0.4)]
    pair["data_equivalence"] = [dict(zip(("n_train", "factor", "ci_low", "ci_high"), row, strict=True)) for row in rows]
    figure = by_pair(draw_equivalence, [pair])
    (axes,) = figure.axes
    drawn = {line.get_label(): np.asarray(line.get_xydata()).T.tolist() for line in axes.lines}
    assert drawn["more than (95%)"] == [[100], [2.0]]
    assert drawn["less than (95%)"] == [[200], [0.5]]
    parts = cast(list[LineCollection], list(axes.collections))
    segments = [np.asarray(segment).tolist() for part in parts for segment in part.get_segments()]
    assert segments == [[[400, 1.2], [400, 1.8]], [[800, 0.2], [800, 0.4]]]
    plt.close(figure)


def test_what_limits_a_curve_is_on_the_page_and_hollow_in_the_figure(tmp_path: Path) -> None:
    written = write_report(sweep(crossing_records()), tmp_path)
    (study,) = written.result["studies"]
    numbers = {"gain": 0.2, "ci_low": 0.1, "ci_high": 0.3, "chains": 3}
    states = dict.fromkeys(SIZES, "budget-limited") | {256: "data-limited", 1024: "not checked"}
    points: list[dict[str, Any]] = [{"n_train": n, "state": state} | numbers for n, state in states.items()]
    checks: Any = [{"model": model} | point for model in ("resnet_tiny", "vit_tiny") for point in points]
    study["saturation"] = checks
    study["estimand"] = "About new images."
    study["pairs"][0] |= {"interval": "chains", "family": {"pairs": 1, "p_value": 0.01, "holds": True}}
    sections = {part.name: part for part in report_sections(written, {"cues": ()})}
    verdict = dict(zip(sections["verdicts"].tables[0].header, sections["verdicts"].tables[0].cells[0], strict=True))
    assert verdict["limited by budget"] == "yes at 3, no at 1, not known at 1 of 5 sizes"
    assert (verdict["interval from"], verdict["holds among all"]) == ("paired chains", "yes")
    assert sections["limits"].sentences == ("About new images.",)
    checked = sections["limits"].parts[0].tables[0].cells
    assert checked[0] == ["cues", "resnet_tiny", "256", "data", "0.20 [0.10, 0.30]"]
    assert len(checked) == 8, "sizes that were not checked are left out"
    (axes,) = learning_curves(written.runs, written.curves, study, []).axes
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_markerfacecolor() == PAPER]
    assert [line[:, 0].tolist() for line in drawn if len(line)] == [[4096, 16384, 65536]] * 2
    plt.close("all")


def test_a_model_keeps_its_colour_and_marker(report: Callable[..., Report]) -> None:
    both, one = styles(["resnet_tiny", "vit_tiny"]), styles(["vit_tiny"])
    assert both["vit_tiny"] == one["vit_tiny"]
    many = styles(["resnet_a", "resnet_b", "hybrid", "vit", "other"])
    assert len(set(many.values())) == 5
    twelve = styles([f"m{i}" for i in range(12)] + [f"vit_{size}" for size in "abcdefghijkl"] + ["resnet"])
    assert len(set(map(str, twelve.values()))) == 25
    members = {twelve[f"vit_{size}"].colour for size in "abcdefghijkl"}
    assert members == set(FAMILIES["vit"]), "the members of a family share its colours"
    assert members.isdisjoint({style.colour for model, style in twelve.items() if not model.startswith("vit")})
    assert styles(["a", "b"], {"b": "vit"})["b"].colour == FAMILIES["vit"][0], "a family is a field"


def test_terminal_summary_ends_with_verdict_and_page(report: Callable[..., Report]) -> None:
    written = report(crossing_records())
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=200, file=nowhere)
        terminal_summary(written, console)
    lines = console.export_text().strip().splitlines()
    assert lines[-1].endswith("report.html")
    assert written.verdicts[0] in lines[-2]


def test_a_note_of_several_data_sets_is_said_once_with_their_names() -> None:
    notes = {"one": ["same", "own"], "two": ["same"], "three": ["same", "third"]}
    studies = [{"dataset": name, "notes": said, "pairs": []} for name, said in notes.items()]
    got = Report.notes.fget(SimpleNamespace(result={"studies": studies}))  # type: ignore[attr-defined]
    assert got == ["all data sets: same", "one: own", "three: third"]


@pytest.mark.parametrize(("dirty", "said"), [(False, ["git checkout abc", "make sweep"]), (True, ["make sweep"])])
def test_only_a_commit_that_has_the_code_is_to_be_checked_out(dirty: bool, said: list[str]) -> None:
    findings = SimpleNamespace(conditions={"commit": ["abc"], "dirty": [dirty]}, command="make sweep")
    assert Report.commands.fget(SimpleNamespace(findings=findings)) == said  # type: ignore[attr-defined]


def test_a_size_at_which_no_number_of_a_table_is_known_has_no_row_in_it(tmp_path: Path) -> None:
    """Published curves have sizes of their own; the gap of a pair has few of them."""
    models = (("resnet", 0.2, 1.0), ("hybrid", 0.3, 1.05), ("vit", 0.4, 1.1))
    rows = [
        {"model": model, "n_train": round(start * n), "error": (n / 100) ** -slope}
        for model, slope, start in models
        for n in np.geomspace(1000, 1e6, 30)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "curves.csv", index=False)
    curves = read_curves(tmp_path / "curves.csv")
    write_findings(Findings("published", "make report", curves, len(curves)), tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    numbers = [line.split("|")[2:-1] for line in lines if re.match(r"\| [\d.,]+[kM]? \|", line)]
    assert len(numbers) > 5
    assert all(any(cell.strip() != "–" for cell in row) for row in numbers)


def test_many_pairs_begin_with_a_table_of_verdicts_and_data_sets_are_folded(tmp_path: Path) -> None:
    models = ("resnet_tiny", "hybrid_tiny", "vit_tiny")
    of_sets = [crossing_records(models=models) for _ in range(2)]
    for number, records in enumerate(of_sets):
        for one in records:
            one |= {"dataset": f"set{number}", "run_id": f"set{number}-{one['run_id']}"}
    written = write_report(sweep([*of_sets[0], *of_sets[1]]), tmp_path)
    assert len(written.pairs) == 6
    assert written.headline == ["6 pairs of models on 2 data sets: 4 with a crossover, 2 undecided."]
    page = (tmp_path / "report.html").read_text()
    first, second = page.split("<section ")[1:3]
    assert first.startswith('id="verdicts"')
    assert first.count("<tr>") == 1 + 6
    assert all(title in first for title in ("data set", "pair", "verdict", "N* [95% interval]", "limited by budget"))
    assert second.startswith('id="curves"')
    folded = re.findall(r"<details>\n?<summary>(set\d): hybrid_tiny overtakes; vit_tiny overtakes; undecided<", second)
    assert folded == ["set0", "set1"]
    assert "<p" not in second.split("<details>")[0]


def test_models_and_recipes_are_told_in_words_on_top_of_methods(tmp_path: Path) -> None:
    runs = [
        small_run(tmp_path, recipe__lr=0.003),
        small_run(tmp_path, recipe__lr=0.01),
        small_run(tmp_path, model=VIT, recipe={"name": "s", "optimizer": "sgd", "lr": 0.1, "batch_size": 32}),
    ]
    extras = Extras(recipes=recipe_table(runs))
    written = write_report(sweep(crossing_records()), tmp_path, extras=extras)
    (methods,) = (section for section in report_sections(written, {"cues": []}) if section.name == "methods")
    (table,) = methods.tables
    rows = [dict(zip(table.header, row, strict=True)) for row in table.cells]
    assert rows[0] == {
        "model": "resnet_test",
        "what it is": "ResNet of basic blocks: widths 8-8, blocks 1-1",
        "optimiser": "AdamW",
        "peak learning rate": "0.003 or 0.01",
        "weight decay": "0",
        "batch": "16",
        "label smoothing": "0.1",
        "augmentation": "none",
        "image side": "16 px",
        "budget": "24 steps",
    }
    said = "width 16, layers 2, heads 2, MLP ratio 2; patches by image size, position embedding learned, mean of the"
    assert rows[1]["what it is"] == f"Vision Transformer: {said} tokens"
    assert (rows[1]["optimiser"], rows[1]["batch"]) == ("SGD", "32")
    page = (tmp_path / "report.html").read_text().split('id="methods"')[1]
    assert page.index("Models and recipes") < page.index(said) < page.index("How it was measured")
