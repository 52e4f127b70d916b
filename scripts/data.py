"""Fetch and cache a dataset: python scripts/data.py data=cifar10 (make data DATA=cifar10).

rebuild=true rebuilds the cache from the raw files.
"""

import crossover  # isort: skip # noqa: F401
from pathlib import Path

import hydra
from omegaconf import DictConfig

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import parse_run
from crossover.data.cache import open_dataset


@hydra.main(version_base="1.3", config_path="../conf", config_name="dataset")
@one_line_errors()
def main(config: DictConfig) -> None:
    values = resolved(config)
    rebuild = bool(values.pop("rebuild"))
    run = parse_run(values)
    dataset = open_dataset(run.data, Path(run.machine.data_dir), verify=True, rebuild=rebuild)
    parts = f"{len(dataset.pool):,} training, {len(dataset.val):,} validation and {len(dataset.test_labels):,} test"
    what = f"images of {len(dataset.classes)} classes, {dataset.images.shape[1]} px"
    print(f"{dataset.name}: {parts} {what}; in {dataset.folder}; hash {dataset.hash[:16]}")


if __name__ == "__main__":
    run_hydra(main)
