"""timm's train.py on our network and images, through its own command line. It lacks the crop of padded images.

As a process of a sweep, which reads its run from standard input: python -m benchmarks.timm_script CHECKOUT FOLDER
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import register_model

from crossover.config import RunConfig
from crossover.training.machine import resolve_device, resolve_precision
from crossover.training.models import build_model


def run_script(
    run: RunConfig,
    checkout: Path,
    images: Path,
    *,
    workers: int,
    epochs: int,
    before_forward: Callable[..., None] | None = None,
) -> None:
    """Run train.py on an image folder, with the options that match our training best, and two validations."""

    def crossover_model(**_: Any) -> Any:
        model: Any = build_model(run.model, image_size=run.data.image_size, classes=10)
        model.pretrained_cfg = model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 10}
        if before_forward is not None:
            model.register_forward_pre_hook(before_forward)
        return model

    crossover_model.__module__ = __name__
    register_model(crossover_model)
    recipe, device, side = run.recipe, resolve_device(run), str(run.data.image_size)
    options = [
        *(f"--data-dir={images}", "--val-split=test", "--model=crossover_model", "--num-classes=10"),
        *("--input-size", "3", side, side, "--scale", "1", "1", "--ratio", "1", "1", "--color-jitter=0"),
        *(f"--epochs={epochs}", f"--val-interval={max(1, epochs // 2)}", "--warmup-epochs=0", "--sched=cosine"),
        *(f"--workers={workers}", f"--device={device.type}", f"--batch-size={recipe.batch_size}"),
        f"--smoothing={recipe.label_smoothing}",
        *(f"--opt={recipe.optimizer}", f"--lr={recipe.lr}", f"--weight-decay={recipe.weight_decay}"),
        *(["--amp", "--amp-dtype=bfloat16"] if resolve_precision(run, device) == "bf16" else ()),
        *(["--channels-last"] if device.type == "cuda" else ()),
    ]
    with tempfile.TemporaryDirectory() as output:  # two scripts that start in the same second would share a folder
        sys.argv = [str(checkout / "train.py"), f"--output={output}", *options]
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    run, workers = RunConfig.model_validate_json(sys.stdin.read()), int(os.environ["OMP_NUM_THREADS"])
    # its smallest unit is an epoch
    epochs = max(1, round((run.budget.steps or 1) / (run.n_train // run.recipe.batch_size)))
    run_script(run, Path(sys.argv[1]), Path(sys.argv[2], run.run_id), workers=workers, epochs=epochs)
