"""Claims about tables of runs and files of curves: what is read, understood, left out or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.runs import AnalysisError, Method, read_curves
from crossover.analysis.sentences import images
from crossover.analysis.verdict import analyse, curve_summary
from tests.curves import falling, noisy_curve_file, only_pair, study_notes, table


def refused(runs: pd.DataFrame, match: str, **options: Any) -> None:
    with pytest.raises(AnalysisError, match=match) as caught:
        analyse(runs, Method(seed=0, **options))
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_analysed_are_refused_in_one_line() -> None:
    runs = table(falling(3000))
    refused(runs.drop(columns=["chain", "budget"]), "lacks chain, budget; it has run_id")
    refused(runs, "lacks top5_error", metric="top5_error")
    refused(runs[:0], "empty: no run is finished yet")
    refused(runs.assign(test_error=100 * runs["test_error"]), "divide percent by 100")
    refused(runs.assign(test_error=-0.1), "must be a fraction")
    refused(runs.assign(test_error=np.inf), "check the values")
    refused(runs.assign(test_error="bad"), "must be a number; got bad")
    refused(runs.assign(test_error=np.nan), "missing in every run")
    refused(runs.assign(test_error=0.0), "every test_error is zero")
    refused(runs.assign(n_train=0), "at least 1")
    refused(runs.assign(model=None), "model is missing in 30 rows")
    refused(pd.concat([runs, runs[:2]]), "4 rows are duplicates, such as model=vit_tiny n_train=256 chain=0")


def test_run_without_a_result_is_left_out_and_named() -> None:
    runs = table(falling(3000))
    runs.loc[3, "test_error"] = np.nan
    assert runs["run_id"][3] in study_notes(runs)
    assert "2 at 256" in study_notes(runs)


def test_curve_summary_is_the_mean_and_its_interval() -> None:
    runs = table(lambda n: 0.1, chains=4)
    summary = curve_summary(runs, Method(seed=0))
    row = summary[(summary["model"] == "vit_tiny") & (summary["n_train"] == 1024)].iloc[0]
    known = runs[(runs["model"] == "vit_tiny") & (runs["n_train"] == 1024)]["test_error"]
    assert row["error_mean"] == pytest.approx(np.exp(np.log(known).mean()))  # as the interval is
    assert row["error_low"] * row["error_high"] == pytest.approx(row["error_mean"] ** 2)
    assert row["chains"] == 4
    alone = curve_summary(runs[runs["chain"] == 0], Method(seed=0))
    assert alone["error_low"].isna().all()
    assert alone["error_mean"].notna().all()


def test_curves_and_gaps_agree_with_several_seeds_a_chain() -> None:
    once = table(falling(3000), chains=3)
    runs = pd.concat([once, once.assign(seed=once["seed"] + 10, run_id="other-" + once["run_id"])], ignore_index=True)
    runs["test_error"] *= np.where(runs.index < len(once), 0.7, 1.0) ** (runs["model"] == "vit_tiny")
    means = curve_summary(runs, Method(seed=0)).pivot(index="n_train", columns="model", values="error_mean")
    pair = only_pair(runs)
    ratios = np.log(means[pair["b"]] / means[pair["a"]])
    assert ratios.to_numpy() == pytest.approx([gap["log_error_ratio"] for gap in pair["gap"]])


def test_noisy_unaligned_curves_are_smoothed_first(tmp_path: Path) -> None:
    curves = read_curves(noisy_curve_file(tmp_path / "c.csv", falling(30_000, 0.1)))
    (study,) = analyse(curves, Method(seed=0))["studies"]
    (pair,) = study["pairs"]
    assert study["dataset"] == "t"
    assert pair["verdict"] == "crossover"
    assert (pair["ci_low"] or 0) < 30_000 < (pair["ci_high"] or 0) < 2.5 * (pair["ci_low"] or 0)
    assert "smoothed" in pair["notes"][0]
    parallel = only_pair(read_curves(noisy_curve_file(tmp_path / "p.csv", lambda n: 0.15)))
    assert parallel["verdict"] == "a_better"
    equal = only_pair(read_curves(noisy_curve_file(tmp_path / "e.csv", lambda n: 0.0)))
    assert equal["verdict"] == "undecided"


def test_curve_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("model,error\nvit,0.5\n")
    with pytest.raises(AnalysisError, match="lacks the column n_train; it has model, error"):
        read_curves(path)
    path.write_text("model,n_train,error\nvit,10,50\n")
    with pytest.raises(AnalysisError, match=r"curves\.csv: error must be a fraction .* divide percent by 100"):
        read_curves(path)
    path.write_text("model,n_train,error\n")
    with pytest.raises(AnalysisError, match="has a header but no rows"):
        read_curves(path)
    path.write_text("model,n_train,error\nvit,10,0.5\nvit,10,0.4\n")
    with pytest.raises(AnalysisError, match="2 rows are duplicates"):
        read_curves(path)
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        read_curves(tmp_path / "none.csv")
    path.write_text("model,n_train,error\nvit,10,nan\n")
    with pytest.raises(AnalysisError, match=r"error must be a number; got nan; .* leave unknown ones empty"):
        read_curves(path)
    path.write_text("model,n_train,error,n_pool\nvit,2000,0.5,1000\n")
    with pytest.raises(AnalysisError, match="n_train of 2,000 exceeds n_pool, the images it is drawn from, of 1,000"):
        read_curves(path)
    path.write_text("")
    with pytest.raises(AnalysisError, match="cannot be read as CSV"):
        read_curves(path)


def test_numbers_of_images_are_short() -> None:
    assert [images(n) for n in (12.4, 730, 2130, 45_000, 999_700, 1.31e6, 1.2e9)] == [
        *("12", "730", "2.1k", "45k", "1M", "1.3M", "1.2B")
    ]


def write_curves(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_model_names_are_text_of_one_spelling(tmp_path: Path) -> None:
    rows = [
        f"{m},{n},{e}" for m, e in (("18", 0.3), ("050", 0.4), ("e\u0301 ", 0.5), ("\u00e9", 0.45)) for n in (10, 20)
    ]
    curves = read_curves(write_curves(tmp_path / "c.csv", ["model,n_train,error", *rows[:5], *rows[7:]]))
    assert list(dict.fromkeys(curves["model"])) == ["18", "050", "\u00e9"]
    missing = read_curves(write_curves(tmp_path / "n.csv", ["model,n_train,error", "NA,10,0.3", "None,10,0.4"]))
    assert list(missing["model"]) == ["NA", "None"]


def test_numbered_models_share_their_chains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{m},{n},{0.5 * n**-0.1 * s * np.exp(0.01 * rng.standard_normal())},{k}"
        for m, s in ((18, 1), (50, 0.8))
        for n in (10, 100, 1000)
        for k in range(3)
    ]
    pair = only_pair(read_curves(write_curves(tmp_path / "c.csv", ["model,n_train,error,chain", *rows])))
    assert (pair["a"], pair["b"], pair["verdict"], pair["interval"]) == ("18", "50", "b_better", "chains")


def test_columns_under_other_names_are_understood_or_named(tmp_path: Path) -> None:
    other = write_curves(
        tmp_path / "o.csv", ["model,n_train,test_error,dataset", "a,10,0.5,x", "b,10,0.4,x", "a,10,0.3,y", "b,10,0.2,y"]
    )
    assert list(dict.fromkeys(read_curves(other)["dataset"])) == ["x", "y"]
    one = write_curves(tmp_path / "one.csv", ["model,n_train,error", "a,10,1.0000001", "b,10,0.5"])
    assert read_curves(one)["test_error"].max() == pytest.approx(1)
    with pytest.raises(AnalysisError, match=r"rows with more fields than its header\); needed: model"):
        read_curves(write_curves(tmp_path / "s.csv", ["model;n_train;error", "a;10;0,5"]))


def test_capitals_in_columns_do_not_matter_and_an_error_given_twice_is_refused(tmp_path: Path) -> None:
    lines = ["Model,N_train,Error", "1e5,100,0.5", "1e5,1000,0.3"]
    curves = read_curves(write_curves(tmp_path / "c.csv", lines))
    assert list(curves["model"]) == ["1e5", "1e5"]
    assert list(curves["n_train"]) == [100.0, 1000.0]
    assert list(curves["test_error"]) == [0.5, 0.3]
    with pytest.raises(AnalysisError, match=r"twice\.csv has error twice .* keep the one to compare"):
        read_curves(write_curves(tmp_path / "twice.csv", ["model,n_train,error,test_error", "a,100,0.5,0.4"]))


def test_accuracy_given_as_error_is_suspected() -> None:
    runs = table(falling(3000))
    assert "is it an accuracy?" in study_notes(runs.assign(test_error=1 - runs["test_error"]))
    assert "is it an accuracy?" not in study_notes(runs)


def test_names_that_look_alike_are_the_same_and_a_comma_at_the_end_of_rows_is_no_column(tmp_path: Path) -> None:
    rows = ["resnet,10,0.4,", "re\u200bsnet,20,0.3,", "\u202eresnet\t,40,0.2,", "v\x00it,10,0.5,"]
    curves = read_curves(write_curves(tmp_path / "c.csv", ["\ufeffmodel, n_train,error", *rows]))
    assert curves["model"].tolist() == ["resnet"] * 3 + ["vit"]
    assert curves["n_train"].tolist() == [10, 20, 40, 10]
    assert curves["test_error"].tolist() == [0.4, 0.3, 0.2, 0.5]
