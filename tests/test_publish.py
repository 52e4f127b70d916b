from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.report.publish import BEGIN, END, publish, readme_with, study_block

ROOT = Path(__file__).parents[1]


def test_readme_shows_the_numbers_of_the_published_study() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme == readme_with(readme, study_block(ROOT / "results" / "cues"))


def test_an_unfinished_report_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match=r"has no report\.html.*make report first"):
        publish(tmp_path, tmp_path / "results")


def test_readme_without_markers_is_refused() -> None:
    with pytest.raises(CrossoverError, match="lost its markers"):
        readme_with("# Crossover", "x")
    assert readme_with(f"a\n{BEGIN}old\n{END}b", "new\n") == f"a\n{BEGIN}new\n{END}b"
