from typing import Any

import pytest

from crossover.config import CrossoverError, parse_run
from crossover.fields import BudgetConfig
from tests import worlds

CUES = worlds.CUES | {"n_pool": 1000, "n_test": 100}
FOLDER = {"kind": "folder", "name": "pets", "root": "pets", "image_size": 32, "val_fraction": 0.1}


def values(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "data": CUES,
        "model": {"name": "resnet_tiny", "arch": "basic_resnet", "args": {"widths": [16, 32, 64]}},
        "recipe": {"name": "r", "optimizer": "adamw", "lr": 0.003, "batch_size": 64},
        "augment": {"name": "none"},
        "budget": {"steps": 100},
        "n_train": 100,
        "chain": 0,
        "seed": 0,
    }
    return base | changes


def test_run_id_is_readable_and_fits_wandb() -> None:
    run = parse_run(values(n_train=1000, chain=12, seed=12))
    assert run.run_id.startswith("cues-resnet_tiny-n1000-c12-s12-")
    long = parse_run(values(data=FOLDER | {"name": "x" * 60}, n_train=1_281_167))
    assert len(long.run_id) <= 64


@pytest.mark.parametrize(
    "change",
    [
        {"machine": {"device": "cpu", "threads": 2, "data_dir": "/elsewhere", "outputs": "/there"}},
        {"logger": {"kind": "none"}},
    ],
)
def test_paths_device_and_logging_leave_the_run_id(change: dict[str, Any]) -> None:
    assert parse_run(values(**change)).run_id == parse_run(values()).run_id


def test_folder_of_the_raw_data_leaves_the_run_id() -> None:
    here, there = (parse_run(values(data=FOLDER | {"root": root})) for root in ("pets", "/mnt/pets"))
    assert here.run_id == there.run_id


@pytest.mark.parametrize(
    "change",
    [
        {"n_train": 101},
        {"chain": 1},
        {"seed": 1},
        {"data": CUES | {"alpha": 0.2}},
        {"budget": {"steps": 101}},
        {"augment": {"name": "none", "flip": True}},
        {"model": {"name": "resnet_tiny", "arch": "basic_resnet", "args": {"widths": [16, 32, 65]}}},
        {"recipe": {"name": "r", "optimizer": "adamw", "lr": 0.003, "batch_size": 64, "ema_decay": 0.99}},
        {"precision": "bf16"},
    ],
)
def test_every_field_that_can_change_the_result_changes_the_run_id(change: dict[str, Any]) -> None:
    assert parse_run(values(**change)).identity != parse_run(values()).identity


def test_an_option_at_its_neutral_default_does_not_rename_old_runs() -> None:
    explicit = values(augment={"name": "none", "crop": 0, "flip": False, "mixup": 0.0})
    assert parse_run(explicit).identity == parse_run(values()).identity


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_trian": 5}, "n_trian: Extra inputs"),
        ({"n_train": 0}, "n_train: .*greater than or equal to 1"),
        ({"n_train": 9}, "n_train=9 is below the 10 classes of cues"),
        ({"n_train": 1001}, "n_train=1001 is over the pool of 1000 images of cues"),
        ({"budget": {"steps": 10, "epochs": 2}}, "exactly one of .* got budget.steps=10, budget.epochs=2"),
        ({"budget": {}}, "exactly one of .* got none"),
        ({"data": {"kind": "folder"}}, "data.name: Field required"),
        ({"data": CUES | {"alpha": -1}}, "data.alpha: .*greater than or equal to 0"),
        (
            {"recipe": {"name": "r", "optimizer": "lion", "lr": 1, "batch_size": 8}},
            "recipe.optimizer: .*'adamw' or 'sgd'",
        ),
        ({"model": {"name": "mlp", "arch": "mlp"}}, "model.name=mlp does not begin with its family"),
    ],
)
def test_bad_values_name_the_field_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossoverError, match=message) as caught:
        parse_run(values(**change))
    assert "\n" not in str(caught.value)


def test_configs_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        parse_run(values()).n_train = 5


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 70}, 70),
        ({"epochs": 3}, 5),  # 3 x 100 images in batches of 64, rounded up
        ({"examples": 640}, 10),
        ({"flops": 3e6 * 129}, 3),  # 129 images at three forward passes of a megaFLOP
        ({"steps": 70, "max_epochs": 10}, 16),  # 10 x 100 images in batches of 64, rounded up
        ({"steps": 7, "max_epochs": 10}, 7),
        ({"flops": 3e6 * 1000, "max_epochs": 2}, 4),
        ({"examples": 6400, "max_epochs": 0.1}, 1),
    ],
)
def test_each_budget_gives_its_number_of_steps(budget: dict[str, Any], steps: int) -> None:
    assert BudgetConfig(**budget).total_steps(n_train=100, batch_size=64, forward_flops=1e6) == steps


def test_a_cap_on_epochs_is_named_and_its_absence_leaves_the_identity() -> None:
    plain, capped = (parse_run(values(budget={"steps": 100, "max_epochs": cap})) for cap in (None, 1000))
    assert capped.budget.label == "100 steps, at most 1000 epochs"
    assert capped.identity != plain.identity == parse_run(values()).identity


def test_a_family_is_a_field_that_the_name_may_tell_and_no_part_of_the_identity() -> None:
    tiny = parse_run(values())
    assert tiny.model.family == "resnet"
    told = parse_run(values(model=values()["model"] | {"family": "resnet"}))
    assert told.run_id == tiny.run_id
    named = {"name": "convnext_atto", "arch": "convnext_atto"}
    assert parse_run(values(model=named | {"family": "resnet"})).run_id.startswith("cues-convnext_atto-n100")
    with pytest.raises(
        CrossoverError, match=r"convnext_atto does not begin with its family; give it one: model\.family"
    ):
        parse_run(values(model=named))
    with pytest.raises(CrossoverError, match=r"model\.family"):
        parse_run(values(model=named | {"family": "cnn"}))
