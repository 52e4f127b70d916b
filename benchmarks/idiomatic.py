"""The same training as it is usually written: Lightning, a DataLoader with workers, and torchvision's transforms.

Images are in memory, as torchvision's CIFAR10 holds them; each is turned into a PIL image and transformed in a worker.
`tuned` adds what a careful user would: channels last and a fused optimiser.
As a process of a sweep: python -m benchmarks.idiomatic RUN.json
"""

import logging
import os
import sys
import tempfile
import warnings
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

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.subsets import subset
from crossover.fields import RecipeConfig
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
    def __init__(self, network: nn.Module, recipe: RecipeConfig, total_steps: int, *, tuned: bool) -> None:
        super().__init__()
        self.network, self.recipe, self.total_steps, self.tuned = network, recipe, total_steps, tuned

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
        factor = partial(learning_rate_factor, self.recipe, total_steps=self.total_steps)
        return [optimizer], [{"scheduler": LambdaLR(optimizer, factor), "interval": "step"}]


class Task:
    """The network, loaders and trainer of a run that takes `steps` steps."""

    def __init__(self, run: RunConfig, steps: int, workers: int, *, tuned: bool) -> None:
        self.run, self.steps, self.workers = run, steps, workers
        self.device = resolve_device(run)
        data = self.data = open_dataset(run.data, Path(run.machine.data_dir))
        pl.seed_everything(run.seed, verbose=False)
        network = build_model(run.model, image_size=run.data.image_size, classes=len(data.classes))
        if tuned:
            network = network.to(memory_format=torch.channels_last)
        self.module = Tutorial(network, run.recipe, steps, tuned=tuned)
        indices = subset(data.pool, data.labels, n_train=run.n_train, chain=run.chain)
        pictures = Pictures(data.images[indices], data.labels[indices], self._transforms(training=True))
        sampler = RandomSampler(pictures, num_samples=steps * run.recipe.batch_size)  # with repetition
        self.training = self._loader(pictures, run.recipe.batch_size, sampler)
        still = self._transforms(training=False)
        self.validation = self._loader(Pictures(data.images[data.val], data.labels[data.val], still), 250)
        self.test = self._loader(Pictures(data.test_images, data.test_labels, still), 250)

    def trainer(self, folder: str, **settings: Any) -> pl.Trainer:
        bf16 = resolve_precision(self.run, self.device) == "bf16"
        return pl.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if bf16 else "32-true",
            max_steps=self.steps,
            gradient_clip_val=self.run.recipe.grad_clip,
            logger=False,
            enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in settings["callbacks"]),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            **settings,
        )

    def _loader(self, pictures: Pictures, batch: int, sampler: RandomSampler | None = None) -> DataLoader[Any]:
        keep, pin = self.workers > 0, self.device.type == "cuda"
        return DataLoader(
            pictures, batch, sampler=sampler, num_workers=self.workers, persistent_workers=keep, pin_memory=pin
        )

    def _transforms(self, *, training: bool) -> v2.Compose:
        augment, size, steps = self.run.augment, self.run.data.image_size, list[Any]()
        if augment.policy == "trivialaugment" or augment.erase or augment.mixup or augment.cutmix:
            raise CrossoverError("the idiomatic way supports crop, flip and RandAugment; use augment=crop_flip")
        if training:
            steps += [v2.RandomCrop(size, padding=augment.crop)] if augment.crop else []
            steps += [v2.RandomHorizontalFlip()] if augment.flip else []
            steps += [v2.RandAugment(augment.policy_ops, augment.policy_magnitude)] if augment.policy != "none" else []
        mean, std = self.data.mean.tolist(), self.data.std.tolist()
        return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def read_run(path: str) -> tuple[RunConfig, int]:
    """Return the run that this process trains, and its number of workers."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return RunConfig.model_validate_json(Path(path).read_text()), int(os.environ["OMP_NUM_THREADS"])


def train(run: RunConfig, workers: int) -> None:
    """Train, and test the weights with the best validation error."""
    steps = run.budget.steps or 1
    task = Task(run, steps, workers, tuned=False)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(dirpath=folder, monitor="val/error", save_weights_only=True)
        trainer = task.trainer(folder, callbacks=[best], val_check_interval=max(1, steps // run.budget.evaluations))
        trainer.fit(task.module, task.training, task.validation)
        task.module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
        trainer.test(task.module, task.test, verbose=False)


if __name__ == "__main__":
    train(*read_run(sys.argv[1]))
