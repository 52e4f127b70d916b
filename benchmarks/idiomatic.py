"""How would the same training usually be written? Lightning, a DataLoader with workers, torchvision's transforms.

As in the tutorials of these libraries: images in memory, as torchvision's CIFAR10 holds them, each turned into a PIL
image and transformed in a worker; automatic optimisation, `self.log` and a scheduler. Network, batch, precision,
augmentation, schedule and evaluations are ours. `tuned` adds what a careful user would: channels last and a fused
optimiser.
"""

import math
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from crossover.config import AugmentConfig, CrossoverError, RecipeConfig
from crossover.training.models import weight_decay_groups


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images uint8 (N, H, W, 3) that come out transformed."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: v2.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def transforms(config: AugmentConfig | None, size: int, mean: np.ndarray, std: np.ndarray) -> v2.Compose:
    """Return the transforms of an augmentation, or of evaluation (None)."""
    steps: list[Any] = []
    if config is not None:
        if config.erase or config.mixup or config.cutmix:
            raise CrossoverError("the race knows crop, flip and policies; choose augment=crop_flip or trivial")
        steps += [v2.RandomCrop(size, padding=config.crop)] if config.crop else []
        steps += [v2.RandomHorizontalFlip()] if config.flip else []
        if config.policy == "randaugment":
            steps.append(v2.RandAugment(config.policy_ops, config.policy_magnitude))
        elif config.policy == "trivialaugment":
            steps.append(v2.TrivialAugmentWide())
    tail = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean.tolist(), std.tolist())]
    return v2.Compose(steps + tail)


def loader(
    images: Pictures, batch_size: int, *, workers: int, steps: int | None = None, seed: int = 0, cuda: bool = False
) -> DataLoader[tuple[Tensor, int]]:
    """Return a loader in order, or of `steps` random batches (with repetition when the images are fewer)."""
    sampler = None
    if steps is not None:
        generator = torch.Generator().manual_seed(seed)
        sampler = RandomSampler(images, num_samples=steps * batch_size, generator=generator)
    return DataLoader(
        images, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0, pin_memory=cuda
    )


class Tutorial(pl.LightningModule):
    """The LightningModule that one writes first."""

    def __init__(self, network: nn.Module, recipe: RecipeConfig, total_steps: int, *, tuned: bool) -> None:
        super().__init__()
        self.network, self.recipe, self.total_steps, self.tuned = network, recipe, total_steps, tuned

    def forward(self, x: Tensor) -> Tensor:
        if self.tuned:
            x = x.to(memory_format=torch.channels_last)
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, labels = batch
        logits = self(x)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.log("train/loss", loss)
        return loss

    def _evaluate(self, name: str, batch: tuple[Tensor, Tensor]) -> None:
        x, labels = batch
        logits = self(x)
        self.log(f"{name}/loss", F.cross_entropy(logits, labels))
        self.log(f"{name}/error", (logits.argmax(1) != labels).float().mean())

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._evaluate("test", batch)

    def configure_optimizers(self) -> Any:
        recipe, groups = self.recipe, weight_decay_groups(self.network, self.recipe.weight_decay)
        fused = True if self.tuned else None
        optimizer: torch.optim.Optimizer
        if recipe.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=fused)
        else:
            optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _factor(self, step: int) -> float:
        warmup = max(1, round(self.recipe.warmup * self.total_steps))
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, self.total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Clock(pl.Callback):
    """Seconds from the end of step `first` to the end of the last one."""

    def __init__(self, first: int) -> None:
        self.first, self.started, self.seconds = first, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.first:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


def make_trainer(*, steps: int, precision: str, cuda: bool, folder: str, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=steps,
        logger=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in settings.get("callbacks", [])),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **settings,
    )
