import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from crossover.analysis.runs import Method
from crossover.analysis.verdict import analyse
from crossover.cli import composed, one_line
from crossover.config import CrossoverError, validate
from crossover.sweep.plan import SweepConfig, named, override, plan_runs, read_preset

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture(autouse=True)
def _conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def parsed(values: object) -> SweepConfig:
    return validate(SweepConfig, values, "sweep")


def shipped(name: str) -> SweepConfig:
    return parsed(OmegaConf.to_container(OmegaConf.load(CONF / "sweep" / f"{name}.yaml")))


@pytest.mark.parametrize("group", ["data", "model", "recipe", "augment", "budget", "logger"])
def test_every_shipped_choice_composes_into_a_valid_run(group: str) -> None:
    from crossover.config import parse_run

    for path in sorted((CONF / group).glob("*.yaml")):
        extra = ["data.root=x", "data.name=pets"] if group == "data" and path.stem == "folder" else []
        run = parse_run(composed("train", [f"{group}={path.stem}", *extra]))
        assert path.read_text().startswith(("#", "defaults")), f"{path} does not say what it is for"
        name = {"budget": None, "logger": None}.get(group, getattr(getattr(run, group), "name", None))
        assert name is None or name in (path.stem, "cifar10_jpeg", "pets")


def test_quick_is_18_runs_of_the_published_study_whose_verdict_is_the_same() -> None:
    """N* between 1,000 and 4,000 images, and its whole interval inside the range."""
    ids = {run.run_id for run in plan_runs(shipped("quick"), outputs="o")}
    runs = pd.read_csv(CONF.parent / "results" / "cues" / "runs.csv")
    part = runs[runs["run_id"].isin(ids)]
    assert len(ids) == len(part) == 18
    with np.load(CONF.parent / "results" / "cues" / "predictions.npz") as saved:
        predictions = {run: (saved["labels-cues"], saved[f"predicted-{run}"]) for run in ids}
    ((pair,),) = (study["pairs"] for study in analyse(part, Method(seed=0, predictions=predictions))["studies"])
    assert pair["verdict"] == "crossover"
    assert 1000 < (pair["ci_low"] or 0) < (pair["n_star"] or 0) < (pair["ci_high"] or 1e9) < 4000


def test_in_quick_both_models_share_chains_and_seeds() -> None:
    runs = plan_runs(shipped("quick"), outputs="o")
    by_model: dict[str, set[tuple[int, int, int]]] = {}
    for run in runs:
        by_model.setdefault(run.model.name, set()).add((run.n_train, run.chain, run.seed))
    assert by_model["resnet_tiny"] == by_model["vit_tiny"]
    assert all(chain == seed for points in by_model.values() for _, chain, seed in points)


def test_a_sweep_with_changed_dials_has_its_own_name_and_runs() -> None:
    plain = shipped("quick")
    changed = named(plain, ["data.alpha=0", "machine.device=cpu"])
    assert changed.name == "quick--data.alpha-0"
    runs = plan_runs(changed, extra=["data.alpha=0"], outputs="o")
    assert {run.data.alpha for run in runs} == {0.0}  # type: ignore[union-attr]
    assert not {r.run_id for r in runs} & {r.run_id for r in plan_runs(plain, outputs="o")}


def test_an_ablation_is_an_axis() -> None:
    sweep = parsed({"name": "a", "axes": {"data.alpha": [0, 0.15], "chain": [0, 1], "n_train": [100]}})
    runs = plan_runs(sweep, outputs="o")
    assert [(run.data.alpha, run.chain) for run in runs] == [(0, 0), (0.15, 0), (0, 1), (0.15, 1)]  # type: ignore[union-attr]


