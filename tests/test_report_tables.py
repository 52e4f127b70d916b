"""Claims about the tables of a report: which stand first, which rows they have, and recipes in words."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from crossover.analysis.runs import read_curves
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.report.section import Section, shown
from crossover.sweep_report import recipe_table
from tests.reported import crossing_records, report_of, sweep
from tests.worlds import VIT, small_run


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
    write_report(ReportInput("published", "report.py curves=curves.csv", curves), tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    numbers = [line.split("|")[2:-1] for line in lines if re.match(r"\| [\d.,]+[kM]? \|", line)]
    assert "class-stratified" not in "".join(lines), "how others trained is not known"
    assert len(numbers) > 5
    assert all(any(cell.strip() != "–" for cell in row) for row in numbers)


def test_many_pairs_begin_with_a_table_of_verdicts_and_data_sets_are_folded(tmp_path: Path) -> None:
    models = ("resnet_tiny", "hybrid_tiny", "vit_tiny")
    of_sets = [crossing_records(models=models) for _ in range(2)]
    for number, records in enumerate(of_sets):
        for one in records:
            one |= {"dataset": f"set{number}", "run_id": f"set{number}-{one['run_id']}"}
    written = report_of(sweep([*of_sets[0], *of_sets[1]]), tmp_path)
    assert len(written.pairs) == 6
    assert written.headline == ["6 pairs of models on 2 data sets: 4 with a crossover, 2 undecided."]
    page = (tmp_path / "report.html").read_text()
    first, second = page.split("<section ")[1:3]
    assert first.startswith('id="verdicts"')
    assert first.count("<tr>") == 1 + 6
    assert all(title in first for title in ("data set", "pair", "verdict", "N* [95% interval]", "limited by budget"))
    assert second.startswith('id="curves"')
    short = "hybrid_tiny overtakes resnet_tiny; vit_tiny overtakes resnet_tiny; undecided (vit_tiny and hybrid_tiny)"
    folded = re.findall(rf"<details>\n?<summary>(set\d): {re.escape(short)}<", second)
    assert folded == ["set0", "set1"]
    assert "<p" not in second.split("<details>")[0]


def test_errors_below_a_percent_are_shown_to_two_digits() -> None:
    errors = [shown(value, "%") for value in (0.123, 0.0123, 0.00149, 0.00052, 3e-7, 0.0)]
    assert errors == ["12.3 %", "1.2 %", "0.15 %", "0.052 %", "3e-05 %", "0.0 %"]
    assert [shown(value, "points") for value in (0.0123, -0.00052, 1e-17)] == ["+1.2", "-0.052", "+0.0"]


def test_models_and_recipes_are_told_in_words(tmp_path: Path) -> None:
    runs = [
        small_run(tmp_path, recipe__lr=0.003),
        small_run(tmp_path, recipe__lr=0.01),
        small_run(tmp_path, model=VIT, recipe={"name": "s", "optimizer": "sgd", "lr": 0.1, "batch_size": 32}),
    ]
    section = Section(name="models", title="Models and recipes", after="missing", tables=(recipe_table(runs),))
    report_of(sweep(crossing_records()), tmp_path, sections=(section,))
    (table,) = section.tables
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
    names = re.findall(r'<section id="(\w+)"', (tmp_path / "report.html").read_text())
    assert names[names.index("missing") :] == ["missing", "models", "methods", "repeat"]
    assert said in (tmp_path / "report.html").read_text()
