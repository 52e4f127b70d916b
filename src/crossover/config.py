"""The configuration of one run, typed, frozen and validated; its hash is the run's identity."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from crossover.fields import AugmentConfig, BudgetConfig, CuesData, DataConfig, Frozen, ModelConfig, RecipeConfig, Seed

Model = TypeVar("Model", bound=BaseModel)


class CrossoverError(Exception):
    """A user's mistake or a failing machine: one line with what was given, what is allowed and what to do."""


class LoggerConfig(Frozen):
    """Where the history of a run is logged, besides its record."""

    kind: Literal["wandb", "wandb_offline", "csv", "tensorboard", "none"] = "wandb_offline"
    """W&B online or offline, metrics.csv, TensorBoard's events, or nothing."""
    project: str = "crossover"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the user who is logged in."""
    group: str | None = None
    """W&B group: the sweep."""


class MachineConfig(Frozen):
    """The machine of a run: nothing here can change its result beyond floating-point noise."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    threads: int = Field(default=1, ge=1)
    """CPU threads of one run; a sweep trains several runs in parallel."""
    data_dir: str = "data"
    """Raw data and caches."""
    outputs: str = "outputs"
    """Folder of runs, sweeps and reports."""
    resident_gb: float | None = Field(default=None, ge=0)
    """A set of images that is larger than this, or than a quarter of the free memory, is read from the disk batch by
    batch. null: 4 on a CPU; on a GPU only the quarter counts."""
    engine: Literal["auto", "eager", "compile", "graph"] = "auto"
    """How a step runs: as it is (auto), through TorchInductor, or on CUDA as one CUDA graph (compile does that too)."""


class TrainerConfig(Frozen):
    """How many devices train one run together (DDP). Part of the run's identity: dropout draws and sums differ."""

    devices: int = Field(default=1, ge=1)
    """On each node. The batch of the recipe is split among all devices."""
    num_nodes: int = Field(default=1, ge=1)
    """Above 1 the run must be started by srun, one task per device."""


class RunConfig(Frozen):
    """One training: dataset, model, recipe, augmentation, budget, n_train, chain, seed."""

    data: DataConfig
    model: ModelConfig
    recipe: RecipeConfig
    augment: AugmentConfig
    budget: BudgetConfig
    n_train: int = Field(ge=1)
    """Number of distinct training images."""
    chain: Seed
    """Index of the nested order of the pool; orders are independent."""
    seed: Seed
    """Initial weights, batch order and augmentation; never the subset."""
    init_from: str | None = Field(default=None, min_length=1)
    """Trained weights to start from, with a new classifier: a run id, a run's folder, a file, or timm:<tag>; part of
    the run's identity. Other weights under the same name are refused."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 on CPU."""
    trainer: TrainerConfig = TrainerConfig()
    logger: LoggerConfig = LoggerConfig()
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _is_possible(self) -> "RunConfig":
        data, count = self.data, self.trainer.devices * self.trainer.num_nodes
        if isinstance(data, CuesData) and self.n_train < data.classes:
            raise ValueError(f"n_train={self.n_train} is below the {data.classes} classes of {data.name}")
        if isinstance(data, CuesData) and self.n_train > data.n_pool:
            raise ValueError(
                f"n_train={self.n_train} is over the pool of {data.n_pool} images of {data.name} (raise data.n_pool, or"
                " ask for fewer)"
            )
        if self.recipe.batch_size % count:
            raise ValueError(
                f"recipe.batch_size={self.recipe.batch_size} cannot be split among {count} devices; make it a multiple"
            )
        if count > 1 and self.machine.engine == "graph":
            raise ValueError(f"machine.engine=graph is for one device, not {count}; use eager")
        if data.permute.kind == "patches" and data.image_size % data.permute.patch:
            raise ValueError(f"data.permute.patch={data.permute.patch} must divide data.image_size={data.image_size}")
        return self

    @property
    def dataset(self) -> str:
        """The name of the dataset in tables; permuted images count as another dataset."""
        return f"{self.data.name}{self.data.permute.suffix}"

    @property
    def run_id(self) -> str:
        """Readable name + hash of every field that can change the result; at most 64 characters (a W&B limit)."""
        name = f"{self.dataset[:18]}-{self.model.name[:20]}-n{self.n_train}-c{self.chain}-s{self.seed}"
        return f"{name}-{self.identity[:8]}"

    @property
    def identity(self) -> str:
        """Return the SHA-256 of what can change the result."""
        hidden: Any = {"machine": True, "logger": True, "data": {"root"}, "model": {"family"}}
        fields = self.model_dump(mode="json", exclude=hidden, exclude_defaults=True)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def run_dir(self) -> Path:
        return Path(self.machine.outputs) / "runs" / self.run_id


def parse_run(values: Mapping[str, object]) -> RunConfig:
    """Return the validated run of a plain dict; raise CrossoverError naming each wrong field and what is allowed."""
    return validate(RunConfig, values, "configuration")


def validate(model: type[Model], values: object, what: str) -> Model:
    """Return plain values as a model; raise CrossoverError, one line that names each wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise CrossoverError(f"bad {what}: {describe(error)}") from None


_KINDS = ("cues", "images", "local", "slurm")
"""Pydantic has the kind of data, or of a launcher, in the place of an error."""


def describe(error: ValidationError) -> str:
    """Return a pydantic error as one line: where, what was given, what is allowed."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"] if p not in _KINDS)
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("value_error", "missing") else f" (got {str(item['input'])[:60]!r})"
        parts.append(f"{where}: {message}{given}" if where else message)
    return "; ".join(parts)
