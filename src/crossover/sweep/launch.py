"""Settings of the launchers, the check of the data, and `do_runs`, which trains what is left on this machine."""

import importlib.util
import itertools
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console

from crossover.cli import end_on_signals
from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import Dataset, cache_folder, open_dataset
from crossover.data.readers import fingerprint
from crossover.data.subsets import check_size
from crossover.fields import Frozen
from crossover.lock import STALE_SECONDS, HeldError
from crossover.store import freeze, is_done, read_error, read_record, weights_hash
from crossover.sweep.job import execute_locked, explain, is_out_of_memory
from crossover.sweep.plan import SweepConfig
from crossover.sweep.pool import Pool, Progress, Slot, fork_server
from crossover.sweep.progress import Display, working
from crossover.text import say
from crossover.training.ranks import this_rank, visible_gpus


class LocalLauncher(Frozen):
    """The settings of conf/launcher/local.yaml, which documents them."""

    kind: Literal["local"]
    parallel: int | None = Field(default=None, ge=1)
    runs_per_gpu: int = Field(default=1, ge=1)


class SlurmLauncher(Frozen):
    """The settings of conf/launcher/slurm.yaml, which documents them."""

    kind: Literal["slurm"]
    runs_per_job: int = Field(default=8, ge=1)
    max_parallel: int = Field(default=16, ge=1)
    gpus: int = Field(default=1, ge=0)
    cpus: int = Field(default=4, ge=1)
    mem_gb: float | None = Field(default=None, gt=0)
    parallel: int | None = Field(default=None, ge=1)
    runs_per_gpu: int = Field(default=1, ge=1)
    timeout_min: int = Field(default=240, ge=1)
    timeouts: int = Field(default=100, ge=0)
    signal_seconds: int = Field(default=90, ge=1)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = []
    sbatch: dict[str, str | int] = {}
    wait: bool = False


class SweepOptions(Frozen):
    """The settings of conf/sweep.yaml, which documents them."""

    sweep: SweepConfig
    launcher: LocalLauncher | SlurmLauncher = Field(discriminator="kind")
    set: tuple[str, ...] = ()
    outputs: str
    dry_run: bool = False
    data_only: bool = False
    commands: int | None = Field(default=None, ge=1)


def do_runs(
    runs: Sequence[RunConfig],
    console: Console,
    *,
    parallel: int | None = None,
    runs_per_gpu: int = 1,
    frozen: bool = False,
    ready: Callable[[], object] = lambda: None,
    watch: Callable[[Progress], object] = lambda _: None,
    context: BaseContext | None = None,
) -> Progress:
    """Train the `runs` without a record on this machine, print failures, and return the final states.

    `ready` is called while the fork server imports, `watch` with each of the pool's states. `frozen`: their configs are
    written, and runs that another live process holds are left to it. SIGTERM and a closed terminal let the runs save.
    """
    left = [run for run in runs if not is_done(run.run_dir)]
    if left and context is None:
        fork_server()  # imports while the data is prepared
    check_data(runs, console)
    if not frozen:
        freeze(left)
    ready()
    end_on_signals()
    with Display(console, runs) as display:

        def report(progress: Progress) -> None:
            display(progress)
            watch(progress)

        slots = slots_for(left, parallel, runs_per_gpu)
        patience = 2 * STALE_SECONDS if frozen else math.inf  # a dead owner's heartbeat is stale by then
        progress = Pool(runs, slots=slots, report=report, patience=patience, context=context).run()
    for run in runs:
        if progress.states[run.run_id] == "failed":
            last = read_error(run.run_dir).splitlines()[-3:]
            repeat = f"repeat: {repeat_command(Path(run.machine.outputs), [run.run_id])}"
            text = "\n  ".join([f"failed: {run.run_id}: {last[0]}", *last[1:], repeat])
            console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)  # to be copied
    return progress


def train_one(run: RunConfig, console: Console) -> None:
    """Train a run in this process unless it is done, and print the outcome; exit if it was interrupted and saved."""
    from crossover.training.epochs import StoppedError, stop_on_signals  # torch, after all that may be wrong

    if is_done(run.run_dir):
        print(f"{run.run_id} is done already; move its folder away to do it again")
    check_data([run], console)
    freeze([run])
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one of them
    with stop_on_signals(*heard) as stop:
        try:
            execute_locked(run, stop)
        except HeldError as error:
            raise CrossoverError(f"{error}; wait for it, or end that process") from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise CrossoverError(explain(error).splitlines()[-1]) from None
        except StoppedError:
            print(f"interrupted: {run.run_id} is saved, and the same command continues it", file=sys.stderr)
            sys.exit(128 + stop.number)
    if this_rank(run.trainer).index == 0:
        path = run.run_dir / "record.json"
        record = read_record(path)
        print(
            f"{run.run_id}: train error {record['train_error']:.4f}, val error {record['val_error']:.4f}, test error"
            f" {record['test_error']:.4f}, {record['train_seconds']:.1f} s of training; {path}"
        )


