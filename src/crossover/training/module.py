"""The Lightning module of a run: several optimiser steps per Lightning batch, and the best validation kept."""

import copy
import itertools
import math
import sys
import time
from typing import Any, TypedDict

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from crossover.config import CrossoverError
from crossover.data.loader import Batch, TrainBatches, step_seed
from crossover.fields import RecipeConfig
from crossover.record import HistoryRow, history_row
from crossover.text import Clock
from crossover.training.step import Engine, Function, Update, metric_sums, with_engine

Chunk = tuple[int, list[Batch]]
"""The first step and the raw batches of several consecutive ones."""


class Best(TypedDict):
    """The validation that selected the weights to be tested."""

    val_error: float
    step: int
    weights: dict[str, Tensor]


class Leg(TypedDict):
    """What a run that stopped between two validations carries over."""

    first: int
    sums: list[float]
    seconds: float


_RESUMED = ("step", "history", "best", "train_seconds")


class Classifier(pl.LightningModule):
    """A network and its recipe. A Lightning batch is a chunk: the raw batches of several consecutive steps.

    Metrics are summed on the device and read once per validation, as reading stalls the device.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: RecipeConfig,
        batches: TrainBatches,
        *,
        total_steps: int,
        bf16: bool = False,
        engine: Engine = "eager",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.recipe, self.batches = network, recipe, batches
        self.total_steps, self.bf16, self.engine = total_steps, bf16, engine
        self.average = None if recipe.ema_decay is None else copy.deepcopy(network).requires_grad_(False)
        self.step = 0
        self.history: list[HistoryRow] = []
        self.best: Best = {"val_error": math.inf, "step": 0, "weights": {}}
        self.train_seconds = 0.0
        self._train = self._validation = torch.zeros(3)
        self._leg = (0, 0.0)
        self._trained = (math.nan, math.nan, math.nan)
        """Loss, error and images per second since the last validation."""
        self._carried: Leg | None = None
        self._advance: Function
        self._optimizer: torch.optim.Optimizer
        self._global: torch.Generator
        self._clock: Clock

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and tested: the moving average where the recipe asks for one."""
        return self.network if self.average is None else self.average

    @property
    def _captures(self) -> bool:
        return self.engine != "eager" and self.batches.images.device.type == "cuda"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.network, self.recipe, capturable=self._captures)

    def on_train_start(self) -> None:
        self._train = torch.zeros(3, device=self.device, dtype=torch.float64)
        self._validation = torch.zeros_like(self._train)
        self._optimizer = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        self._global = global_generator(self.device)
        self._clock = Clock("step", self.total_steps, begun=self.step, to=sys.stdout)
        # a graph reads the rate from its place at capture; a checkpoint may come from a run with another engine
        rate = torch.zeros((), device=self.device) if self._captures else self.recipe.lr
        for group in self._optimizer.param_groups:
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = self._captures
        update = Update(
            self.network, self._optimizer, self.recipe, self._train, bf16=self.bf16, backward=self.manual_backward
        )
        self._advance = with_engine(update, self.batches, self.engine, self.device)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # already there

    def on_train_epoch_start(self) -> None:
        self._leg = (self.step, time.perf_counter())
        if self._carried is not None:  # stopped between two validations: the stretch continues
            self._leg = (self._carried["first"], time.perf_counter() - self._carried["seconds"])
            if self.trainer.is_global_zero:  # the sums are those of all processes
                self._train += torch.tensor(self._carried["sums"], device=self.device, dtype=torch.float64)
            self._carried = None

    def training_step(self, chunk: Chunk) -> None:
        first, batches = chunk
        if first != self.step:
            raise RuntimeError(f"batches of step {first} at step {self.step}")
        for images, labels in batches:
            self._set_rate(self.recipe.lr * learning_rate_factor(self.recipe, self.step, self.total_steps))
            # all draws follow from the step, so that a resumed run repeats them; dropout uses the global generator
            self.batches.seed_step(self.step)
            self._global.manual_seed(step_seed(self.batches.seed, self.step) ^ 1)
            self._advance(images, labels)
            if self.average is not None:
                _follow(self.average, self.network, 0.0 if self.step == 0 else self.recipe.ema_decay or 0.0)
            self.step += 1

    def _set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_global_zero:
            self._clock.tell(self.step)

    def on_validation_epoch_start(self) -> None:
        first, started = self._leg
        loss, error = _means(self._over_ranks(self._train))  # reading waits for the device: the stretch ends here
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        self._leg = (self.step, time.perf_counter())
        self._train.zero_()
        self._validation.zero_()
        self._trained = (loss, error, (self.step - first) * self.recipe.batch_size / seconds)

    def _over_ranks(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def validation_step(self, batch: Batch) -> None:
        x, labels = batch
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.evaluated(x)
        self._validation += metric_sums(F.cross_entropy(logits.float(), labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        loss, error = _means(self._over_ranks(self._validation))
        train_loss, train_error, images_per_second = self._trained
        row: HistoryRow = {
            "step": self.step,
            "images_seen": self.step * self.recipe.batch_size,
            "lr": self.recipe.lr * learning_rate_factor(self.recipe, self.step, self.total_steps),
            "train_loss": train_loss,
            "train_error": train_error,
            "images_per_second": images_per_second,
            "val_loss": loss,
            "val_error": error,
        }
        self.history.append(row)
        if not (math.isfinite(row["train_loss"]) and math.isfinite(loss)):
            raise CrossoverError(
                f"training diverged: loss {row['train_loss']:g} (training), {loss:g} (validation) at step {self.step}"
                f" of {self.total_steps}; lower recipe.lr={self.recipe.lr:g} or set recipe.grad_clip"
            )
        if self.recipe.select == "last" or error < self.best["val_error"]:
            weights = {k: v.detach().clone() for k, v in self.evaluated.state_dict().items()}
            self.best = {"val_error": error, "step": self.step, "weights": weights}
        for logger in self.loggers:
            logger.log_metrics(history_row(row), step=self.step)
        if self.trainer.is_global_zero:
            self._clock.tell(self.step, f", loss {train_loss:.3f}, validation error {error:.3f}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["crossover"] = {name: getattr(self, name) for name in _RESUMED}
        first, started = self._leg
        if first != self.step:
            sums = self._over_ranks(self._train.clone()).tolist()
            state["leg"] = Leg(first=first, sums=sums, seconds=time.perf_counter() - started)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in _RESUMED:
            setattr(self, name, checkpoint["crossover"][name])
        self._carried = checkpoint["crossover"].get("leg")

    def load_best(self) -> None:
        """Put the selected weights into the evaluated network."""
        self.evaluated.load_state_dict(self.best["weights"])


def make_optimizer(
    network: nn.Module, recipe: RecipeConfig, *, fused: bool | None = True, capturable: bool = False
) -> torch.optim.Optimizer:
    groups = weight_decay_groups(network, recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused, capturable=capturable)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=fused)


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return optimiser groups of the trained parameters: biases, norms, position and class tokens without decay."""
    spared = model.no_weight_decay() if isinstance(model, VisionTransformer) else ()
    groups: list[dict[str, Any]] = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    return groups


def learning_rate_factor(recipe: RecipeConfig, step: int, total_steps: int) -> float:
    """Return the share of the peak rate at `step`: linear warm-up, then a cosine that ends at zero."""
    warmup = max(1, round(recipe.warmup * total_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network, as torch's AveragedModel, which however reads from the device each time."""
    both = (itertools.chain(module.parameters(), module.buffers()) for module in (average, network))
    pairs = list(zip(*both, strict=True))
    means, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    torch._foreach_lerp_(means, values, 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():  # a count of batches
            mean.copy_(value)


def global_generator(device: torch.device) -> torch.Generator:
    """Return the generator from which layers such as dropout draw on `device`.

    `torch.manual_seed` seeds it too, but takes 0.3 ms for CUDA devices that are not there: 2 % of a small step.
    """
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator


def _means(sums: Tensor) -> tuple[float, float]:
    loss, errors, count = sums.tolist()
    return loss / max(count, 1), errors / max(count, 1)


def label_smoothing_floor(smoothing: float, classes: int) -> float:
    """Return the lowest cross-entropy (nats) that a smoothed target allows: the entropy of that target."""
    if smoothing == 0:
        return 0.0
    rest = smoothing / classes
    top = 1 - smoothing + rest
    return -(top * math.log(top) + (classes - 1) * rest * math.log(rest))
