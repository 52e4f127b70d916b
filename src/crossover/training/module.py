"""How does one network train? Several optimiser steps per Lightning batch, and the best validation kept."""

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crossover.config import CrossoverError, RecipeConfig
from crossover.data.loader import step_seed
from crossover.training.models import weight_decay_groups

Batch = tuple[Tensor, Tensor]
Chunk = tuple[int, list[Batch]]
"""The first step and the batches of several consecutive ones."""
_RESUMED = ("step", "history", "best", "train_seconds")


class Classifier(pl.LightningModule):
    """A network and its recipe. A Lightning batch is a chunk: the batches of several consecutive steps.

    Metrics are summed on the device and read once per validation: reading a number every step would make the device
    wait for Python.
    """

    def __init__(self, network: nn.Module, recipe: RecipeConfig, *, total_steps: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.recipe, self.total_steps, self.seed = network, recipe, total_steps, seed
        self.average: AveragedModel | None = None
        if recipe.ema_decay is not None:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] = {"val_error": math.inf, "step": 0, "weights": None}
        self.train_seconds = 0.0
        self._train = self._validation = torch.zeros(3)
        self._leg = (0, 0.0)
        self._carried: dict[str, Any] | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and tested: the moving average where the recipe asks for one."""
        return self.network if self.average is None else self.average.module

    def forward(self, x: Tensor) -> Tensor:
        return self.evaluated(x)

    def configure_optimizers(self) -> Any:
        recipe, groups = self.recipe, weight_decay_groups(self.network, self.recipe.weight_decay)
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        else:
            optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return [optimizer], [schedule]

    def learning_rate_factor(self, step: int) -> float:
        """Return the share of the peak rate at `step`: linear warm-up, then a cosine that ends at zero."""
        warmup = max(1, round(self.recipe.warmup * self.total_steps))
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def on_fit_start(self) -> None:
        self._train = torch.zeros(3, device=self.device, dtype=torch.float64)
        self._validation = torch.zeros_like(self._train)

    def on_train_epoch_start(self) -> None:
        self._leg = (self.step, time.perf_counter())
        if self._carried is not None:  # stopped between two validations: the leg goes on
            self._leg = (self._carried["first"], time.perf_counter() - self._carried["seconds"])
            self._train += torch.tensor(self._carried["sums"], device=self.device, dtype=torch.float64)
            self._carried = None

    def training_step(self, chunk: Chunk) -> None:
        first, batches = chunk
        if first != self.step:
            raise RuntimeError(f"batches of step {first} at step {self.step}")
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        # dropout and stochastic depth draw from the global generator: seeded by the step, a resumed run repeats them
        torch.manual_seed(step_seed(self.seed, self.step) ^ 1)
        for x, target in batches:
            logits = self.network(x)
            loss = F.cross_entropy(logits, target, label_smoothing=self.recipe.label_smoothing)
            optimizer.zero_grad()
            self.manual_backward(loss)
            if self.recipe.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.grad_clip)
            optimizer.step()
            schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.network)
            self._train += _sums(loss.detach(), logits.detach(), target)
            self.step += 1

    def on_validation_epoch_start(self) -> None:
        first, started = self._leg
        loss, error = _means(self._train)  # reading waits for the device: only then is the leg over
        seconds = time.perf_counter() - started
        self.train_seconds += seconds
        self._leg = (self.step, time.perf_counter())
        self._train.zero_()
        self._validation.zero_()
        images = (self.step - first) * self.recipe.batch_size
        self.history.append(
            {
                "step": self.step,
                "images_seen": self.step * self.recipe.batch_size,
                "lr": self.recipe.lr * self.learning_rate_factor(self.step),
                "train_loss": loss,
                "train_error": error,
                "images_per_second": images / seconds,
            }
        )

    def validation_step(self, batch: Batch) -> None:
        x, labels = batch
        logits = self(x)
        self._validation += _sums(F.cross_entropy(logits, labels), logits, labels)

    def on_validation_epoch_end(self) -> None:
        loss, error = _means(self._validation)
        row = self.history[-1]
        row |= {"val_loss": loss, "val_error": error}
        if not (math.isfinite(row["train_loss"]) and math.isfinite(loss)):
            raise CrossoverError(
                f"training diverged: loss {row['train_loss']:g} (training), {loss:g} (validation) at step {self.step}"
                f" of {self.total_steps}; lower recipe.lr={self.recipe.lr:g} or set recipe.grad_clip"
            )
        if self.recipe.select == "last" or error < self.best["val_error"]:
            weights = {k: v.detach().clone() for k, v in self.evaluated.state_dict().items()}
            self.best = {"val_error": error, "step": self.step, "weights": weights}
        for logger in self.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "step"}, step=self.step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["crossover"] = {name: getattr(self, name) for name in _RESUMED}
        first, started = self._leg
        if first != self.step:
            leg = {"first": first, "sums": self._train.tolist(), "seconds": time.perf_counter() - started}
            checkpoint["crossover"]["leg"] = leg

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name in _RESUMED:
            setattr(self, name, checkpoint["crossover"][name])
        self._carried = checkpoint["crossover"].get("leg")

    def load_best(self) -> None:
        """Put the selected weights into the evaluated network."""
        self.evaluated.load_state_dict(self.best["weights"])


def _sums(loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """Return (summed loss, errors, images) as float64 (3,); a soft target counts as its largest class."""
    labels = target if target.ndim == 1 else target.argmax(1)
    count = len(labels)
    errors = (logits.argmax(1) != labels).sum()
    return torch.stack([loss.double() * count, errors.double(), torch.full_like(errors, count).double()])


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
