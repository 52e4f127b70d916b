"""The parts of a run's configuration: data, model, recipe, augmentation and budget, each frozen and validated.

Defaults are neutral ("off") and never change: `run_id` hashes only what differs from them, so that a new option does
not rename the runs that were made before it existed.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+,=@-]*$", max_length=100)]
"""A part of the names of folders and files."""
Share = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of 64 bits, as torch and pandas take it."""


class Frozen(BaseModel):
    """A model that is validated when it is read and immutable afterwards."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class PermuteConfig(Frozen):
    """One fixed permutation of all images, applied after augmentation, which hides which pixels are near each other."""

    kind: Literal["none", "patches", "pixels"] = "none"
    """What is permuted: nothing, square patches, or single pixels."""
    patch: int = Field(default=4, ge=1)
    """Side in pixels of the patches that are permuted; it must divide the image."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the patches or pixels that move."""
    seed: Seed = 0
    """Of the permutation."""

    @property
    def suffix(self) -> str:
        """The suffix it adds to the name of a dataset, such as `-patches` or `-pixels0.5`."""
        return "" if self.kind == "none" else f"-{self.kind}{'' if self.share == 1 else f'{self.share:g}'}"


class CuesData(Frozen):
    """The embedded two-cue world: x = noise + alpha * T_y + beta * shift(M_m, u)."""

    kind: Literal["cues"]
    """How the images are made; here, the embedded world."""
    name: Name
    """In tables, and in the names of runs and caches."""
    image_size: int = Field(ge=8)
    """Side in pixels."""
    classes: int = Field(ge=2)
    """Number of classes, equally frequent."""
    alpha: float = Field(ge=0)
    """Amplitude of the global pattern at its fixed position (the noise has standard deviation 1)."""
    beta: float = Field(ge=0)
    """Amplitude of the local motif at a random place."""
    q: float = Field(ge=0, le=1)
    """Probability that the motif is that of the image's class; else it is a uniform one."""
    world_seed: Seed
    """Seed of the patterns and motifs, and of the images where `image_seed` is null."""
    image_seed: Seed | None = None
    """Seed of the images: worlds that differ only in it share patterns and motifs, but no image."""
    n_pool: int = Field(ge=2)
    """Images that chains are drawn from."""
    n_val: int = Field(ge=2)
    """Images for validation, in addition to the pool."""
    n_test: int = Field(ge=2)
    """Images for the test."""
    permute: PermuteConfig = PermuteConfig()


class ImageData(Frozen):
    """Real images: decoded once to `image_size`, with validation held out of train."""

    kind: Name
    """How the raw files are read: the name of a module of `data/readers`."""
    name: Name
    """In tables, and in the names of runs and caches."""
    root: str
    """Folder of the raw data, relative to `machine.data_dir` unless absolute. Not part of the run's identity."""
    image_size: int = Field(ge=8)
    """Side in pixels to which images are resized."""
    val_fraction: float = Field(gt=0, lt=1)
    """Share of the training images held out (stratified, fixed) before any chain is drawn."""
    parts: int | None = Field(default=None, ge=1, le=5)
    """CIFAR-5m only: how many of its five training parts."""
    permute: PermuteConfig = PermuteConfig()


KINDS = ("cues", *sorted(path.stem for path in (Path(__file__).parent / "data" / "readers").glob("[a-z]*.py")))
"""What `data.kind` may be: the embedded world, or a module that reads images."""


def _known_kind(values: Any) -> Any:
    if isinstance(values, dict) and (kind := values.get("kind")) not in KINDS:
        raise ValueError(f"data.kind={kind} has no reader; allowed: {', '.join(KINDS)}")
    return values


def _cues_or_images(values: Any) -> str:
    kind = values.get("kind") if isinstance(values, dict) else getattr(values, "kind", None)
    return "cues" if kind == "cues" else "images"


DataConfig = Annotated[
    Annotated[CuesData, Tag("cues")] | Annotated[ImageData, Tag("images")],
    Discriminator(_cues_or_images),
    BeforeValidator(_known_kind),
]


FAMILIES = ("resnet", "hybrid", "vit")
"""From the strongest inductive bias to the weakest."""


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    json.dumps(values, allow_nan=False)  # else no record could hold them
    return values


class ModelConfig(Frozen):
    """A timm architecture and its settings."""

    name: Name
    """In tables and figures, and in the names of runs."""
    family: Literal["resnet", "hybrid", "vit"] = "resnet"
    """Which assumptions it makes; a CNN of any kind belongs to the family resnet. If it is not given, the start of the
    name decides. It sets which model of a pair is the reference, and colours; it is not part of a run's identity."""
    arch: str
    """`basic_resnet`, `vit` and `hybrid_vit` (of any depth and width), or a timm name."""
    args: Annotated[dict[str, Any], AfterValidator(_as_json)] = {}
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


class RecipeConfig(Frozen):
    """Optimiser, schedule and regularisation of one model family."""

    name: Name
    """In tables."""
    optimizer: Literal["adamw", "sgd"]
    """AdamW, or SGD with Nesterov momentum."""
    lr: float = Field(gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Not applied to biases, norms and position embeddings."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """AdamW: decay of the moving averages."""
    momentum: Share = 0.9
    """SGD, Nesterov."""
    batch_size: int = Field(ge=2)
    """Images per step, over all devices."""
    warmup: Share = 0.0
    """Share of the steps with linear warm-up; a cosine to zero follows."""
    label_smoothing: Share = 0.0
    """Label smoothing: share of the target spread over all classes."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Maximum gradient norm."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Evaluate an exponential moving average of the weights."""
    select: Literal["best_val", "last"] = "best_val"
    """Which weights are tested: those with the best validation error, or the last ones."""


class AugmentConfig(Frozen):
    """What happens to each training image, in this order."""

    name: Name
    """In tables."""
    min_area: float = Field(default=0.0, ge=0, le=1)
    """Random resized crop: the smallest share of the image's area in a crop, usually 0.08; 0 is off."""
    crop: int = Field(default=0, ge=0)
    """Random crop after padding by this many zero pixels on each side."""
    flip: bool = False
    """Horizontal flip with probability one half."""
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    """RandAugment or TrivialAugment, as in torchvision."""
    policy_ops: int = Field(default=2, ge=1)
    """RandAugment: operations per image."""
    policy_magnitude: int = Field(default=9, ge=0, le=30)
    """RandAugment: magnitude in 0..30, as in torchvision."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Random erasing: probability per image."""
    mixup: float = Field(default=0.0, ge=0, le=1000)
    """Alpha of the Beta distribution of mixup; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0, le=1000)
    """Alpha of CutMix; if mixup is on too, each image gets one of the two at random."""

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


class BudgetConfig(Frozen):
    """How long to train: exactly one of steps, epochs, examples or FLOPs, and at most `max_epochs`."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the n_train images."""
    examples: int | None = Field(default=None, ge=1)
    """Images seen, counting repetitions."""
    flops: float | None = Field(default=None, gt=0)
    """Training FLOPs: three times the forward pass of every image seen."""
    max_epochs: float | None = Field(default=None, gt=0)
    """Upper limit on the passes over the n_train images, which keeps small subsets cheap."""
    evaluations: int = Field(default=10, ge=1)
    """Validations in a run, evenly spaced; an interrupted run can continue from each."""

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
