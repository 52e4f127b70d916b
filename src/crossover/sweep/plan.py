"""The runs that make up a sweep, composed from conf/ without torch, and their division into groups of equal cost."""

import functools
import itertools
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import model_validator

from crossover.cli import composed
from crossover.config import CrossoverError, RunConfig, parse_run, validate
from crossover.fields import Frozen, Name
from crossover.record import Record
from crossover.store import file_name, is_done, read_record

_NUMBERS = ("n_train", "chain", "seed")
"""Axes that are numbers of a run, which need no composing."""
Kind = tuple[str, str]
"""Dataset and model."""


class SweepConfig(Frozen):
    """A named set of runs: every combination of the axes."""

    name: Name
    fixed: dict[str, object] = {}
    """Overrides that all runs share: config key or group of conf/train.yaml to value."""
    axes: dict[str, list[object]]
    """Config key or group to its values; a value may be a mapping of several overrides, such as a model with a recipe.
    `seed` follows `chain` unless it is given."""
    saturation: dict[Literal["n_train", "chain"], list[int]] | None = None
    """Sizes and chains whose runs get a twin with half the budget and a complete schedule of its own; an omitted key
    means all. Twins show whether a point is limited by data or by the budget, and are used for nothing else."""

    @model_validator(mode="after")
    def _has_runs(self) -> "SweepConfig":
        empty = [name for name, points in self.axes.items() if not points]
        if empty or not self.axes:
            raise ValueError(f"sweep {self.name} has no runs: give values to {', '.join(empty) or 'axes'}")
        set_by = [{axis}.union(*(p for p in points if isinstance(p, dict))) for axis, points in self.axes.items()]
        counts = Counter(key for keys in (*set_by, set(self.fixed) & set(self.axes)) for key in keys)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise ValueError(f"sweep {self.name} sets {twice[0]} twice, in axes or in fixed; keep one of them")
        return self


