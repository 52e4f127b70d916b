"""timm's train.py on our network and images, through its own command line. It lacks the crop of padded images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import register_model

from crossover.config import RunConfig
from crossover.fields import ImageData
from crossover.training.machine import resolve_device, resolve_precision
from crossover.training.models import build_model


def register(run: RunConfig, before_forward: Callable[..., None] | None = None) -> None:
    """Register the run's network with timm as crossover_model."""

    def crossover_model(**_: Any) -> Any:
        model: Any = build_model(run.model, image_size=run.data.image_size, classes=10)
        model.pretrained_cfg = model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 10}
        if before_forward is not None:
            model.register_forward_pre_hook(before_forward)
        return model

    crossover_model.__module__ = __name__
    register_model(crossover_model)


def images_of(run: RunConfig) -> Path:
    """Return the image folder of a run of the bench."""
    assert isinstance(run.data, ImageData)
    return Path(run.data.root)


def options(run: RunConfig, output: Path, *, epochs: int, workers: int) -> list[str]:
    """Return the options of train.py that match our training as closely as it allows."""
    recipe, device, side = run.recipe, resolve_device(run), str(run.data.image_size)
    values = {
        "data-dir": images_of(run),
        "val-split": "test",
        "model": "crossover_model",
        "num-classes": 10,
        "epochs": epochs,
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
    pairs = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    bf16 = ["--amp", "--amp-dtype", "bfloat16"] if resolve_precision(run, device) == "bf16" else []
    last = ["--channels-last"] if device.type == "cuda" else []
    return [*pairs, *bf16, *last, "--input-size", "3", side, side, "--scale", "1", "1", "--ratio", "1", "1"]
