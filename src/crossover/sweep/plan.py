"""Which runs make up a sweep? Composed from conf/ without torch."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from crossover.config import CrossoverError, RunConfig, describe, parse_run

Compose = Callable[[list[str]], dict[str, Any]]
"""From Hydra overrides of conf/train.yaml to its resolved values."""
_PER_RUN = ("n_train", "chain", "seed")


class SweepConfig(BaseModel):
    """A named set of runs: every combination of the axes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.,=+-]+$")
    fixed: dict[str, Any] = {}
    """Overrides that all runs share: config key or group of conf/train.yaml to value."""
    axes: dict[str, list[Any]]
    """Config key or group to its values; a value may be a mapping of several overrides, such as a model with a recipe.
    `seed` follows `chain` unless it is an axis itself."""


def parse_sweep(values: dict[str, Any]) -> SweepConfig:
    """Return a validated sweep; raise CrossoverError naming what is wrong."""
    try:
        sweep = SweepConfig.model_validate(values)
    except ValidationError as error:
        raise CrossoverError(f"bad sweep: {describe(error)}") from None
    empty = [name for name, points in sweep.axes.items() if not points]
    if empty or not sweep.axes:
        raise CrossoverError(f"sweep {sweep.name} has no runs: give values to {', '.join(empty) or 'axes'}")
    return sweep


def named(sweep: SweepConfig, extra: Sequence[str]) -> SweepConfig:
    """Return the sweep under a name that tells the overrides which change its results."""
    changes = [item for item in extra if not item.lstrip("+~").startswith(("machine.", "logger"))]
    name = "+".join([sweep.name, *(re.sub(r"[^A-Za-z0-9_.,=-]", "_", item) for item in changes)])
    return sweep.model_copy(update={"name": name})


def plan_runs(sweep: SweepConfig, compose: Compose, *, extra: Sequence[str] = (), outputs: str) -> list[RunConfig]:
    """Return the runs of a sweep, without repetition, chain by chain; `extra` are overrides on top of all others.

    Whole chains first: all sizes and models of chain 0 are done before chain 1 starts, so that a sweep which is stopped
    early has complete curves.
    Hydra composes once per combination of the axes that are not numbers of the run, as composing takes 50 ms.
    """
    replaced = {item.lstrip("+").split("=", 1)[0] for item in extra}
    taken = sorted(replaced & set(sweep.axes))
    if taken:
        raise CrossoverError(
            f"{', '.join(taken)} is an axis of sweep {sweep.name}; change the axis: ARGS='sweep.axes.{taken[0]}=[...]'"
        )
    composed = [axis for axis in sweep.axes if axis not in _PER_RUN]
    numbers = [axis for axis in sweep.axes if axis in _PER_RUN]
    runs: dict[str, RunConfig] = {}
    for choice in itertools.product(*(sweep.axes[axis] for axis in composed)):
        fixed = {key: value for key, value in sweep.fixed.items() if key not in replaced}
        pairs = dict(fixed)
        for axis, value in zip(composed, choice, strict=True):
            pairs |= value if isinstance(value, dict) else {axis: value}
        values = compose([override(key, value) for key, value in pairs.items()] + list(extra))
        values["logger"] = values["logger"] | {"group": sweep.name}
        values["machine"] = values["machine"] | {"outputs": outputs}
        for point in itertools.product(*(sweep.axes[axis] for axis in numbers)):
            chosen = dict(zip(numbers, point, strict=True))
            if "chain" in chosen:
                chosen = {"seed": chosen["chain"]} | chosen
            run = parse_run(values | chosen)
            runs[run.run_id] = run
    return sorted(runs.values(), key=lambda run: run.chain)


def override(key: str, value: Any) -> str:
    """Return a Hydra override; lists and mappings in Hydra's own grammar."""
    if isinstance(value, dict):
        return f"{key}={{{','.join(override(k, v).replace('=', ':', 1) for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{key}=[{','.join(str(v) for v in value)}]"
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def sweep_dir(outputs: str | Path, name: str) -> Path:
    """Return the folder of a sweep's plan and report."""
    return Path(outputs) / "sweeps" / name
