"""Claims about the atlas: known crossings, what a set needs, what a bad one is told, and files that follow."""

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text

from crossover.analysis.runs import AnalysisError
from crossover.studies.atlas import (
    BEGIN,
    COLUMNS,
    END,
    SETS,
    Pair,
    atlas_table,
    compare_pair,
    read_sets,
    readme_block,
    set_pairs,
    write_atlas,
)
from crossover.studies.atlas_figure import draw_atlas, line_of, merged

ROOT = Path(__file__).parents[1]
DATA, RESULTS = ROOT / "data" / "published", ROOT / "results" / "atlas"
JFT = "alabdulmohsin2022_jft"
CROSSINGS = yaml.safe_load((ROOT / "conf" / "gold.yaml").read_text())["crossings"]
"""Where pairs are known to cross."""
ENTRY = "{}:\n  title: {}\n  counts: distinct training images\n  differs: unknown\n"


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "atlas.csv", dtype={name: kind for name, kind in COLUMNS.items() if kind == "Int64"})


Key = tuple[str, str, str, str]
"""Set, task, a and b."""


def known(kind: str) -> dict[Key, list[float]]:
    """Return the range of every known crossing of a kind."""
    return {(p["set"], p["task"], a, b): ends for p in CROSSINGS for a, b, *ends in p.get(kind, [])}


@functools.cache
def pairs_of(name: str) -> list[Pair]:
    """Return the pairs of a published set, read once."""
    return list(set_pairs(DATA, name, read_sets(DATA)[name]))


def fresh(key: Key) -> dict[str, Any]:
    """Return a row of the atlas as the engine makes it now."""
    (pair,) = (p for p in pairs_of(key[0]) if tuple(p[1][name] for name in ("set", "task", "a", "b")) == key)
    return compare_pair(pair)


@pytest.mark.parametrize("key", known("n_star"), ids="-".join)
def test_known_crossings_are_found_where_they_are_known_to_be(key: Key) -> None:
    row, (low, high) = fresh(key), known("n_star")[key]
    assert row["verdict"] == "crossover"
    assert low <= row["n_star"] <= high
    assert row["ci_low"] < row["n_star"] < row["ci_high"]


@pytest.mark.parametrize("key", known("means"), ids="-".join)
def test_known_crossings_of_means_are_found_within_a_quarter(key: Key) -> None:
    row, (low, high) = fresh(key), known("means")[key]
    assert row["verdict"] != "crossover"
    assert low <= row["crossing_of_means"] <= high


@pytest.mark.parametrize("key", known("none"), ids="-".join)
def test_pairs_that_are_known_not_to_cross_do_not(key: Key) -> None:
    row = fresh(key)
    assert row["verdict"] in ("a_better", "undecided")
    assert row["n_star"] is None
    assert row["log_ratio_n_max"] > -0.01


def test_the_published_atlas_is_of_the_sets_and_of_this_engine(published: pd.DataFrame) -> None:
    small = [name for name in read_sets(DATA) if name != JFT]
    pairs = [pair for name in small for pair in pairs_of(name)]
    rows = published[published["set"] != JFT]
    assert [tuple(row) for row in rows[["set", "task", "a", "b"]].to_numpy()] == [
        tuple(facts[name] for name in ("set", "task", "a", "b")) for _, facts in pairs
    ]
    assert published["set"].nunique() >= 8
    assert len(published) >= 40
    for pair, (_, row) in list(zip(pairs, rows.iterrows(), strict=True))[::6]:
        now = compare_pair(pair)
        assert now["verdict"] == row["verdict"], pair[1]
        for name in ("n_star", "ci_low", "ci_high", "crossing_of_means"):
            assert (now[name] is None) == pd.isna(row[name]), (pair[1], name)
            assert now[name] is None or row[name] == pytest.approx(now[name], rel=0.05)


