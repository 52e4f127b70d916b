import errno
import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.contract import Result
from crossover.analysis.robustness import stability_table
from crossover.analysis.runs import Method
from crossover.analysis.testset import BINOMIAL
from crossover.analysis.verdict import analyse, curve_summary
from crossover.config import CrossoverError
from crossover.record import Record, runs_table
from crossover.report.build import (
    BEGIN,
    END,
    publish,
    read_study,
    settings,
    study_block,
    study_folder,
    write_report,
)
from crossover.report.contents import ReportInput, pack_predictions
from crossover.report.section import PAGE, write_section
from crossover.store import SweepRecords
from crossover.studies.reproduction import compare_runs
from crossover.studies.transfer import READINGS
from crossover.sweep_report import republish
from tests.reported import crossing_records, report_of
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]
STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/plan.json"))


def fast(folders: set[str]) -> list[Any]:
    """Return the folders of all studies as parameters; those that are not in `folders` are for the slow tests."""
    return [
        pytest.param(folder, marks=[] if folder.name in folders else [pytest.mark.slow], id=folder.name)
        for folder in STUDIES
    ]


SMALL = {folder.name for folder in STUDIES if len(pd.read_csv(folder / "runs.csv")) <= 80}


def close(a: object, b: object, where: str = "") -> None:
    """Fail unless two JSON values are equal, numbers to a relative 1e-4: machines round differently."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            close(one, other, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6), where
    else:
        assert a == b, where


def regenerate(folder: Path) -> Result:
    """Return crossover.json of a study, made again from its runs and predictions."""
    found = read_study(folder)
    return analyse(found.runs, Method(seed=0, predictions=found.predictions), chance=found.chance)


@pytest.mark.parametrize("folder", fast(SMALL))
def test_published_numbers_follow_from_the_published_runs(folder: Path) -> None:
    made = json.dumps(regenerate(folder))
    result, published = (json.loads(text) for text in (made, (folder / "crossover.json").read_text()))
    laws = [study.pop("laws") for one in (result, published) for study in one["studies"]]
    close(result, published, folder.name)
    for new, old in zip(laws[: len(laws) // 2], laws[len(laws) // 2 :], strict=True):
        close([law["curve"] for law in new], [law["curve"] for law in old], f"{folder.name} laws")


@pytest.mark.parametrize("folder", STUDIES, ids=lambda path: path.name)
def test_published_curves_follow_from_the_published_runs(folder: Path) -> None:
    curves = curve_summary(read_study(folder).runs, Method(seed=0))
    pd.testing.assert_frame_equal(curves, pd.read_csv(folder / "curves.csv"), rtol=1e-4)


@pytest.mark.parametrize("folder", fast({"cues", "cues-local"}))
def test_published_stability_follows_from_the_published_runs(folder: Path) -> None:
    found = read_study(folder)
    made = stability_table(found.runs, Method(seed=0, predictions=found.predictions))
    assert list(made["verdict"]) == list(pd.read_csv(folder / "stability.csv")["verdict"])


def test_every_study_is_listed_with_what_it_does_not_show() -> None:
    listed = (ROOT / "results" / "README.md").read_text()
    folders = {path.parent.name for path in (ROOT / "results").glob("*/crossover.json")}
    assert folders == {folder.name for folder in STUDIES}
    assert [name for name in folders if f"({name}/report.md)" not in listed] == []


def test_readme_shows_the_numbers_of_the_published_study() -> None:
    readme = ROOT / "README.md"
    assert BEGIN + study_block(ROOT / "results" / "cues") + END in readme.read_text()


def test_results_hold_tables_and_one_figure_format_within_12_megabytes() -> None:
    """What `make pages` makes again from them is not tracked."""
    files = [path for path in (ROOT / "results").rglob("*") if path.is_file() and path.name != PAGE]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert [path for path in files if path.suffix in (".png", ".pdf") and path.with_suffix(".svg").exists()] == []
    assert "/results/**/report.html" in (ROOT / ".gitignore").read_text()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a finished sweep of 30 runs, with predictions of 500 test images; no test changes it."""
    tmp_path = tmp_path_factory.mktemp("written")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500).astype(np.int16)
    records, paths = crossing_records(), {}
    for record in records:
        wrong = rng.random(500) < record["test_error"]
        record["test_error"] = float(wrong.mean())
        folder = tmp_path / "runs" / record["run_id"]
        folder.mkdir(parents=True)
        paths[record["run_id"]] = folder / "predictions.npz"
        predicted = np.where(wrong, (labels + 1) % 10, labels).astype(np.int16)
        np.savez_compressed(paths[record["run_id"]], labels=labels, predictions=predicted)
        record["classes"] = [f"class {label}" for label in range(10)]
        (folder / "record.json").write_text(json.dumps(record))
    ids = tuple(paths)
    command = 'make sweep SWEEP=quick SET="data.q=0.9 budget.steps=10"'
    sweep = SweepRecords(
        "quick", command, cast("tuple[Record, ...]", tuple(records)), dict.fromkeys(ids, "done"), {}, paths
    )
    report_of(sweep, tmp_path / "report")
    plan = {"name": "quick", "command": command, "runs": ids}
    (tmp_path / "report" / "plan.json").write_text(json.dumps(plan))
    return tmp_path / "report"


