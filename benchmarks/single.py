"""One run of another contender, as a process of a sweep: python -m benchmarks.single idiomatic|timm RUN.json"""

import logging
import os
import runpy
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from benchmarks import idiomatic, timm_script
from crossover.config import RunConfig


def train_idiomatic(run: RunConfig, workers: int) -> None:
    """Train the idiomatic way, and test the weights with the best validation error."""
    steps = run.budget.steps or 1
    task = idiomatic.Task(run, steps, workers, tuned=False)
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(dirpath=folder, monitor="val/error", save_weights_only=True)
        trainer = task.trainer(folder, callbacks=[best], val_check_interval=max(1, steps // run.budget.evaluations))
        trainer.fit(task.module, task.training, task.validation)
        task.module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
        trainer.test(task.module, task.test, verbose=False)


def train_timm(run: RunConfig, workers: int, script: str) -> None:
    """Run train.py for the run's steps to the nearest epoch, its smallest unit, validated at most twice."""
    epochs = max(1, round((run.budget.steps or 1) / (run.n_train // run.recipe.batch_size)))
    timm_script.register(run)
    with tempfile.TemporaryDirectory() as folder:  # two scripts that start in the same second would share a folder
        given = timm_script.options(run, Path(folder), epochs=epochs, workers=workers)
        sys.argv = [script, *given, "--val-interval", str(max(1, epochs // 2))]
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    way, description, *rest = sys.argv[1:]
    config = RunConfig.model_validate_json(Path(description).read_text())
    count = int(os.environ["OMP_NUM_THREADS"])
    if way == "timm":
        train_timm(config, count, *rest)
    else:
        train_idiomatic(config, count)
