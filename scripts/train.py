"""Train one run: python scripts/train.py model=vit_tiny n_train=5000 seed=1 (add -m for several)."""

import hydra
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, parse_run
from crossover.lock import HeldError
from crossover.store import freeze, read_record
from crossover.sweep.job import execute_locked
from crossover.sweep.launch import check_data
from crossover.training.ranks import this_rank


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@one_line_errors
def main(config: DictConfig) -> None:
    run = parse_run(resolved(config))
    check_data([run], Console())
    freeze([run])
    try:
        execute_locked(run)
    except HeldError as error:
        raise CrossoverError(f"{error}; wait for it, or end that process") from None
    if this_rank(run.trainer).index > 0:
        return
    record = read_record(run.run_dir / "record.json")
    print(
        f"{run.run_id}: train error {record['train_error']:.4f}, val error {record['val_error']:.4f}, test error"
        f" {record['test_error']:.4f}, {record['train_seconds']:.1f} s of training; {run.run_dir / 'record.json'}"
    )


if __name__ == "__main__":
    run_hydra(main)
