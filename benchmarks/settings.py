"""What is a bench asked for, and on which machine? What all its parts start from."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.race import Apart
from benchmarks.steady import Way
from benchmarks.worlds import Task
from crossover.config import RunConfig, parse_run
from crossover.training.machine import device_name, git_state, package_versions

Compose = Callable[[list[str]], dict[str, Any]]
AUGMENTS: dict[Literal["crop_flip", "randaugment"], list[str]] = {
    "crop_flip": ["augment=crop_flip"],
    "randaugment": ["augment=crop_flip", "+augment.policy=randaugment", "augment.name=randaugment"],
}
NATIVE = 32
"""Sides of CIFAR-10's images."""


class BenchConfig(BaseModel):
    """What to measure, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    only: list[str]
    repeats: int = Field(ge=1)
    quick: bool
    models: list[str] | None
    pixels: list[int] | None
    augments: list[Literal["crop_flip", "randaugment"]]
    ways: list[Way] | None
    steps: int = Field(ge=1)
    mini_steps: int = Field(ge=2)
    parity_steps: int = Field(ge=2)
    parity_seeds: list[int] = Field(min_length=2)
    planned: int = Field(ge=1)
    peer: Path | None
    output: Path | None
    data_dir: Path


@dataclass(frozen=True)
class Bench:
    """The machine and the settings of a bench."""

    config: BenchConfig
    compose: Compose
    apart: Apart

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def core(self) -> int | None:
        """The one core on which contenders run in turns; on a GPU they may use all."""
        return None if self.device.type == "cuda" else max(os.sched_getaffinity(0))

    @property
    def workers(self) -> int:
        """DataLoader workers: on a single core they only add their own cost."""
        return 0 if self.core is not None else len(os.sched_getaffinity(0))

    @property
    def models(self) -> list[str]:
        default = ["resnet_tiny", "vit_tiny"] if self.device.type == "cpu" else ["resnet18", "vit_256x6"]
        models = self.config.models or default
        return models[:1] if self.config.quick else models

    @property
    def pixels(self) -> list[int]:
        """Sides of the images in the race of the training alone; on a CPU also that of the embedded sweep."""
        default = [NATIVE, 16] if self.device.type == "cpu" else [NATIVE]
        return [NATIVE] if self.config.quick else self.config.pixels or default

    @property
    def repeats(self) -> int:
        return 1 if self.config.quick else self.config.repeats

    @property
    def steps(self) -> int:
        return 5 if self.config.quick else self.config.steps

    def run(self, *overrides: str) -> RunConfig:
        fixed = ["logger=none", f"machine.data_dir={self.config.data_dir}"]
        return parse_run(self.compose([*fixed, *overrides]))

    def images(self, *overrides: str) -> Task:
        """Return a task on CIFAR-10, or on random images where it is not at hand."""
        real = (self.config.data_dir / "cifar10" / "train").is_dir()
        return Task(self.run("data=cifar10_folder", "n_train=10000", *overrides), synthetic=not real)

    def conditions(self) -> dict[str, Any]:
        return {
            "device": device_name(self.device),
            "cores": len(os.sched_getaffinity(0)),
            "threads": 1,
            "torch_device": self.device.type,
            "load_average_before": os.getloadavg()[0],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "repeats": self.repeats,
            "versions": package_versions(),
            "git": git_state(),
        }
