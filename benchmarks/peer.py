"""How long do the runs of a sweep take with timm's train.py, on the same images and networks?

Through its own command line, one process a run. `python -m benchmarks.peer TRAIN.py OPTIONS` registers our network
with timm and then is that script. It counts epochs: it takes our steps to the nearest epoch, and drops what does not
fill a batch. Each run has a folder of its images, made before the clock starts.
"""

import os
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.minisweep import call
from benchmarks.worlds import link_images
from crossover.config import CrossoverError, RunConfig

RUN = "CROSSOVER_PEER_RUN"


def script(checkout: Path | None) -> Path:
    """Return timm's train.py in `checkout`; raise CrossoverError when it is not there."""
    if checkout is None:
        raise CrossoverError("part peer needs peer=DIR, a checkout of pytorch-image-models with its train.py")
    path = (checkout / "train.py").resolve()
    if not path.is_file():
        raise CrossoverError(f"{path} is not there: peer=DIR must be a checkout of pytorch-image-models")
    return path


def subset(run: RunConfig, images: Path, place: Path) -> Path:
    """Make a folder of `run.n_train` of `images`, the same number of each class, as links; return it."""
    folder = place / f"{run.n_train}-{run.chain}"
    link_images(images / "train", folder / "train", run.n_train, run.chain)
    (folder / "test").symlink_to((images / "test").resolve(), target_is_directory=True)
    return folder


def sweep(train: Path, runs: Sequence[tuple[RunConfig, Path]], steps: int, at_once: int, log: Path) -> dict[str, Any]:
    """Do the runs of `steps`, each on its folder, `at_once` side by side that share the cores; return wall_seconds."""
    cores = max(1, len(os.sched_getaffinity(0)) // at_once)

    def one(item: tuple[RunConfig, Path]) -> None:
        run, folder = item
        with tempfile.TemporaryDirectory() as output:  # two that start in the same second would share a folder
            given = options(run, folder, steps, Path(output), cores)
            command = [sys.executable, "-m", "benchmarks.peer", str(train), *given]
            call(command, log, {RUN: run.model_dump_json(), "OMP_NUM_THREADS": str(cores)})

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, runs))
    return {"wall_seconds": time.perf_counter() - started}


def options(run: RunConfig, folder: Path, steps: int, output: Path, workers: int) -> list[str]:
    """Return the options of train.py for a run of about `steps` with flips, validated at most twice.

    It has no crop of padded images: it does less than our runs.
    """
    recipe = run.recipe
    epochs = max(1, round(steps / (run.n_train // recipe.batch_size)))
    side = str(run.data.image_size)
    values: dict[str, str] = {
        "data-dir": str(folder),
        "val-split": "test",
        "model": "crossover_model",
        "num-classes": "10",
        "epochs": str(epochs),
        "warmup-epochs": "0",
        "val-interval": str(max(1, epochs // 2)),
        "batch-size": str(recipe.batch_size),
        "opt": recipe.optimizer,
        "lr": str(recipe.lr),
        "weight-decay": str(recipe.weight_decay),
        "smoothing": str(recipe.label_smoothing),
        "sched": "cosine",
        "color-jitter": "0",
        "workers": str(workers),
        "device": "cpu",
        "output": str(output),
    }
    pairs = [word for name, value in values.items() for word in (f"--{name}", value)]
    return [*pairs, "--input-size", "3", side, side, "--scale", "1", "1", "--ratio", "1", "1"]


def main() -> None:
    from timm.models import register_model

    from crossover.training.models import build_model

    run = RunConfig.model_validate_json(os.environ[RUN])

    def crossover_model(**_: Any) -> Any:
        model: Any = build_model(run.model, image_size=run.data.image_size, classes=10)
        model.pretrained_cfg = model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 10}
        return model

    crossover_model.__module__ = __name__
    register_model(crossover_model)
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