def read_preset(name: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Return a sweep of conf/sweep with overrides of its own settings, such as sweep.axes.chain=[0]."""
    return validate(SweepConfig, composed("sweep", [f"sweep={name}", *overrides])["sweep"], "sweep")


def named(sweep: SweepConfig, extra: Sequence[str]) -> SweepConfig:
    """Return the sweep under a name with the overrides that change its results: `quick--data.alpha-0`.

    The name is used for a folder and a W&B group.
    """
    changes = [item for item in extra if not item.lstrip("+~").startswith(("machine.", "logger"))]
    name = "--".join([sweep.name, *(item.replace("=", "-", 1) for item in changes)])
    return sweep.model_copy(update={"name": file_name(name)}) if changes else sweep


def make_command(preset: str, changes: Sequence[str], overrides: Sequence[str]) -> str:
    """Return the make command that plans the same runs again, from SET (`changes`) and ARGS (`overrides`)."""
    own = [item for item in overrides if item.lstrip("+~").startswith(("sweep.", "outputs="))]
    own = [re.sub(r"^outputs='([^\\\\]*)'$", r"outputs=\1", item) for item in own]  # as it was typed
    words = ["make sweep", f"SWEEP={preset}"]
    words += [f"{name}={_shell(shlex.join(items))}" for name, items in (("SET", changes), ("ARGS", own)) if items]
    return " ".join(words)


def _shell(text: str) -> str:
    return shlex.quote(text.replace("$", "$$")) if set(text) & set('"$`\\!') else f'"{text}"'


def plan_runs(sweep: SweepConfig, *, extra: Sequence[str] = (), outputs: str) -> list[RunConfig]:
    """Return the runs of a sweep, without repetition, chain by chain; `extra` are overrides on top of all others.

    Chain 0 is complete before chain 1, for a sweep that is stopped early. Hydra, which must be initialised, composes
    once per combination of axes other than numbers of the run, as that takes 50 ms.
    """
    replaced = {item.lstrip("+").split("=", 1)[0] for item in extra}
    if "machine.outputs" in {*replaced, *sweep.fixed}:
        raise CrossoverError("machine.outputs of a sweep is where the command writes: ARGS=outputs=DIR")
    if taken := sorted(replaced & set(sweep.axes)):
        raise CrossoverError(
            f"{', '.join(taken)} is an axis of sweep {sweep.name}; change the axis: ARGS='sweep.axes.{taken[0]}=[...]'"
        )
    fixed = {key: value for key, value in sweep.fixed.items() if key not in replaced}
    last = (*extra, f"++logger.group='{sweep.name}'", f"machine.outputs={outputs}")
    compose = functools.cache(lambda *overrides: composed("train", overrides))
    axes = sorted(sweep.axes, key=_NUMBERS.__contains__)
    runs: dict[str, RunConfig] = {}
    for values in itertools.product(*(sweep.axes[axis] for axis in axes)):
        pairs, numbers = dict(fixed), dict[str, object]()
        for axis, value in zip(axes, values, strict=True):
            if isinstance(value, dict):
                pairs.update(value)
            else:
                (numbers if axis in _NUMBERS else pairs)[axis] = value
        if "chain" in numbers and "seed" not in replaced | set(pairs):
            numbers.setdefault("seed", numbers["chain"])
        run = parse_run({**compose(*(override(key, value) for key, value in pairs.items()), *last), **numbers})
        if runs.setdefault(run.run_id, run).data != run.data:
            raise CrossoverError(
                f"sweep {sweep.name}: two points have the run id {run.run_id}, and differ in where their images lie;"
                " give each a data.name of its own: {data.root: DIR, data.name: NAME}"
            )
    return with_twins(sorted(runs.values(), key=lambda run: run.chain), sweep)


def with_twins(whole: Sequence[RunConfig], sweep: SweepConfig) -> list[RunConfig]:
    """Return runs and their twins with half the budget, chain by chain."""
    runs = {run.run_id: run for run in whole}
    for run in whole if sweep.saturation is not None else []:
        if all(getattr(run, name) in kept for name, kept in (sweep.saturation or {}).items()):
            twin = run.model_copy(update={"budget": run.budget.halved()})
            runs.setdefault(twin.run_id, twin)
    return sorted(runs.values(), key=lambda run: run.chain)


def override(key: str, value: object) -> str:
    """Return a Hydra override; lists and mappings in Hydra's own grammar."""
    if isinstance(value, dict):
        return f"{key}={{{','.join(override(k, v).replace('=', ':', 1) for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{key}=[{','.join(str(v) for v in value)}]"
    return f"{key}={'null' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def sweep_dir(outputs: str | Path, name: str) -> Path:
    """Return the folder of a sweep's plan and report."""
    return Path(outputs) / "sweeps" / name


def estimate_costs(runs: Sequence[RunConfig], records: Mapping[str, Record]) -> dict[str, float]:
    """Return the cost of each run: seconds where runs of its dataset and model have records (by run id), else its size
    at the mean rate of all records. A run that was resumed spent more on training than its record's last part took.
    """
    sizes = {run.run_id: run.budget.flops or _pixels(run) for run in runs}  # known without building a model
    kinds = {run.run_id: (run.data.name, run.model.name) for run in runs}
    seconds, pixels = defaultdict[Kind, float](float), defaultdict[Kind, float](float)
    for run_id, record in records.items():
        seconds[kinds[run_id]] += max(record["total_seconds"], record["train_seconds"])
        pixels[kinds[run_id]] += sizes[run_id]
    rates = {kind: seconds[kind] / pixels[kind] for kind in pixels}
    usual = fmean(rates.values()) if rates else 1.0
    return {run_id: size * rates.get(kinds[run_id], usual) for run_id, size in sizes.items()}


def _pixels(run: RunConfig) -> float:
    batch_size = run.recipe.batch_size
    return run.budget.total_steps(run.n_train, batch_size, forward_flops=1) * batch_size * run.data.image_size**2


def group_runs(runs: Sequence[RunConfig], left: Sequence[RunConfig], runs_per_group: int) -> list[list[str]]:
    """Return the run ids `left` in groups of about equal cost, the longest first; done `runs` tell what they cost."""
    done = {run.run_id: read_record(run.run_dir / "record.json") for run in runs if is_done(run.run_dir)}
    costs = estimate_costs(runs, done)
    longest_first = sorted((run.run_id for run in left), key=costs.__getitem__, reverse=True)
    count = -(-len(longest_first) // runs_per_group)
    return [longest_first[first::count] for first in range(count)]
