from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from crossover.studies.demo import demonstrate, main, pictures


def test_the_demonstration_shows_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main({"output": str(tmp_path)}, Console())
    assert "equivariance.png" in capsys.readouterr().out
    assert (tmp_path / "equivariance.png").stat().st_size > 20_000
    table = pd.read_csv(tmp_path / "equivariance.csv")
    assert set(table["image"]) == set(pictures()) == {"square", "photograph"}
    kind = table["operation"].str.split(",").str[0]
    assert (table[kind == "convolution"][["error", "error_whole"]] < 1e-12).all(axis=None)
    pooled = table[kind == "the same"]
    assert pooled["error_whole"].max() < 1e-12
    assert pooled["error"].min() > 0.1
    assert table[kind == "ResNet"]["answer"].max() < table[kind == "ViT"]["answer"].max()
    assert table[kind == "ViT"]["error_whole"].min() > 0.1


def test_the_demonstration_repeats() -> None:
    first, again = demonstrate(), demonstrate()
    assert [row.error for row in first] == [row.error for row in again]