def test_a_published_study_can_be_made_again_from_its_files(written: Path, tmp_path: Path) -> None:
    publish(written, tmp_path / "study")
    drawn = {path.suffix for path in (tmp_path / "study" / "figures").iterdir() if not path.name.startswith("samples-")}
    assert drawn == {".svg"}
    study = read_study(tmp_path / "study")
    assert settings(study.command) == {"SWEEP": "quick", "SET": "data.q=0.9 budget.steps=10"}
    result = regenerate(tmp_path / "study")
    close(json.loads(json.dumps(result)), json.loads((tmp_path / "study" / "crossover.json").read_text()))
    assert result["studies"][0]["pairs"][0]["mcnemar"]
    assert set(pd.read_csv(tmp_path / "study" / "classes.csv")["class"]) == {f"class {label}" for label in range(10)}


def test_a_published_study_says_which_of_its_runs_are_missing(written: Path, tmp_path: Path) -> None:
    publish(written, tmp_path / "study")
    assert read_study(tmp_path / "study").unfinished == {}
    plan = json.loads((tmp_path / "study" / "plan.json").read_text())
    (tmp_path / "study" / "plan.json").write_text(json.dumps(plan | {"runs": [*plan["runs"], "another"]}))
    assert read_study(tmp_path / "study").unfinished == {"another": "missing"}


def test_a_changed_run_shows_as_drift(written: Path, tmp_path: Path) -> None:
    publish(written, tmp_path / "study")
    runs = pd.read_csv(tmp_path / "study" / "runs.csv")
    runs["test_error"] = runs["test_error"].where(runs.index > 0, 1.01 * runs["test_error"])
    runs.to_csv(tmp_path / "study" / "runs.csv", index=False)
    result = regenerate(tmp_path / "study")
    with pytest.raises(AssertionError):
        close(json.loads(json.dumps(result)), json.loads((tmp_path / "study" / "crossover.json").read_text()))


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "/tmp"])
def test_a_name_that_leads_out_of_the_published_studies_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CrossoverError, match="is no name of a study"):
        study_folder(tmp_path, name)


def test_an_unfinished_report_is_not_published(written: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match=r"has no report\.html.*make report first"):
        publish(tmp_path / "nothing", tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["runs.csv", "environment.json", "curves.csv", "crossover.json", "plan.json"])
@pytest.mark.parametrize("left", ["", "{", "run_id,model\n"])
def test_a_cut_file_of_a_study_is_named_in_one_line(written: Path, tmp_path: Path, name: str, left: str) -> None:
    publish(written, tmp_path / "study")
    (tmp_path / "study" / name).write_text(left)
    with pytest.raises(CrossoverError, match=f"{name} is not a whole .*; move it away and repeat the command"):
        (study_block if name in ("curves.csv", "crossover.json") else read_study)(tmp_path / "study")


def test_a_study_is_not_replaced_by_one_of_another_sweep(written: Path, tmp_path: Path) -> None:
    report, study = shutil.copytree(written, tmp_path / "report"), tmp_path / "study"
    publish(report, study)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    plan = json.loads((report / "plan.json").read_text())
    (report / "plan.json").write_text(json.dumps(plan | {"command": "make sweep SWEEP=other"}))
    with pytest.raises(CrossoverError, match="publish other under another name: STUDY=other"):
        publish(report, study)
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_a_study_is_published_whole_file_by_file(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, study = shutil.copytree(written, tmp_path / "report"), tmp_path / "study"
    (report / "figures" / ".gap.svg.host.1.tmp").write_text("left by a killed writer")
    publish(report, study)
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert [path for path in before if path.name.startswith(".")] == []
    (study / "figures" / "old.svg").touch()

    def fill(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:5])
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", fill)
        with pytest.raises(OSError, match="No space"):
            publish(report, study)
    assert {path: path.read_bytes() for path in before} == before
    publish(report, study)
    assert {path for path in study.rglob("*") if path.is_file()} == set(before)


