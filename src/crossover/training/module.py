"""The Lightning module of a run: several optimiser steps per Lightning batch, and the best validation kept."""

import copy
import itertools
import math
import sys
import time
from collections.abc import Iterable
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
from crossover.training.step import Engine, metric_sums, with_engine

Chunk = Iterable[Batch]
"""The raw batches of several consecutive steps."""


class Best(TypedDict):
    """The validation that selected the weights to be tested."""

    val_error: float
    step: int
    weights: dict[str, Tensor]


class Leg(TypedDict):
    """The part that is done of the steps between two validations: its first step, summed metrics and duration."""

    first: int
    sums: list[float]
    seconds: float


State = dict[str, Any]
"""Entries of a checkpoint."""
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
        self._captures = engine != "eager" and batches.images.device.type == "cuda"
        self.average = None if recipe.ema_decay is None else copy.deepcopy(network).requires_grad_(False)
        self.step, self.train_seconds = 0, 0.0
        self.history: list[HistoryRow] = []
        self.best: Best = {"val_error": math.inf, "step": 0, "weights": {}}
        self._leg: Leg = {"first": 0, "sums": [0.0] * 3, "seconds": 0.0}
        self._resumed: State | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and tested: the moving average where the recipe asks for one."""
        return self.network if self.average is None else self.average

    @property
    def _rate(self) -> float:
        return self.recipe.lr * learning_rate_factor(self.recipe, self.step, self.total_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimizer = make_optimizer(self.network, self.recipe, capturable=self._captures)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self._resumed is not None:
            self.optimizer.load_state_dict(self._resumed)
        return self.optimizer

    def on_train_start(self) -> None:
        done = self._leg["sums"] if self.trainer.is_global_zero else [0.0] * 3  # of all processes
        self._train = torch.tensor(done, device=self.device, dtype=torch.float64)
        self._validation = torch.zeros_like(self._train)
        cuda = self.device.type == "cuda"  # torch.manual_seed takes 0.3 ms for devices that are not there
        self._global = torch.cuda.default_generators[self.device.index] if cuda else torch.default_generator
        self._clock = Clock("step", self.total_steps, begun=self.step, to=sys.stdout)
        # a graph reads the rate from its place at capture; a checkpoint may come from a run with another engine
        rate = torch.zeros((), device=self.device) if self._captures else self.recipe.lr
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = self._captures
        self._advance = with_engine(self.update, self.network, self.batches, self.engine)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # already there

    def on_train_epoch_start(self) -> None:
        self._started = time.perf_counter() - self._leg["seconds"]

    def training_step(self, chunk: Chunk) -> None:
        for images, labels in chunk:
            rate = self._rate
            for group in self.optimizer.param_groups:
                if self._captures:
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            # all draws follow from the step, so that a resumed run repeats them; dropout uses the global generator
            self.batches.seed_step(self.step)
            self._global.manual_seed(step_seed(self.batches.seed, self.step) ^ 1)
            self._advance(images, labels)
            if self.average is not None:
                _follow(self.average, self.network, 0.0 if self.step == 0 else self.recipe.ema_decay or 0.0)
            self.step += 1

    def update(self, network: nn.Module, x: Tensor, target: Tensor) -> None:
        """Take an optimiser step on one batch; its metrics are added to the sums, and nothing is read back."""
        # a context per step: autocast keeps its bf16 copies of the weights until it is left
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        self.manual_backward(loss)
        if self.recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self.recipe.grad_clip)
        self.optimizer.step()
        self._train.add_(metric_sums(loss.detach(), logits.detach(), target))

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_global_zero:
            self._clock.tell(self.step)

    def on_validation_epoch_start(self) -> None:
        loss, error = self._means(self._train)  # reading waits for the device: the stretch ends here
        seconds, images = time.perf_counter() - self._started, self.recipe.batch_size
        self.train_seconds += seconds
        self._row: HistoryRow = {
            "step": self.step,
            "images_seen": self.step * images,
            "lr": self._rate,
            "train_loss": loss,
            "train_error": error,
            "images_per_second": (self.step - self._leg["first"]) * images / seconds,
            "val_loss": math.nan,
            "val_error": math.nan,
        }
        self._leg = {"first": self.step, "sums": [0.0] * 3, "seconds": 0.0}
        self._train.zero_()
        self._validation.zero_()

    def _over_ranks(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(sums)
        return sums

    def _means(self, sums: Tensor) -> tuple[float, float]:
        loss, errors, count = self._over_ranks(sums).tolist()
        return loss / max(count, 1), errors / max(count, 1)

    def validation_step(self, batch: Batch) -> None:
        x, labels = batch
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.evaluated(x)
        self._validation += metric_sums(F.cross_entropy(logits.float(), labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        row = self._row
        row["val_loss"], row["val_error"] = loss, error = self._means(self._validation)
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
            self._clock.tell(self.step, f", loss {row['train_loss']:.3f}, validation error {error:.3f}")

    def progress(self) -> State:
        """Return where the training is, without weights and the optimiser's state."""
        state: State = {name: getattr(self, name) for name in _RESUMED}
        if self._leg["first"] != self.step:
            sums = self._over_ranks(self._train.clone()).tolist()
            state["leg"] = self._leg | {"sums": sums, "seconds": time.perf_counter() - self._started}
        return state

    def resume(self, progress: State, optimizer: State) -> None:
        """Continue where another module was, given its `progress` and the state of its optimiser."""
        for name in _RESUMED:
            setattr(self, name, progress[name])
        self._leg = progress.get("leg", self._leg | {"first": self.step})
        self._resumed = optimizer


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


def label_smoothing_floor(smoothing: float, classes: int) -> float:
    """Return the lowest cross-entropy (nats) that a smoothed target allows: the entropy of that target."""
    if smoothing == 0:
        return 0.0
    rest = smoothing / classes
    top = 1 - smoothing + rest
    return -(top * math.log(top) + (classes - 1) * rest * math.log(rest))
