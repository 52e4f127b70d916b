"""How fast is timm's train.py on the same images and network, through its own command line?

`python -m crossover.bench.peer TRAIN.py OPTIONS` registers our networks with timm and runs the script.
"""

import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossover.bench.minisweep import SCRIPTS, WORKERS
from crossover.bench.race import in_turns, summarise
from crossover.bench.worlds import TEST, TRAIN, image_folder
from crossover.config import CrossoverError, RunConfig

EPOCHS = 1
RUN = "CROSSOVER_PEER_RUN"


def race(peer: Path, models: list[str], make: Callable[..., RunConfig], data_dir: Path, repeats: int) -> dict[str, Any]:
    """Return wall seconds of one run of EPOCHS epochs over the mini-sweep's images, validated once an epoch."""
    script = (peer / "train.py").resolve()
    if not script.is_file():
        raise CrossoverError(f"{script} is not there: peer=DIR must be a checkout of pytorch-image-models")
    result: dict[str, Any] = {"epochs": EPOCHS, "train_images": TRAIN, "evaluated_images": TEST}
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            root = image_folder(data_dir, Path(folder) / "images")
            run = make(
                f"model={model}", "data=folder", "data.name=cifar10_bench", f"data.root={root}", "data.image_size=32"
            )
            timm = _theirs(script, run, root, folder)
            environment = os.environ | {RUN: run.model_dump_json(), "PYTHONPATH": str(Path(__file__).parents[2])}

            def measure(
                way: str, run: RunConfig = run, root: Path = root, timm: Any = timm, environment: Any = environment
            ) -> dict[str, float]:
                # a run that is done would not be done again: each has a folder of its own
                outputs = tempfile.mkdtemp(dir=root.parent)
                command = timm if way == "timm" else _ours(run, root, outputs, data_dir)
                started = time.perf_counter()
                done = subprocess.run(command, env=environment, cwd=SCRIPTS.parent, capture_output=True, text=True)
                if done.returncode:
                    raise CrossoverError(f"{way} failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
                return {"wall_seconds": time.perf_counter() - started}

            rows = in_turns(["ours", "timm"], repeats, measure)
        result[model] = {"rows": rows, "wall_seconds": summarise(rows, "wall_seconds", "ours")}
    return result


def _ours(run: RunConfig, root: Path, outputs: str, data_dir: Path) -> list[str]:
    pool = TRAIN - TRAIN // 10
    cores = len(os.sched_getaffinity(0))
    return [
        *(
            sys.executable,
            str(SCRIPTS / "train.py"),
            f"model={run.model.name}",
            "data=folder",
            "data.name=cifar10_bench",
        ),
        *(f"data.root={root}", "data.image_size=32", "augment=crop_flip", "budget=epochs", f"budget.epochs={EPOCHS}"),
        *(f"budget.evaluations={EPOCHS}", f"n_train={pool}", "logger=none", f"machine.threads={cores}"),
        *(f"machine.outputs={outputs}", f"machine.data_dir={data_dir.resolve()}"),
    ]


def _theirs(script: Path, run: RunConfig, root: Path, folder: str) -> list[str]:
    recipe = run.recipe
    return [
        *(sys.executable, "-m", "crossover.bench.peer", str(script), "--data-dir", str(root), "--val-split", "test"),
        *(
            "--model",
            "crossover_model",
            "--num-classes",
            "10",
            "--input-size",
            "3",
            "32",
            "32",
            "--epochs",
            str(EPOCHS),
        ),
        *("--batch-size", str(recipe.batch_size), "--opt", recipe.optimizer, "--lr", str(recipe.lr)),
        *("--weight-decay", str(recipe.weight_decay), "--smoothing", str(recipe.label_smoothing), "--sched", "cosine"),
        *("--warmup-epochs", "0", "--scale", "1", "1", "--ratio", "1", "1", "--color-jitter", "0"),
        *("--workers", str(WORKERS), "--device", "cpu", "--output", f"{folder}/timm"),
    ]


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