def test_the_page_of_a_published_study_is_rebuilt_from_its_files(written: Path, tmp_path: Path) -> None:
    publish(written, tmp_path / "study")
    before = {path: path.read_bytes() for path in (tmp_path / "study").glob("*.*")}
    (tmp_path / "study" / PAGE).unlink()
    assert (
        republish(read_study(tmp_path / "study"), tmp_path / "study", [small_run(tmp_path)])
        == tmp_path / "study" / PAGE
    )
    drawn = {path.suffix for path in (tmp_path / "study" / "figures").iterdir()}
    assert drawn == {".svg"}
    text = (tmp_path / "study" / "report.md").read_text()
    assert "ResNet of basic blocks" in text
    for path in before:
        if path.suffix == ".csv":
            assert path.read_bytes() == before[path], path.name


def test_unknown_study_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "cues").mkdir()
    (tmp_path / "cues" / "plan.json").write_text("{}")
    with pytest.raises(CrossoverError, match=r"no study 'cue' .*; there is cues"):
        read_study(tmp_path / "cue")


def test_a_repeated_run_is_identical_within_seed_noise_or_outside() -> None:
    rng = np.random.default_rng(0)
    published = pd.DataFrame(
        [
            {"run_id": f"{n}-{chain}", "dataset": "d", "model": "m", "n_train": n, "chain": chain, "seed": chain}
            | {"test_error": 0.3 * float(np.exp(0.02 * rng.standard_normal()))}
            for n in (100, 1000, 10_000)
            for chain in range(3)
        ]
    )
    again = published.iloc[[0, 4, 8]].copy()
    again["test_error"] *= [1.0, 1.03, 1.3]
    found = compare_runs(published, again)
    assert list(found["outcome"]) == ["identical", "within", "outside"]
    assert found["tolerance"].between(1.03, 1.25).all()
    alone = published[published["chain"] == 0]
    assert list(compare_runs(alone, alone.assign(test_error=0.2))["outcome"]) == ["no tolerance"] * 3


def test_a_transfer_is_published_with_the_predictions_it_has_and_not_taken_for_runs(tmp_path: Path) -> None:
    runs = runs_table(crossing_records())
    runs["run_id"], runs["dataset"] = runs["run_id"] + "/new-probe", "new-probe"
    shots = runs.assign(run_id=runs["run_id"] + "s", dataset="new-5shot", test_error=1.1 * runs["test_error"])
    labels = np.arange(500) % 4
    wrong = {run_id: np.arange(500) < 500 * error for run_id, error in runs[["run_id", "test_error"]].to_numpy()}
    predictions = {run_id: (labels, np.where(miss, (labels + 1) % 4, labels)) for run_id, miss in wrong.items()}
    inputs = ReportInput(
        "cues-transfer",
        "make transfer STUDY=cues",
        pd.concat([runs, shots], ignore_index=True),
        predictions=predictions,
        names={"new-probe": list("abcd"), "new-5shot": list("abcd")},
    )
    pack_predictions(inputs, tmp_path / "report")
    write_report(inputs, tmp_path / "report")
    plan = {"name": "cues-transfer", "command": inputs.command, "runs": ["a"]}
    (tmp_path / "report" / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "report" / "transfer.csv").write_text("target\n")
    write_section(READINGS, tmp_path / "report")
    publish(tmp_path / "report", tmp_path / "study")
    assert (tmp_path / "study" / "transfer.csv").exists()
    assert read_study(tmp_path / "study").is_transfer
    again = read_study(tmp_path / "study")
    assert set(again.predictions) == set(runs["run_id"])
    assert again.names == inputs.names
    assert not again.unfinished
    probe, few = json.loads((tmp_path / "study" / "crossover.json").read_text())["studies"]
    assert probe["pairs"][0]["mcnemar"]
    assert not few["pairs"][0]["mcnemar"]
    assert BINOMIAL in few["pairs"][0]["notes"]
    assert not any("missing" in note for note in few["pairs"][0]["notes"])
    result = regenerate(tmp_path / "study")
    close(json.loads(json.dumps(result)), json.loads((tmp_path / "study" / "crossover.json").read_text()))
