"""Train one run: python scripts/train.py model=vit_tiny n_train=5000 seed=1 (add -m for several)."""

import crossover  # isort: skip # noqa: F401
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line, one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, parse_run
from crossover.sweep.launch import train_one

failed: list[str] = []
"""The failed runs of -m; the others continue."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@one_line_errors()
def main(config: DictConfig) -> None:
    try:
        train_one(parse_run(resolved(config)), Console())
    except (CrossoverError, OSError) as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        failed.append(f"run {HydraConfig.get().job.num + 1}")
        print(f"error: {failed[-1]}: {one_line(error)}", file=sys.stderr)


def train_all() -> None:
    main()
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_hydra(train_all)
