"""The same training as it is usually written: Lightning, a DataLoader with workers, and torchvision's transforms.

Images are in memory, as torchvision's CIFAR10 holds them; each is turned into a PIL image and transformed in a worker.
As a process of a sweep, which reads its run from standard input: python -m benchmarks.idiomatic
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from crossover.config import RunConfig
from crossover.data.cache import open_dataset
from crossover.data.subsets import subset
from crossover.training.machine import resolve_device, resolve_precision
from crossover.training.models import build_model
from crossover.training.module import learning_rate_factor, make_optimizer


class Pictures(Dataset[tuple[Tensor, int]]):
    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: v2.Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Tutorial(pl.LightningModule):
    def __init__(self, network: nn.Module, run: RunConfig, *, tuned: bool) -> None:
        super().__init__()
        self.network, self.recipe, self.steps, self.tuned = network, run.recipe, run.budget.steps or 1, tuned

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, labels = batch
        if self.tuned:
            x = x.to(memory_format=torch.channels_last)
        loss = F.cross_entropy(self.network(x), labels, label_smoothing=self.recipe.label_smoothing)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, labels = batch
        logits = self.network(x)
        self.log("val/loss", F.cross_entropy(logits, labels))
        self.log("val/error", (logits.argmax(1) != labels).float().mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.network, self.recipe, fused=self.tuned or None)
        factor = partial(learning_rate_factor, self.recipe, total_steps=self.steps)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]


def train(run: RunConfig, workers: int, *, tuned: bool = False, window: pl.Callback | None = None) -> None:
    """Train, and test the weights with the best validation error; with a `window` only train, until it stops that.

    `tuned` adds what a careful user would: channels last and a fused optimiser.
    """
    steps, device, size = run.budget.steps or 1, resolve_device(run), run.data.image_size
    data = open_dataset(run.data, Path(run.machine.data_dir))
    pl.seed_everything(run.seed, verbose=False)
    network = build_model(run.model, image_size=size, classes=len(data.classes))
    module = Tutorial(network.to(memory_format=torch.channels_last) if tuned else network, run, tuned=tuned)
    training = [v2.RandomCrop(size, padding=run.augment.crop), v2.RandomHorizontalFlip()]  # augment=crop_flip
    if run.augment.policy == "randaugment":
        training.append(v2.RandAugment(run.augment.policy_ops, run.augment.policy_magnitude))
    normal = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean.tolist(), data.std.tolist())]
    indices = subset(data.pool, data.labels, n_train=run.n_train, chain=run.chain)
    pictures = Pictures(data.images[indices], data.labels[indices], v2.Compose([*training, *normal]))
    sampler = RandomSampler(pictures, num_samples=steps * run.recipe.batch_size)  # with repetition
    held_out = Pictures(data.images[data.val], data.labels[data.val], v2.Compose(normal))
    loader = partial(DataLoader, num_workers=workers, persistent_workers=workers > 0, pin_memory=device.type == "cuda")
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(dirpath=folder, monitor="val/error", save_weights_only=True)
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if resolve_precision(run, device) == "bf16" else "32-true",
            max_steps=steps,
            gradient_clip_val=run.recipe.grad_clip,
            logger=False,
            callbacks=[window or best],
            enable_checkpointing=window is None,
            limit_val_batches=0 if window else 1.0,
            val_check_interval=max(1, steps // run.budget.evaluations),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        trainer.fit(module, loader(pictures, run.recipe.batch_size, sampler=sampler), loader(held_out, 250))
        if window is None:
            module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
            test = Pictures(data.test_images, data.test_labels, v2.Compose(normal))
            trainer.test(module, loader(test, 250), verbose=False)


if __name__ == "__main__":
    train(RunConfig.model_validate_json(sys.stdin.read()), int(os.environ["OMP_NUM_THREADS"]))