def test_the_pages_figure_and_readme_follow_from_the_published_table(
    published: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sets = read_sets(Path("data/published"))
    write_atlas(published, sets, Path("data/published"), tmp_path)
    for name in ["atlas.md", *(f"{name}.md" for name in sets)]:
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()
    made, kept = (
        re.findall(r">([^<>]+)</text>", (d / "figures" / "atlas.svg").read_text()) for d in (tmp_path, RESULTS)
    )
    assert len(made) > 150
    assert made == kept
    assert BEGIN + readme_block(published) + END in Path("README.md").read_text()
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 700_000


def curves(exponents: dict[str, float], sizes: tuple[int, ...] = (100, 1000, 10_000, 100_000)) -> str:
    """Return a CSV of power laws that cross at 3,162 images."""
    lines = [f"{model},{n},{0.3 * (n / 3162) ** -power:.6g}" for model, power in exponents.items() for n in sizes]
    return "model,n_train,error\n" + "\n".join(lines) + "\n"


def folder(path: Path, files: dict[str, str], entries: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text)
    (path / SETS).write_text(entries)
    return path


def test_a_set_is_added_by_one_file_and_three_lines(tmp_path: Path) -> None:
    text = curves({"resnet9": 0.1, "vit|odd [x](y) $name$": 0.2, "swin_q": 0.05})
    data = folder(tmp_path / "data", {"new set.csv": text}, ENTRY.format("new set", "Odd | one"))
    table = atlas_table(data, workers=1)
    assert [(row.a, row.b) for row in table.itertuples()] == [
        ("resnet9", "swin_q"),
        ("resnet9", "vit|odd [x](y) $name$"),
        ("swin_q", "vit|odd [x](y) $name$"),
    ]
    assert list(table["crossing_of_means"]) == pytest.approx([3162] * 3, rel=0.01)
    assert set(table["interval_covers"]) == {"nothing: no replicates"}
    assert set(table["source"]) == {"not stated"}
    write_atlas(table, read_sets(data), data, tmp_path / "atlas")
    assert "their means cross near 3.2k" in next((tmp_path / "atlas").glob("new-set*.md")).read_text()
    page = next((tmp_path / "atlas").glob("new-set*.md")).read_text()
    assert "# Odd \\| one" in page
    assert "vit\\|odd [x](y" not in page
    assert "new set.csv' 'output" in page, "the command is one to copy"


def test_long_names_stay_within_the_figure_of_the_atlas(tmp_path: Path) -> None:
    text = curves({"resnet" + "_9" * 20: 0.1, "vit" + "_9" * 20: 0.2})
    table = atlas_table(folder(tmp_path, {"s.csv": text}, ENTRY.format("s", "S")), workers=1)
    figure = draw_atlas(table.assign(n_counts="training images " * 9), {"s": "a title of a set " * 9})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    heads = axes.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().startswith("n counts"))
    assert len(heads) == 1
    for words in (*heads, *axes.texts, *axes.get_yticklabels()):
        box = words.get_window_extent()
        assert -1 <= box.x0 < box.x1 <= figure.bbox.x1, words


def test_tasks_are_compared_apart_and_empty_columns_count_as_none(tmp_path: Path) -> None:
    text = "task,model,n_train,error,chain,seed,what_n_counts,source\n"
    for task, power in (("easy", 0.3), ("hard", 0.05)):
        for model, slope in (("resnet", 0.1), ("vit", power)):
            text += "".join(
                f"{task},{model},{n},{0.3 * (n / 3162) ** -slope},,,images; note,S\n" for n in (100, 10_000)
            )
    table = atlas_table(folder(tmp_path, {"s.csv": text}, "s: {title: S}\n"), workers=1)
    assert list(table["task"]) == ["easy", "hard"]
    assert set(table["n_counts"]) == {"images"}
    assert set(table["source"]) == {"S"}
    assert [row.strips[-1][2] for row in map(line_of, table.itertuples())] == ["transformer", "CNN"]