def check_data(runs: Sequence[RunConfig], console: Console) -> None:
    """Build the caches that the runs need and print a line for each dataset.

    Raise CrossoverError, before any run starts, for data that are missing or too small, for images or initial weights
    that have changed since a run finished, and for a logger that is not installed.
    """
    done = {run.run_id: run for run in runs if is_done(run.run_dir)}
    for kind in {run.logger.kind for run in runs if run.run_id not in done} & {"wandb", "wandb_offline"}:
        if importlib.util.find_spec("wandb") is None:
            raise CrossoverError(
                f"logger={kind} needs the package wandb: make setup EXTRAS=test,wandb, or SET=logger=csv or logger=none"
            )
    for source in {run.init_from for run in done.values() if run.init_from is not None}:
        began = [run for run in done.values() if run.init_from == source]
        what = f"weights than those of init_from={source} now: put those back, give the new ones another name"
        _refuse_other(began, "init_file_hash", weights_hash(source, Path(began[0].machine.outputs)), what)
    lines = set()
    for config, group in itertools.groupby(runs, key=lambda run: run.data):
        members = list(group)
        data_dir = Path(members[0].machine.data_dir)
        cached = cache_folder(config, data_dir).is_dir()
        finished = [run for run in members if run.run_id in done]
        if not cached and len(finished) == len(members) and fingerprint(config, data_dir) is None:
            continue  # nothing is left that could differ
        with working(console, None if cached else f"preparing {config.name}, once"):
            dataset = open_dataset(config, data_dir, verify=True)
        for run in members:
            check_size(run.n_train, len(dataset.classes), len(dataset.pool))
        refuse_other_images(finished, dataset)
        lines.add(
            f"{dataset.name}: {len(dataset.pool):,} training images to draw from, {len(dataset.val):,} for validation,"
            f" {len(dataset.test_labels):,} for test"
        )
    for line in sorted(lines):
        say(console, line)


def refuse_other_images(runs: Sequence[RunConfig], dataset: Dataset) -> None:
    """Raise CrossoverError when finished `runs` were trained on other images than those of `dataset`."""
    what = f"images than those in {dataset.folder} now: give the new images another name (data.name=NAME)"
    _refuse_other(runs, "dataset_hash", dataset.hash, what)


def _refuse_other(
    runs: Sequence[RunConfig], field: Literal["dataset_hash", "init_file_hash"], now: str | None, what: str
) -> None:
    """Raise CrossoverError when a hash in the records of finished `runs` is not the one `now`; older ones have none."""
    then = {run.run_dir: read_record(run.run_dir / "record.json").get(field) for run in runs}
    other = [folder for folder, found in then.items() if None not in (found, now) and found != now]
    if other:
        raise CrossoverError(
            f"{len(other)} finished runs, such as {other[0]}, were done with other {what}, or move the folders of"
            " these runs away to do them again"
        )


def slots_for(runs: Sequence[RunConfig], parallel: int | None, runs_per_gpu: int) -> list[Slot]:
    """Return one environment per run that can train at a time: runs_per_gpu on each GPU, else one per CPU core.

    A run on several devices takes as many. In a Slurm task, GPUs and cores are those that it was given.
    """
    if any(run.trainer.num_nodes > 1 for run in runs):  # the task has one run, and all that Slurm gave it
        return [Slot()]
    devices = max((run.trainer.devices for run in runs), default=1)
    if gpus := visible_gpus():
        if devices > len(gpus):
            raise CrossoverError(f"trainer.devices={devices} is more than the {len(gpus)} GPUs that are visible here")
        groups = [",".join(gpus[i : i + devices]) for i in range(0, len(gpus) - devices + 1, devices)]
        slots = [{"CUDA_VISIBLE_DEVICES": group} for _ in range(runs_per_gpu) for group in groups]
    else:
        given = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
        cores = int(given) if given else len(os.sched_getaffinity(0))
        slots = [Slot() for _ in range(max(1, cores // devices))]
    return slots if parallel is None else (slots * parallel)[:parallel]


def repeat_command(outputs: Path, run_ids: list[str]) -> str:
    """Return the shell command that trains these frozen runs on the machine where it is entered."""
    return shlex.join([sys.executable, "-m", "crossover.sweep", "--outputs", str(outputs), *run_ids])
