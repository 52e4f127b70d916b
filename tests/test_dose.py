from typing import Any

import numpy as np
import pandas as pd
import pytest

from crossover.analysis.crossover import analyse
from crossover.analysis.dose import dose_table
from crossover.report.dose import draw_dose
from scripts.dose import main

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


def test_verdict_and_crossing_are_listed_by_dose() -> None:
    table = dose_table(analyse(runs(), rng=np.random.default_rng(0)), {"d": 0.0, "d-patches": 1.0})
    assert list(table["n_train"]) == 2 * list(SIZES)
    by_dose: Any = table.drop_duplicates("dose").set_index("dose")
    assert list(by_dose["verdict"]) == ["crossover", "b_better"]
    assert by_dose.loc[0.0, "n_star"] == pytest.approx(1000, rel=0.05)
    assert pd.isna(by_dose.loc[1.0, "n_star"])
    assert (table["band_low"] < table["log_error_ratio"]).all()
    figure = draw_dose(table, "share")
    legend: Any = figure.axes[0].get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert [label.split(":")[0] for label in labels] == ["0.0", "1.0"]
    assert "N* = " in labels[0]
    assert "N* = " not in labels[1]


def test_a_sweep_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["no-such-sweep"]) == 2
    assert "no sweep 'no-such-sweep'" in capsys.readouterr().err
