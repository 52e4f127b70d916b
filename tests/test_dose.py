"""The dose of bias: verdict and N* by dose, where both are known, in the table, the figure and on the page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from crossover.analysis.contract import Result
from crossover.analysis.runs import Method
from crossover.analysis.verdict import analyse
from crossover.config import CrossoverError
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.report.section import write_section
from crossover.report.style import save
from crossover.studies.dose import dose_section, dose_table, dose_words, doses_of, draw_dose, main
from tests.worlds import small_run

SIZES = (100, 300, 1000, 3000, 10_000)


def runs() -> pd.DataFrame:
    """Two data sets of five chains: in one the ViT overtakes at 1,000 images, in the other it leads throughout."""
    rng = np.random.default_rng(0)
    rows = []
    for dataset, start in (("d", 0.6), ("d-patches", -0.3)):
        for chain in range(5):
            for i, n in enumerate(SIZES):
                noise = 0.01 * rng.standard_normal(2)
                ratio = start - 0.3 * i if dataset == "d" else start
                for model, log in (("resnet", noise[0]), ("vit", ratio + noise[1])):
                    row = {"dataset": dataset, "model": model, "n_train": n, "chain": chain, "seed": chain}
                    rows.append(
                        row | {"run_id": f"{dataset}{model}{n}{chain}", "budget": "b", "test_error": 0.3 * np.exp(log)}
                    )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def analysed() -> Result:
    return analyse(runs(), Method(seed=0))


@pytest.fixture
def table(analysed: Result) -> pd.DataFrame:
    return dose_table(analysed, {"d": 0.0, "d-patches": 1.0})


def test_verdict_and_crossing_are_listed_by_dose(analysed: Result, table: pd.DataFrame) -> None:
    assert list(table["n_train"]) == 2 * list(SIZES)
    by_dose: Any = table.drop_duplicates("dose").set_index("dose")
    assert list(by_dose["verdict"]) == ["crossover", "b_better"]
    assert by_dose.loc[0.0, "n_star"] == pytest.approx(1000, rel=0.05)
    assert pd.isna(by_dose.loc[1.0, "n_star"])
    assert (table["band_low"] < table["log_error_ratio"]).all()
    turned = dose_table(analysed, {"d-patches": 1.0, "d": 0.0})
    assert list(turned["dose"]) == [1.0] * 5 + [0.0] * 5, "in the order of the doses"


def test_the_figure_says_of_each_dose_where_they_cross_or_who_leads(table: pd.DataFrame) -> None:
    (axes,) = draw_dose(table, "share").axes
    said = [text.get_text() for text in axes.texts]
    assert sum(words.startswith("N* = 1k (") and words.endswith("), vit overtakes") for words in said) == 1
    assert said.count("not in range: vit leads") == 1
    ratios = [float(words.strip("()")) for words in said[:5]]
    assert ratios == pytest.approx(np.exp(0.6 - 0.3 * np.arange(5)), rel=0.03)
    assert [words.startswith("(") for words in said[:5]] == [False, False, True, False, False], "a tie at N*"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "N* = 2.1k (1.6k to 2.9k), vit overtakes"),
        ({"direction": "a_overtakes_b", "ci_high": None}, "N* = 2.1k (1.6k to …), resnet overtakes"),
        ({"verdict": "a_better"}, "not in range: resnet leads"),
        ({"verdict": "several_crossings"}, "several crossings"),
        ({"verdict": "undecided"}, "undecided, P(N* in range) 0.40"),
        ({"verdict": "undecided", "p_in_range": None}, "undecided"),
    ],
)
def test_a_verdict_is_told_in_words(changes: dict[str, Any], said: str) -> None:
    row = {"a": "resnet", "b": "vit", "verdict": "crossover", "direction": "b_overtakes_a", "p_in_range": 0.4}
    assert dose_words(row | {"n_star": 2100, "ci_low": 1600, "ci_high": 2900} | changes) == said


def test_the_dose_is_the_share_permuted_or_the_dials_or_the_name(tmp_path: Path) -> None:
    def doses(*worlds: dict[str, Any]) -> tuple[list[Any], str]:
        made = [small_run(tmp_path, **{f"data__{key}": value for key, value in world.items()}) for world in worlds]
        found, label = doses_of([{"dataset": run.dataset, "config": run.model_dump(mode="json")} for run in made])
        return list(found.values()), label

    half, all_patches = {"kind": "patches", "share": 0.5}, {"kind": "patches"}
    assert doses({"permute": all_patches}, {}, {"permute": half}) == ([0, 0.5, 1], "share of patches permuted")
    dials = ["alpha 0.15, beta 1.5, q 0.8", "alpha 0.15, beta 1.5, q 1"]
    assert doses({}, {"name": "cues-q1", "q": 1}) == (dials, "world")
    both = ["cues-patches", "cues-pixels"]
    assert doses({}, {"permute": all_patches}, {"permute": {"kind": "pixels"}}) == ([dials[0], *both], "world")
    assert doses({"permute": all_patches}, {"name": "other", "permute": all_patches}) == (
        ["cues-patches", "other-patches"],
        "data set",
    )


def test_a_dose_beside_a_report_is_on_its_page(tmp_path: Path, table: pd.DataFrame) -> None:
    table.to_csv(tmp_path / "dose.csv", index=False)
    save(draw_dose(table, "share"), tmp_path / "figures", "dose")
    write_section(dose_section(table), tmp_path)
    write_report(ReportInput("dosed", "make report", runs()), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The dose of bias" in page
    cells = ('<td class="words">' + text for text in ("vit / resnet", "1.0", "not in range: vit leads"))
    assert "</td>".join(cells) in page
    assert 'aria-label="Who leads, by number of training images and dose' in page


def test_a_sweep_that_is_not_there_is_named(tmp_path: Path) -> None:
    values = {"name": "no-such-sweep", "outputs": str(tmp_path), "output": None}
    with pytest.raises(CrossoverError, match="no sweep 'no-such-sweep'"):
        main(values, Console(quiet=True))


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in Path("results").glob("*/dose.csv")}), ids=lambda p: p.name
)
def test_a_published_dose_has_the_verdicts_of_its_report(folder: Path) -> None:
    published = pd.read_csv(folder / "dose.csv")
    doses: dict[str, float | str] = dict(published[["dataset", "dose"]].drop_duplicates().itertuples(index=False))
    expected = dose_table(json.loads((folder / "crossover.json").read_text()), doses)
    pd.testing.assert_frame_equal(published, expected.fillna(np.nan), check_dtype=False, rtol=1e-5)
