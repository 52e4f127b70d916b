"""Train one run: python scripts/train.py model=vit_tiny n_train=5000 seed=1 (add -m for several)."""

import signal
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line, one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, RunConfig, parse_run
from crossover.lock import HeldError
from crossover.store import freeze, is_done, read_record
from crossover.sweep.job import execute_locked
from crossover.sweep.launch import check_data
from crossover.training.ranks import this_rank

failed: list[str] = []
"""The failed runs of -m; the others continue."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@one_line_errors
def main(config: DictConfig) -> None:
    try:
        train(parse_run(resolved(config)))
    except (CrossoverError, OSError) as error:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise
        failed.append(f"run {HydraConfig.get().job.num + 1}")
        print(f"error: {failed[-1]}: {one_line(error)}", file=sys.stderr)


def train(run: RunConfig) -> None:
    """Train a run unless it is done, and print the outcome; exit if it was interrupted and saved."""
    from crossover.training.epochs import StoppedError, stop_on_signals  # torch, after all that may be wrong

    if is_done(run.run_dir):
        print(f"{run.run_id} is done already; move its folder away to do it again")
    check_data([run], Console())
    freeze([run])
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one of them
    with stop_on_signals(*heard) as stop:
        try:
            execute_locked(run, stop)
        except HeldError as error:
            raise CrossoverError(f"{error}; wait for it, or end that process") from None
        except StoppedError:
            print(f"interrupted: {run.run_id} is saved, and the same command continues it", file=sys.stderr)
            sys.exit(128 + stop.number)
    if this_rank(run.trainer).index > 0:
        return
    path = run.run_dir / "record.json"
    record = read_record(path)
    errors = ", ".join(f"{part} error {record[f'{part}_error']:.4f}" for part in ("train", "val", "test"))  # type: ignore[literal-required]
    print(f"{run.run_id}: {errors}, {record['train_seconds']:.1f} s of training; {path}")


def train_all() -> None:
    main()
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_hydra(train_all)
