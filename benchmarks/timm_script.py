"""timm's train.py on our network and images, through its own command line. It lacks the crop of padded images.

As a process of a sweep: python -m benchmarks.timm_script RUN.json TRAIN.PY
"""

import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import register_model

from benchmarks.idiomatic import read_run
from crossover.config import RunConfig
from crossover.training.machine import resolve_device, resolve_precision
from crossover.training.models import build_model


def run_script(
    run: RunConfig,
    script: Path,
    *,
    workers: int,
    epochs: int,
    interval: int,
    before_forward: Callable[..., None] | None = None,
) -> None:
    """Run train.py with the options that match our training as closely as it allows; it validates by `interval`."""

    def crossover_model(**_: Any) -> Any:
        model: Any = build_model(run.model, image_size=run.data.image_size, classes=10)
        model.pretrained_cfg = model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 10}
        if before_forward is not None:
            model.register_forward_pre_hook(before_forward)
        return model

    crossover_model.__module__ = __name__
    register_model(crossover_model)
    recipe, device, side = run.recipe, resolve_device(run), str(run.data.image_size)
    with tempfile.TemporaryDirectory() as output:  # two scripts that start in the same second would share a folder
        values = {
            "data-dir": run.data.root,  # type: ignore[union-attr]
            "val-split": "test",
            "model": "crossover_model",
            "num-classes": 10,
            "epochs": epochs,
            "val-interval": interval,
            "warmup-epochs": 0,
            "batch-size": recipe.batch_size,
            "opt": recipe.optimizer,
            "lr": recipe.lr,
            "weight-decay": recipe.weight_decay,
            "smoothing": recipe.label_smoothing,
            "sched": "cosine",
            "color-jitter": 0,
            "workers": workers,
            "device": device.type,
            "output": output,
        }
        sys.argv = [str(script), *(word for name, value in values.items() for word in (f"--{name}", str(value)))]
        sys.argv += ["--input-size", "3", side, side, "--scale", "1", "1", "--ratio", "1", "1"]
        sys.argv += ["--amp", "--amp-dtype", "bfloat16"] if resolve_precision(run, device) == "bf16" else []
        sys.argv += ["--channels-last"] if device.type == "cuda" else []
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    run, workers = read_run(sys.argv[1])
    # its smallest unit is an epoch; two validations, as the others have
    epochs = max(1, round((run.budget.steps or 1) / (run.n_train // run.recipe.batch_size)))
    run_script(run, Path(sys.argv[2]), workers=workers, epochs=epochs, interval=max(1, epochs // 2))
