"""What defines one run? Typed, frozen and validated; its hash is the run's identity.

Defaults in the classes are neutral ("off") and never change: `run_id` hashes only what differs from them, so that a
new option does not rename the runs that were made before it existed.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

RECORD_SCHEMA = 1
"""Version of record.json; a reader refuses others."""


class CrossoverError(Exception):
    """A user's mistake or a failing machine: one line with what was given, what is allowed and what to do."""


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+,=@-]*$")]
"""A part of the names of folders and files."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class PermuteConfig(_Frozen):
    """One fixed permutation of all images, after augmentation: what a network cannot know is that pixels are near."""

    kind: Literal["none", "patches", "pixels"] = "none"
    patch: int = Field(default=4, ge=1)
    """Side in pixels of the patches that are permuted; it must divide the image."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the patches or pixels that move."""
    seed: int = Field(default=0, ge=0)

    @property
    def suffix(self) -> str:
        """What it adds to the name of a dataset, such as `-patches` or `-pixels0.5`."""
        return "" if self.kind == "none" else f"-{self.kind}{'' if self.share == 1 else f'{self.share:g}'}"


class CuesData(_Frozen):
    """The embedded two-cue world: x = noise + alpha * T_y + beta * shift(M_m, u)."""

    kind: Literal["cues"]
    name: Name
    image_size: int = Field(ge=8)
    classes: int = Field(ge=2)
    alpha: float = Field(ge=0)
    """Amplitude of the global, position-bound pattern (the noise has standard deviation 1)."""
    beta: float = Field(ge=0)
    """Amplitude of the local motif at a random place."""
    q: float = Field(ge=0, le=1)
    """Probability that the motif is that of the image's class; else it is a uniform one."""
    world_seed: int = Field(ge=0)
    image_seed: int | None = Field(default=None, ge=0)
    """Seed of the images: worlds that differ in it alone share patterns and motifs, but no image."""
    n_pool: int = Field(ge=2)
    """Images that chains are drawn from."""
    n_val: int = Field(ge=2)
    n_test: int = Field(ge=2)
    permute: PermuteConfig = PermuteConfig()


class ImageData(_Frozen):
    """Real images: decoded once to `image_size`, with validation held out of train."""

    kind: Literal["cifar10", "cifar5m", "folder", "tiny_imagenet"]
    name: Name
    root: str
    """Folder of the raw data, relative to `machine.data_dir` unless absolute. Not part of the run's identity."""
    image_size: int = Field(ge=8)
    val_fraction: float = Field(gt=0, lt=1)
    """Share of the training images held out (stratified, fixed) before any chain is drawn."""
    parts: int | None = Field(default=None, ge=1, le=5)
    """CIFAR-5m alone: how many of its five training parts."""
    permute: PermuteConfig = PermuteConfig()


DataConfig = Annotated[CuesData | ImageData, Field(discriminator="kind")]


FAMILIES = ("resnet", "hybrid", "vit")
"""From the strongest inductive bias to the weakest."""