def test_a_seed_that_is_given_is_that_of_all_chains() -> None:
    values = {"name": "a", "axes": {"n_train": [100], "chain": [0, 1]}}
    for runs in (
        plan_runs(parsed(values), extra=["seed=5"], outputs="o"),
        plan_runs(parsed(values | {"fixed": {"seed": 5}}), outputs="o"),
    ):
        assert [(run.chain, run.seed) for run in runs] == [(0, 5), (1, 5)]


def test_a_size_may_have_a_budget_of_its_own() -> None:
    sizes = [{"n_train": 100, "budget.steps": 7}, {"n_train": 200, "budget.steps": 9}]
    runs = plan_runs(parsed({"name": "a", "axes": {"n_train": sizes, "chain": [3]}}), outputs="o")
    assert [(run.n_train, run.budget.steps, run.seed) for run in runs] == [(100, 7, 3), (200, 9, 3)]


def test_two_folders_under_one_name_are_refused() -> None:
    axes: dict[str, Any] = {"model": ["resnet_tiny"], "n_train": [20], "data.root": ["a", "b"]}
    sweep = parsed({"name": "s", "fixed": {"data": "folder", "data.name": "pets"}, "axes": axes})
    with pytest.raises(CrossoverError, match=r"have the run id pets-.*give each a data\.name of its own"):
        plan_runs(sweep, outputs="o")
    axes["data.root"] = [{"data.root": root, "data.name": root} for root in ("a", "b")]
    assert len(plan_runs(parsed({"name": "s", "fixed": {"data": "folder"}, "axes": axes}), outputs="o")) == 2


def test_a_published_study_is_planned_with_its_set_and_args() -> None:
    command = """make sweep SWEEP=quick SET="'data.root=/my images' data.alpha=0" ARGS="'sweep.axes.chain=[0]'\""""
    given = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    assert shlex.split(given["SET"]) == ["data.root=/my images", "data.alpha=0"]
    assert read_preset("quick", shlex.split(given["ARGS"])).axes["chain"] == [0]


def test_all_sizes_and_models_of_a_chain_come_before_the_next_chain() -> None:
    axes = {"model": ["resnet_tiny", "vit_tiny"], "n_train": [100, 200], "chain": [1, 0]}
    runs = plan_runs(parsed({"name": "a", "axes": axes}), outputs="o")
    points = [(run.model.name, run.n_train) for run in runs]
    assert [run.chain for run in runs] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert points[:4] == points[4:] == [(m, n) for m in ("resnet_tiny", "vit_tiny") for n in (100, 200)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "axes": {}}, "has no runs"),
        ({"name": "a", "axes": {"n_train": []}}, "give values to n_train"),
        ({"name": "a", "axis": {"n_train": [1]}}, "axis: Extra inputs"),
        ({"name": "a/b", "axes": {"n_train": [1]}}, "name: .*pattern"),
        ({"name": "..", "axes": {"n_train": [1]}}, "name: .*pattern"),
        ({"name": "a", "fixed": {"n_train": 5}, "axes": {"n_train": [1]}}, "sets n_train twice"),
        ({"name": "a", "axes": {"model": [{"model": "x", "n_train": 5}], "n_train": [1]}}, "sets n_train twice"),
    ],
)
def test_bad_sweeps_say_what_is_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossoverError, match=message):
        parsed(values)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet_9000"], "no model named 'resnet_9000'; there is .*resnet_tiny"),
        (["data=mnist"], "no data named 'mnist'; there is .*cues"),
        (["n_trian=5"], "n_trian"),
        (["data.alhpa=5"], "alhpa"),
    ],
)
def test_unknown_choices_and_keys_are_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(HydraException) as caught:
        composed("train", overrides)
    line = one_line(caught.value)
    assert "\n" not in line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("value", "text"),
    [([1, 2], "k=[1,2]"), (None, "k=null"), (True, "k=true"), ({"a": 1, "b": [2]}, "k={a:1,b:[2]}"), (0.5, "k=0.5")],
)
def test_override_speaks_hydras_grammar(value: Any, text: str) -> None:
    assert override("k", value) == text
