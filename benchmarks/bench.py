"""The settings of a bench, the machine it runs on, and the images that all contenders train on."""

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from benchmarks.contenders import Way, measure
from benchmarks.race import Row, apart
from crossover.cli import compose_train
from crossover.config import RunConfig, parse_run
from crossover.fields import Frozen
from crossover.training.machine import device_name, git_state, package_versions

TRAIN, TEST = 11_200, 1_000
"""Images in the folder: a pool of 10,080, and 1,120 for validation, so that evaluation does not dominate."""


class BenchConfig(Frozen):
    """The settings of conf/bench.yaml, which documents them."""

    only: list[Literal["harness", "steady", "minisweep", "gpu"]]
    device: Literal["auto", "cpu", "cuda"]
    repeats: int = Field(ge=1)
    steps: int = Field(ge=1)
    mini_steps: int = Field(ge=2)
    models: list[str] | None
    pixels: list[int]
    batches: list[int]
    policies: list[Literal["none", "randaugment"]]
    ways: list[Way] | None
    limit_seconds: float
    images: int | None = Field(ge=20)
    timm: Path | None
    output: Path | None
    data_dir: Path


@dataclass(frozen=True)
class Bench:
    """A benchmark with its own folder for images, caches and runs."""

    config: BenchConfig
    place: Path

    @property
    def device(self) -> str:
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return auto if self.config.device == "auto" else self.config.device

    @property
    def models(self) -> list[str]:
        return self.config.models or (
            ["resnet_tiny", "vit_tiny"] if self.device == "cpu" else ["resnet18", "vit_256x6"]
        )

    @property
    def images(self) -> Path:
        return self.place / "images"

    @property
    def script(self) -> Path | None:
        """timm's train.py, if the benchmark is given a checkout of timm."""
        return None if self.config.timm is None else (self.config.timm / "train.py").resolve(strict=True)

    def prepare(self) -> str:
        """Make the image folder {train,test}/<class>/*, from CIFAR-10 if it is there; return which images were used."""
        source, train = self.config.data_dir / "cifar10", self.config.images or TRAIN
        for part, count in {"train": train, "test": max(10, train * TEST // TRAIN)}.items():
            if source.is_dir():
                link_images(source / part, self.images / part, count)
                continue
            for label in range(10):
                (self.images / part / str(label)).mkdir(parents=True)
                noise = np.random.default_rng(label).integers(256, size=(count // 10, 32, 32, 3), dtype=np.uint8)
                for number, pixels in enumerate(noise):
                    Image.fromarray(pixels).save(self.images / part / str(label) / f"{number}.png")
        return "CIFAR-10" if source.is_dir() else "random"

    @property
    def fixed(self) -> list[str]:
        """Overrides shared by all runs of the benchmark."""
        return [
            "data=folder",
            "data.name=bench",
            f"data.root={self.images}",
            "data.image_size=32",
            "augment=crop_flip",
            "budget=steps",
            "logger=none",
            f"machine.device={self.device}",
            f"machine.data_dir={self.place / 'data'}",
        ]

    def run(self, model: str, *overrides: str) -> RunConfig:
        size = (self.config.images or TRAIN) * 8 // 10
        outputs = f"machine.outputs={self.place / 'outputs'}"
        return parse_run(compose_train([f"model={model}", *self.fixed, f"n_train={size}", outputs, *overrides]))

    def measure(
        self, run: RunConfig, way: Way, *, count: int = 1, profiled: bool = False, mps: dict[str, str] | None = None
    ) -> Row:
        """Return one row with the measurement of `count` concurrent processes that train in one way."""
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        bound = self.device == "cpu"  # to one core each, where DataLoader workers would only add their own cost
        workers = 0 if bound else len(cores)
        shutil.rmtree(self.place / "outputs", ignore_errors=True)
        calls = []
        for i in range(count):
            machine = run.machine.model_copy(update={"outputs": str(self.place / "outputs" / str(i))})
            own, core = run.model_copy(update={"machine": machine}), cores[i % len(cores)] if bound else None
            calls.append((own, way, self.config.steps, core, workers, profiled, self.script))
        together = apart(measure, calls, mps)
        slowest = max(row["seconds"] for row in together)
        images = sum(row["seconds"] * row["images_per_second"] for row in together)
        return together[0] | {
            "images_per_second": images / slowest,
            "flops_per_second": together[0]["flops_per_image"] * images / slowest,
            "peak_bytes": sum(row["peak_bytes"] for row in together),
        }

    def conditions(self) -> dict[str, Any]:
        return {
            "device": device_name(torch.device(self.device, 0) if self.device == "cuda" else torch.device("cpu")),
            "cores": len(os.sched_getaffinity(0)),
            "threads": 1,
            "torch_device": self.device,
            "load_average_before": os.getloadavg()[0],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "repeats": self.config.repeats,
            "versions": package_versions(),
            "git": git_state(),
        }


def link_images(source: Path, target: Path, count: int, turn: int = 0) -> None:
    """Make `target` an image folder of links to `count` images of `source`, the same number per class.

    Each class has its first images by name; with `turn` 1, 2, … the following ones, cyclically.
    """
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    each = count // len(classes)
    for folder in classes:
        (target / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        start = turn * each % max(1, len(files) - each + 1)
        for file in files[start : start + each]:
            (target / folder.name / file.name).symlink_to(file.resolve())