class ModelConfig(_Frozen):
    """A timm architecture and what we set in it."""

    name: Name
    family: Literal["resnet", "hybrid", "vit"] = "resnet"
    """Which assumptions it makes; a CNN of any kind is of the family resnet. The beginning of the name tells where it
    is not given. It says who is compared with whom, not what a run computes, and is no part of the run's identity."""
    arch: str
    """`basic_resnet` (small ResNet of any depth and width), `vit` (Vision Transformer of any size), or a timm name."""
    args: dict[str, Any] = {}
    """Keyword arguments of the architecture."""
    patch_size: int | None = None
    """ViT and hybrid; null: 4 up to 47 px, 8 up to 127 px, 16 above."""
    position: Literal["learned", "sinusoidal", "none"] = "learned"
    """ViT and hybrid: position embedding."""
    position_std: float = Field(default=0.02, gt=0)
    """Standard deviation of a learned position embedding at initialisation."""
    pool: Literal["avg", "token"] = "avg"
    """ViT and hybrid: mean pooling of patch tokens, or a class token."""

    @model_validator(mode="before")
    @classmethod
    def _family_of_the_name(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("family") is not None:
            return values
        name = str(values.get("name"))
        family = next((known for known in FAMILIES if name.startswith(known)), None)
        if family is None:
            raise ValueError(
                f"model.name={name} does not begin with its family; give it one: model.family={'|'.join(FAMILIES)}"
            )
        return values | {"family": family}


class RecipeConfig(_Frozen):
    """Optimiser, schedule and regularisation of one model family."""

    name: Name
    optimizer: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Not applied to biases, norms and position embeddings."""
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """SGD, Nesterov."""
    batch_size: int = Field(ge=2)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps with linear warm-up; a cosine to zero follows."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Evaluate an exponential moving average of the weights."""
    select: Literal["best_val", "last"] = "best_val"
    """Which weights are tested: those of the best validation error, or the last."""


class AugmentConfig(_Frozen):
    """What happens to each training image, in this order."""

    name: Name
    min_area: float = Field(default=0.0, ge=0, le=1)
    """Random resized crop: the least share of the image's area that a crop has, usually 0.08; 0 is off."""
    crop: int = Field(default=0, ge=0)
    """Random crop after padding by this many zero pixels on each side."""
    flip: bool = False
    """Horizontal flip with probability one half."""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    policy_ops: int = Field(default=2, ge=1)
    """RandAugment: operations per image."""
    policy_magnitude: int = Field(default=9, ge=0, le=30)
    """RandAugment: magnitude in 0..30, as in torchvision."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Random erasing: probability per image."""
    mixup: float = Field(default=0.0, ge=0)
    """Alpha of the Beta distribution of mixup; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0)
    """Alpha of CutMix; with mixup on too, each image gets one of the two at random."""

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


class BudgetConfig(_Frozen):
    """How long to train: exactly one of steps, epochs, examples or FLOPs, and at most `max_epochs`."""

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the n_train images."""
    examples: int | None = Field(default=None, ge=1)
    """Images seen, with repetition."""
    flops: float | None = Field(default=None, gt=0)
    """Training FLOPs: three times the forward pass of every image seen."""
    max_epochs: float | None = Field(default=None, gt=0)
    """Passes over the n_train images at which training ends in any case: what keeps small subsets cheap."""
    evaluations: int = Field(default=10, ge=1)
    """Validations in a run, evenly spaced; each is a point to continue from."""

    @model_validator(mode="after")
    def _one_duration(self) -> "BudgetConfig":
        given = {k: v for k in ("steps", "epochs", "examples", "flops") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            got = ", ".join(f"budget.{k}={v:g}" for k, v in given.items()) or "none"
            raise ValueError(
                f"give exactly one of budget.steps, epochs, examples, flops; got {got} (set the others to null)"
            )
        return self

    @property
    def label(self) -> str:
        """Such as `800 steps`, or `8800 steps, at most 1000 epochs`."""
        unit = next(k for k in ("steps", "epochs", "examples", "flops") if getattr(self, k) is not None)
        limit = "" if self.max_epochs is None else f", at most {self.max_epochs:g} epochs"
        return f"{getattr(self, unit):g} {unit}{limit}"

    def halved(self) -> "BudgetConfig":
        """Return half the budget: half of what is given, whole steps and examples rounded up."""
        given = self.model_dump(include={"steps", "epochs", "examples", "flops", "max_epochs"}, exclude_none=True)
        halves = {name: -(-value // 2) if isinstance(value, int) else value / 2 for name, value in given.items()}
        return self.model_copy(update=halves)

    def total_steps(self, n_train: int, batch_size: int, forward_flops: float) -> int:
        """Return optimiser steps, rounded up; `forward_flops` is of one image."""
        if self.steps is not None:
            steps = float(self.steps)
        elif self.flops is not None:
            steps = self.flops / (3 * forward_flops) / batch_size
        else:
            steps = (self.examples or (self.epochs or 0) * n_train) / batch_size
        if self.max_epochs is not None:
            steps = min(steps, self.max_epochs * n_train / batch_size)
        return max(1, math.ceil(steps))


class LoggerConfig(_Frozen):
    """Where the history of a run goes besides its record."""

    kind: Literal["wandb", "wandb_offline", "csv", "tensorboard", "none"] = "wandb_offline"
    project: str = "crossover"
    entity: str | None = None
    group: str | None = None
    """W&B group: the sweep."""


class MachineConfig(_Frozen):
    """Where a run runs: nothing here can change its result beyond floating-point noise."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1)
    """CPU threads of one run; a sweep runs several side by side."""
    data_dir: str = "data"
    """Raw data and caches."""
    outputs: str = "outputs"
    resident_gb: float | None = Field(default=None, ge=0)
    """A set of images up to this size (and a quarter of the free memory) is kept in device memory; larger sets stream
    from the memory map. null: 4 on a CPU, and on a GPU the quarter alone."""
    engine: Literal["auto", "eager", "compile", "graph"] = "auto"
    """How a step runs: as it is; through TorchInductor; or, on CUDA, as one CUDA graph (compile does that too). auto:
    eager."""


class TrainerConfig(_Frozen):
    """How many devices train one run together (DDP). Part of the run's identity: dropout draws and sums differ."""

    devices: int = Field(default=1, ge=1)
    """On each node. The batch of the recipe is split among all devices."""
    num_nodes: int = Field(default=1, ge=1)
    """Above 1 the run must be started by srun, one task per device."""


class RunConfig(_Frozen):
    """One training: dataset, model, recipe, augmentation, budget, n_train, chain, seed."""

    data: DataConfig
    model: ModelConfig
    recipe: RecipeConfig
    augment: AugmentConfig
    budget: BudgetConfig
    n_train: int = Field(ge=1)
    """Number of distinct training images."""
    chain: int = Field(ge=0)
    """Which of the independent nested orders of the pool."""
    seed: int = Field(ge=0)
    """Initial weights, batch order and augmentation; never the subset."""
    init_from: str | None = Field(default=None, min_length=1)
    """Trained weights to start from, with a new classifier: a run id, a run's folder, a file, or timm:<tag>. The run's
    identity has this text, its record (`init_hash`) what was loaded."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on CUDA, fp32 on CPU."""
    trainer: TrainerConfig = TrainerConfig()
    logger: LoggerConfig = LoggerConfig()
    machine: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _enough_images(self) -> "RunConfig":
        if isinstance(self.data, CuesData):
            if self.n_train < self.data.classes:
                raise ValueError(f"n_train={self.n_train} is below the {self.data.classes} classes of {self.data.name}")
            if self.n_train > self.data.n_pool:
                raise ValueError(
                    f"n_train={self.n_train} is over the pool of {self.data.n_pool} images of {self.data.name}"
                    " (raise data.n_pool, or ask for fewer)"
                )
        return self

    @model_validator(mode="after")
    def _shared_batch(self) -> "RunConfig":
        count = self.trainer.devices * self.trainer.num_nodes
        if self.recipe.batch_size % count:
            raise ValueError(
                f"recipe.batch_size={self.recipe.batch_size} cannot be split among {count} devices; make it a multiple"
            )
        if count > 1 and self.machine.engine == "graph":
            raise ValueError(f"machine.engine=graph is for one device, not {count}; use eager")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> "RunConfig":
        permute = self.data.permute
        if permute.kind == "patches" and self.data.image_size % permute.patch:
            raise ValueError(
                f"data.permute.patch={permute.patch} does not divide data.image_size={self.data.image_size}; give one"
                " that does"
            )
        return self

    @property
    def dataset(self) -> str:
        """The name of the dataset in tables: permuted images are another one."""
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


def parse_run(values: dict[str, Any]) -> RunConfig:
    """Return the validated run of a plain dict; raise CrossoverError naming each wrong field and what is allowed."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise CrossoverError(f"bad configuration: {describe(error)}") from None


_KINDS = ("cues", *get_args(ImageData.model_fields["kind"].annotation))
"""Pydantic has the kind of the data in the place of an error."""


def describe(error: ValidationError) -> str:
    """Return a pydantic error as one line: where, what was given, what is allowed."""
    parts = []
    for item in error.errors():
        where = ".".join(str(p) for p in item["loc"] if p not in _KINDS)
        message = item["msg"].removeprefix("Value error, ")
        given = "" if item["type"] in ("value_error", "missing") else f" (got {str(item['input'])[:60]!r})"
        parts.append(f"{where}: {message}{given}" if where else message)
    return "; ".join(parts)
