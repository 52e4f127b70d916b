"""One idiomatic run in its own process: python -m benchmarks.lone RUN.json OUT.json"""

import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from benchmarks.idiomatic import Pictures, Tutorial, loader, make_trainer, transforms
from benchmarks.minisweep import WORKERS
from crossover.config import RunConfig
from crossover.data.cache import open_dataset
from crossover.data.subsets import subset
from crossover.training.machine import resolve_device, resolve_precision
from crossover.training.models import build_model


def train(run: RunConfig) -> float:
    """Return the test error of the weights with the best validation error."""
    device = resolve_device(run)
    cuda, steps, batch = device.type == "cuda", run.budget.steps or 1, run.recipe.batch_size
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    pl.seed_everything(run.seed, verbose=False)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes))
    still = transforms(None, run.data.image_size, dataset.mean, dataset.std)
    change = transforms(run.augment, run.data.image_size, dataset.mean, dataset.std)
    training = Pictures(dataset.images[indices], dataset.labels[indices], change)
    validation = Pictures(dataset.images[dataset.val], dataset.labels[dataset.val], still)
    test = Pictures(dataset.test_images, dataset.test_labels, still)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(dirpath=folder, monitor="val/error", save_weights_only=True)
        trainer = make_trainer(
            steps=steps,
            precision=resolve_precision(run, device),
            cuda=cuda,
            folder=folder,
            callbacks=[best],
            val_check_interval=max(1, steps // run.budget.evaluations),
            gradient_clip_val=run.recipe.grad_clip,
        )
        module = Tutorial(network, run.recipe, steps, tuned=False)
        batches = loader(training, batch, workers=WORKERS, steps=steps, seed=run.seed, cuda=cuda)
        trainer.fit(module, batches, loader(validation, 250, workers=WORKERS, cuda=cuda))
        module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
        result: Any = trainer.test(module, loader(test, 250, workers=WORKERS, cuda=cuda), verbose=False)
    return float(result[0]["test/error"])


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    run = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
    started = time.perf_counter()
    error = train(run)
    Path(sys.argv[2]).write_text(json.dumps({"test_error": error, "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
