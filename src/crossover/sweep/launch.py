"""Where does a sweep go, and is its data there?"""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crossover.config import CrossoverError, RunConfig, describe
from crossover.data.cache import open_dataset
from crossover.data.subsets import check_size


class LocalLauncher(BaseModel):
    """Runs side by side on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["local"]
    parallel: int | None = Field(default=None, ge=1)
    """Runs at a time; null: one per CPU core, or runs_per_gpu on each visible GPU."""
    runs_per_gpu: int = Field(default=1, ge=1)
    """Halved when the device runs out of memory."""


class SlurmLauncher(BaseModel):
    """Jobs of a Slurm cluster; each does a group of runs, side by side on the GPUs and cores it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["slurm"]
    runs_per_job: int = Field(default=8, ge=1)
    """Runs in one array task, at most."""
    max_parallel: int = Field(default=16, ge=1)
    """Array tasks that run at a time, at most."""
    gpus: int = Field(default=1, ge=0)
    """GPUs of one task; 0 for the CPU alone."""
    cpus: int = Field(default=4, ge=1)
    """CPU cores of one task."""
    mem_gb: float | None = Field(default=None, gt=0)
    """Memory of one task; null: what the cluster gives."""
    parallel: int | None = Field(default=None, ge=1)
    runs_per_gpu: int = Field(default=1, ge=1)
    """Runs side by side on one GPU; halved when the device runs out of memory."""
    timeout_min: int = Field(default=240, ge=1)
    """Time limit of a task; a run that is cut off is saved and continued."""
    timeouts: int = Field(default=100, ge=0)
    """How often a task that ran into its time limit is put into the queue again."""
    signal_seconds: int = Field(default=90, ge=1)
    """How long before the time limit the runs are told to save."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = []
    """Shell lines before Python, such as `module load cuda`."""
    sbatch: dict[str, str | int] = {}
    """Further options of sbatch, without their dashes: {reservation: summer}."""
    wait: bool = False
    """Stay, show the progress and report at the end."""


Launcher = LocalLauncher | SlurmLauncher
_ADAPTER: TypeAdapter[Launcher] = TypeAdapter(Annotated[Launcher, Field(discriminator="kind")])


def parse_launcher(values: dict[str, Any]) -> Launcher:
    """Return a validated launcher; raise CrossoverError naming what is wrong."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise CrossoverError(f"bad launcher: {describe(error)}") from None


def check_data(runs: Sequence[RunConfig]) -> list[str]:
    """Build the caches that the runs need and return a line for each dataset; raise CrossoverError, before any run
    starts, for data that is missing or too small, and for a logger that is not installed."""
    kind = next((run.logger.kind for run in runs if run.logger.kind.startswith("wandb")), None)
    if kind is not None and importlib.util.find_spec("wandb") is None:
        raise CrossoverError(
            f"logger={kind} needs the package wandb, which is not installed; take logger=csv or logger=none"
            " (SET=logger=csv), or install it: make setup EXTRAS=test,wandb"
        )
    lines = []
    for config, group in itertools.groupby(runs, key=lambda run: run.data):
        members = list(group)
        dataset = open_dataset(config, Path(members[0].machine.data_dir))
        for run in members:
            check_size(run.n_train, len(dataset.classes), len(dataset.pool))
        lines.append(
            f"{dataset.name}: {len(dataset.pool):,} training images to draw from, {len(dataset.val):,} for validation,"
            f" {len(dataset.test_labels):,} for test"
        )
    return list(dict.fromkeys(lines))
