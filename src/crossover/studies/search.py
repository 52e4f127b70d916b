"""Which trials make a fair search for recipes? The same seeded points of the same volume for every model."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossover.config import CrossoverError, RunConfig, describe, parse_run
from crossover.sweep.plan import Compose, override

TRIAL_COLUMNS = [
    *("model", "n_train", "trial", "chain", "lr", "weight_decay", "batch_size", "budget", "val_error", "run_id")
]
"""Of trials.csv; never a test error."""


class Space(BaseModel):
    """What is tried for one model: both on a logarithmic scale."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    lr: tuple[float, float]
    """Lowest and highest peak rate."""
    weight_decay: tuple[float, float]
    set: dict[str, Any] = {}
    """Overrides of this model alone, such as the recipe that the others start from."""


class SearchConfig(BaseModel):
    """A search: `trials` recipes for every model at every size in `bands`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    """Of the points."""
    bands: tuple[int, ...] = Field(min_length=1)
    """n_train of the trials."""
    chain: int = Field(ge=0)
    fixed: dict[str, Any] = {}
    """Overrides that all trials share."""
    models: dict[str, Space] = Field(min_length=1)


def parse_search(values: dict[str, Any]) -> SearchConfig:
    """Return a validated search; raise CrossoverError for what is wrong, and for volumes that differ among models."""
    try:
        search = SearchConfig.model_validate(values)
    except ValidationError as error:
        raise CrossoverError(f"bad search: {describe(error)}") from None
    for name in ("lr", "weight_decay"):
        ratios: dict[str, float] = {}
        for model, space in search.models.items():
            low, high = getattr(space, name)
            if not 0 < low <= high:
                raise CrossoverError(f"models.{model}.{name}=[{low:g}, {high:g}]: give 0 < lowest <= highest")
            ratios[model] = high / low
        if max(ratios.values()) > 1.001 * min(ratios.values()):
            said = ", ".join(f"{model} x{ratio:g}" for model, ratio in ratios.items())
            raise CrossoverError(f"a fair search has the same span of {name} for every model; got {said}")
    return search


def draw_recipes(search: SearchConfig, model: str) -> list[dict[str, float]]:
    """Return rate and decay of every trial: the same points of the unit square for all models, two figures each."""
    space = search.models[model]
    points = np.random.default_rng(search.seed).random((search.trials, 2))
    spans = {"lr": space.lr, "weight_decay": space.weight_decay}
    return [
        {
            name: float(f"{low * (high / low) ** u:.2g}")
            for (name, (low, high)), u in zip(spans.items(), point, strict=True)
        }
        for point in points
    ]


def plan_trials(search: SearchConfig, compose: Compose, outputs: str) -> list[tuple[int, RunConfig]]:
    """Return number and run of every trial."""
    runs = []
    for model, space in search.models.items():
        pairs = {**search.fixed, "model": model, **space.set}
        values = compose([override(key, value) for key, value in pairs.items()])
        shared = {"chain": search.chain, "seed": search.chain, "machine": values["machine"] | {"outputs": outputs}}
        shared |= {"logger": values["logger"] | {"group": f"search-{search.name}"}}
        for trial, drawn in enumerate(draw_recipes(search, model)):
            recipe = values["recipe"] | drawn | {"name": f"{search.name}-trial{trial}"}
            runs += [(trial, parse_run(values | shared | {"recipe": recipe, "n_train": n})) for n in search.bands]
    return runs


def trial_row(trial: int, run: RunConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of trials.csv."""
    facts = {"model": run.model.name, "n_train": run.n_train, "trial": trial, "chain": run.chain, "run_id": run.run_id}
    recipe = {"lr": run.recipe.lr, "weight_decay": run.recipe.weight_decay, "batch_size": run.recipe.batch_size}
    val_error = record["val_error"]
    if not math.isfinite(val_error):
        raise CrossoverError(f"{run.run_id} has no validation error; delete {run.run_dir} and repeat the search")
    return facts | recipe | {"budget": run.budget.label, "val_error": val_error}
