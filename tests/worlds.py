"""Small runs for tests: the embedded world with a pool of 1,200 images, and networks that train in a second."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossover.config import RunConfig, parse_run

CUES = {
    "kind": "cues",
    "name": "cues",
    "image_size": 16,
    "classes": 10,
    "alpha": 0.15,
    "beta": 1.5,
    "q": 0.8,
    "world_seed": 0,
    "n_pool": 1200,
    "n_val": 100,
    "n_test": 200,
}


def small_run(folder: Path, **changes: Any) -> RunConfig:
    """Return a run of 24 steps of 16 images that writes below `folder`; dotted keys change nested fields."""
    values: dict[str, Any] = {
        "data": dict(CUES),
        "model": {"name": "resnet_test", "arch": "basic_resnet", "args": {"widths": [8, 8], "depths": [1, 1]}},
        "recipe": {"name": "test", "optimizer": "adamw", "lr": 0.003, "batch_size": 16, "label_smoothing": 0.1},
        "augment": {"name": "none"},
        "budget": {"steps": 24, "evaluations": 4},
        "n_train": 100,
        "chain": 0,
        "seed": 0,
        "logger": {"kind": "none"},
        "machine": {"device": "cpu", "data_dir": str(folder / "data"), "outputs": str(folder / "outputs")},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        target = values
        for part in path:
            target = target[part]
        target[last] = value
    return parse_run(values)


VIT: dict[str, Any] = {
    "name": "vit_test",
    "arch": "vit",
    "args": {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2},
    "position_std": 0.5,
}

CLOCKS = {
    "train_seconds",
    "total_seconds",
    "images_per_second",
    "finished",
    "peak_rss_bytes",
    "device_memory_bytes",
    "git",
    "config",
}
"""Record fields that may differ between two runs of one config."""


def files_with(text: str, folder: Path) -> list[str]:
    """Return the files below a folder that hold a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if text.encode() in path.read_bytes()]


def results(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal when a run is repeated or resumed."""
    kept = {k: v for k, v in record.items() if k not in CLOCKS}
    kept["history"] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in record["history"]]
    return kept
