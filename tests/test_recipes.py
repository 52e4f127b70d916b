"""Claims about the search for recipes: the same for every model, judged on validation alone, and its curves."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from crossover.analysis.runs import AnalysisError, read_curves
from crossover.cli import composed
from crossover.config import CrossoverError, parse_run, validate
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.studies.recipes import (
    SearchConfig,
    best_of,
    best_of_k,
    chosen,
    draw_recipes,
    expected_best,
    plan_trials,
    trial_row,
    write_search,
)
from tests.conftest import Called
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]


def shipped() -> Any:
    return composed("recipes", [])["search"]


def parse_search(values: object) -> SearchConfig:
    return validate(SearchConfig, values, "search")


@pytest.fixture(autouse=True)
def _conf() -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def test_every_model_gets_the_same_points_of_the_same_volume() -> None:
    search = parse_search(shipped())
    one, two = (draw_recipes(search, model) for model in search.models)
    assert len(one) == len(two) == search.trials
    shift = np.log([b["lr"] / a["lr"] for a, b in zip(one, two, strict=True)])
    assert np.ptp(shift) < 0.1  # two figures are kept
    assert one == draw_recipes(search, next(iter(search.models)))
    low, high = search.models["vit_tiny"].lr
    assert all(0.99 * low <= drawn["lr"] <= 1.01 * high for drawn in two)


def test_a_wider_search_for_one_model_is_refused() -> None:
    values = shipped()
    values["models"]["vit_tiny"]["lr"] = [1e-4, 1e-1]
    with pytest.raises(CrossoverError, match="same span of lr for every model; got resnet_tiny x16, vit_tiny x1000"):
        parse_search(values)
    values["models"]["vit_tiny"]["lr"] = [1e-2, 1e-3]
    with pytest.raises(CrossoverError, match=r"models\.vit_tiny\.lr=\[0\.01, 0\.001\]: give 0 < lowest"):
        parse_search(values)


def test_trials_of_all_models_differ_in_the_recipe_alone() -> None:
    search = parse_search(shipped())
    planned = plan_trials(search, "outputs")
    assert len({run.run_id for _, run in planned}) == search.trials * len(search.bands) * len(search.models)
    assert {run.budget.label for _, run in planned} == {"640 steps"}
    counts = pd.DataFrame([(run.model.name, run.n_train) for _, run in planned]).value_counts()
    assert set(counts) == {search.trials}


@pytest.mark.parametrize("model", ["resnet", "hybrid", "vit"])
def test_the_recipe_for_cifar_is_the_best_trial_of_its_model_by_validation(model: str) -> None:
    found = pd.read_csv(ROOT / "results" / "recipes" / "cifar10-cpu" / "trials.csv")
    of_model = found[found["model"] == f"{model}_tiny"]
    best = of_model.sort_values("val_error").iloc[0]
    recipe = parse_run(composed("train", [f"recipe=cifar_{model}"])).recipe
    assert (recipe.lr, recipe.weight_decay, recipe.batch_size) == (best.lr, best.weight_decay, best.batch_size)
    search = parse_search(composed("recipes", ["search=cifar10-cpu"])["search"])
    drawn = draw_recipes(search, f"{model}_tiny")
    assert [(row.lr, row.weight_decay) for row in of_model.itertuples()] == [
        (point["lr"], point["weight_decay"]) for point in drawn
    ]


def test_expected_best_is_the_mean_over_all_subsets_of_k_trials() -> None:
    errors = np.array([0.5, 0.2, 0.9, 0.3, 0.3])
    for k, found in enumerate(expected_best(errors), 1):
        assert found == pytest.approx(np.mean([min(part) for part in itertools.combinations(errors, k)]))


def trials() -> pd.DataFrame:
    rows = [
        {"model": model, "n_train": n, "trial": i, "lr": lr, "weight_decay": 0.1, "val_error": abs(i - at) / 10 + 0.1}
        for model, at in (("resnet_a", 1), ("vit_a", 3))
        for n in (100, 1000)
        for i, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3))
    ]
    return pd.DataFrame(rows)


def test_choice_is_the_lowest_validation_error_and_says_when_it_is_at_the_edge() -> None:
    found = chosen(trials()).set_index(["model", "n_train"])
    assert found.loc[("resnet_a", 100), "lr"] == 2e-3
    assert list(found["lr_at_edge"]) == [False, False, True, True]
    curves = best_of_k(trials())
    assert curves.groupby("model")["val_error"].min().to_dict() == pytest.approx({"resnet_a": 0.1, "vit_a": 0.1})
    assert len(best_of(curves).axes) == 2


def test_unequal_numbers_of_trials_are_refused() -> None:
    with pytest.raises(AnalysisError, match=r"as many trials for every model and size; got .*vit_a at 1,000: 3"):
        best_of_k(trials().iloc[:-1])


def test_the_record_of_a_trial_has_no_test_error() -> None:
    record: Any = {"val_error": 0.4, "test_error": 0.1}
    row = trial_row(3, small_run(Path("nowhere")), record)
    assert row["val_error"] == 0.4
    assert 0.1 not in row.values()


def test_published_curves_follow_from_the_published_trials() -> None:
    recorded = pd.read_csv(ROOT / "results" / "recipes" / "cues.csv").query("steps == 800")
    published = pd.read_csv(ROOT / "results" / "recipes" / "cues-800-steps" / "best-of-k.csv")
    pd.testing.assert_frame_equal(best_of_k(recorded), published, rtol=1e-5)


def test_a_search_beside_a_report_is_on_its_page_with_its_file(tmp_path: Path) -> None:
    write_search(trials(), tmp_path)
    rows = [
        {"model": model, "n_train": n, "chain": chain, "error": error + 0.01 * chain}
        for model, error in (("resnet_a", 0.2), ("vit_a", 0.3))
        for n, chain in itertools.product((10, 20), (0, 1))
    ]
    (tmp_path / "curves.csv").write_text(pd.DataFrame(rows).to_csv(index=False))
    curves = read_curves(tmp_path / "curves.csv")
    write_report(ReportInput("searched", "make report", curves), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "How the recipes were searched" in page
    assert "4 trials for every model and size" in page
    assert '</i>vit_a</td><td>100</td><td>0.008</td><td>0.1</td><td>10.0 %</td><td class="words">rate</td>' in page
    assert 'aria-label="Expected lowest validation error over trials. After 4: resnet_a at 100: 10.0 %' in page
    assert 'download="recipes.csv"' in page


def test_the_command_leaves_a_recorded_search_for_the_page_of_a_sweep(tmp_path: Path, call: Called) -> None:
    trials().to_csv(tmp_path / "trials.csv", index=False)
    GlobalHydra.instance().clear()  # the command starts Hydra itself
    command = ["study.py", "recipes", f"trials={tmp_path / 'trials.csv'}", f"outputs={tmp_path}", "page=s"]
    refused = call(*command)
    assert (refused.returncode, refused.stderr) == (
        2,
        f"error: there is no sweep s in {tmp_path}; make sweep makes it\n",
    )
    (tmp_path / "sweeps" / "s").mkdir(parents=True)
    done = call(*command)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sweeps" / "s" / "recipes.csv"), trials())
    assert (tmp_path / "sweeps" / "s" / "figures" / "best-of-k.svg").exists()