BAD = {
    "no entry": (
        {"s.csv": curves({"resnet": 0.1, "vit": 0.2})},
        "other: {title: O}\n",
        r"other\.csv and an entry `other:`",
    ),
    "no file": ({}, ENTRY.format("s", "S"), r"s\.csv and an entry `s:` in .*sets\.yaml go together"),
    "no title": (
        {"s.csv": curves({"resnet": 0.1, "vit": 0.2})},
        "s: {counts: images}\n",
        r"sets.yaml: s\.title: Field",
    ),
    "unknown field": ({"s.csv": curves({"resnet": 0.1})}, "s: {title: S, familys: {}}\n", r"s\.familys"),
    "no yaml": ({"s.csv": curves({"resnet": 0.1})}, "s: [title\n", "sets.yaml cannot be read"),
    "unknown family": (
        {"s.csv": curves({"resnet": 0.1, "net7": 0.2})},
        "s: {title: S}\n",
        r"s\.csv: column model: .*net7",
    ),
    "one family": ({"s.csv": curves({"resnet": 0.1, "bit": 0.2})}, "s: {title: S}\n", r"s\.csv: column model: no task"),
    "percent": (
        {"s.csv": "model,n_train,error\nresnet,10,43\n"},
        "s: {title: S}\n",
        r"s\.csv: error .* divide percent",
    ),
    "no column": ({"s.csv": "model,n,error\nresnet,10,.4\n"}, "s: {title: S}\n", r"s\.csv lacks the column n_train"),
    "no common size": (
        {"s.csv": "model,n_train,error\nresnet,10,.4\nvit,20,.4\n"},
        "s: {title: S}\n",
        "column n_train: no two models",
    ),
    "empty": ({"s.csv": ""}, "s: {title: S}\n", r"s\.csv cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_set_gets_one_line_with_file_and_remedy(case: str, tmp_path: Path) -> None:
    files, entries, said = BAD[case]
    with pytest.raises(AnalysisError, match=said) as raised:
        atlas_table(folder(tmp_path, files, entries), workers=1)
    assert "\n" not in str(raised.value)


def test_pairs_without_a_common_size_are_named_and_not_drawn(tmp_path: Path) -> None:
    apart = curves({"vit": 0.2}, sizes=(50, 500)).split("\n", 1)[1]
    text = curves({"resnet": 0.1, "deit": 0.2}) + apart
    table = atlas_table(folder(tmp_path, {"s.csv": text}, "s: {title: S}\n"), workers=1)
    assert table["verdict"].tolist() == ["undecided"] * 2
    write_atlas(table, read_sets(tmp_path), tmp_path, tmp_path / "out")
    assert "cannot be compared" in (tmp_path / "out" / "s.md").read_text()
    assert "without an interval; in 1 the models share no size." in (tmp_path / "out" / "atlas.md").read_text()


def test_lines_without_a_crossing_are_merged_and_no_pair_is_lost(published: pd.DataFrame) -> None:
    for _, rows in published.groupby("set"):
        lines = merged(map(line_of, rows.itertuples()))
        assert sum(line.pairs for line in lines) == len(rows)
        assert sum(line.mark is not None for line in lines) == sum(
            (rows["verdict"] == "crossover") | (rows["p_in_range"].isna() & rows["crossing_of_means"].notna())
        )
        assert [line.order for line in lines] == sorted(line.order for line in lines)


def test_the_order_of_models_in_a_file_changes_no_row(tmp_path: Path) -> None:
    name = "xu2026_casting"
    shutil.copy(DATA / f"{name}.csv", tmp_path)
    (tmp_path / SETS).write_text(ENTRY.format(name, "X"))
    table = pd.read_csv(tmp_path / f"{name}.csv")
    first = atlas_table(tmp_path, workers=1)
    table.iloc[np.argsort(table["model"], kind="stable")[::-1]].to_csv(tmp_path / f"{name}.csv", index=False)
    second = atlas_table(tmp_path, workers=1)
    key = ["a", "b"]
    pd.testing.assert_frame_equal(first.sort_values(key, ignore_index=True), second.sort_values(key, ignore_index=True))
