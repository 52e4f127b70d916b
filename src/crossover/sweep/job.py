"""The process that trains one run: under its lock, with its output in log.txt and the result in its exit status."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path

from crossover.cli import one_line
from crossover.config import CrossoverError, RunConfig
from crossover.lock import HeldError, Lock
from crossover.store import is_done, read_frozen, write_text
from crossover.training.ranks import this_rank

STOPPED, OUT_OF_MEMORY = 75, 76
"""Exit statuses of a run that saved and can be continued, and of one that ran out of memory."""
NOT_FOR_RUNS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)
"""Signals that Ctrl-C, a closed terminal and Slurm send to every process; the first process ends its runs."""
SHORT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "unable to find an engine", "can't allocate memory")


def execute_locked(run: RunConfig, stop: threading.Event | None = None) -> None:
    """Train one run unless it is done; raise HeldError when another process has it. A failure leaves error.txt."""
    from crossover.training.epochs import StoppedError  # torch: only in the job
    from crossover.training.run import execute

    run.run_dir.mkdir(parents=True, exist_ok=True)
    first = this_rank(run.trainer).index == 0  # the others are started by srun to join it
    with Lock(run.run_dir / "lock") if first else contextlib.nullcontext():
        if is_done(run.run_dir):
            return
        if first:
            (run.run_dir / "error.txt").unlink(missing_ok=True)
            remove_leftovers(run.run_dir)  # left by a killed predecessor: they may fill the disk
        try:
            execute(run, stop)
        except StoppedError:
            raise
        except Exception as error:
            if not is_done(run.run_dir):  # by a process that took the lock from us
                write_text(run.run_dir / "error.txt", explain(error))
            raise
        if first:
            remove_leftovers(run.run_dir)  # left by a process that lost its lock to us while writing


def remove_leftovers(run_dir: Path) -> None:
    """Remove the partial files of processes that ended while writing."""
    for leftover in run_dir.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def explain(error: Exception) -> str:
    """Return the text of error.txt; its last line says what happened and, if known, what to do."""
    if isinstance(error, CrossoverError):
        return f"{error}\n"
    text = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        first = str(error).split(". ", 1)[0]
        return f"{text}out of device memory ({first}); lower recipe.batch_size, or stream: machine.resident_gb=0\n"
    return f"{text}{one_line(error)}\n" if isinstance(error, OSError) else text


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; torch's allocator has an error type, CUDA and its libraries only a message."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT_OF_MEMORY)
    )


def run_process(run_dir: Path, environment: dict[str, str], log: bool = True) -> None:
    """Entry point of a run's process; SIGTERM lets the run save and end with STOPPED.

    `environment` is its slot; `log` is false for a process that joins the first process of a run.
    """
    for number in NOT_FOR_RUNS:
        signal.signal(number, signal.SIG_IGN)
    from crossover.training.epochs import StoppedError, stop_on_signals

    place = {"host": os.environ.get("SLURMD_NODENAME", os.uname().nodename), "process": os.getpid(), **environment}
    place |= {"job": os.environ["SLURM_JOB_ID"]} if "SLURM_JOB_ID" in os.environ else {}
    with stop_on_signals(signal.SIGTERM) as stop:
        try:
            if log:
                file = os.open(run_dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(file, sys.stdout.fileno())
                os.dup2(file, sys.stderr.fileno())
            now = datetime.now(UTC).isoformat(timespec="seconds")
            print("started", now, *(f"{name}={value}" for name, value in place.items()), flush=True)
            run = read_frozen(run_dir)
            if run.trainer.num_nodes == 1:  # the run is no rank of the job
                for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_", "PMI_"))]:
                    del os.environ[name]
            os.environ.update(environment)
            execute_locked(run, stop)
        except HeldError:
            sys.exit(0)
        except StoppedError:
            print("stopped and saved", flush=True)
            sys.exit(STOPPED)
        except Exception as error:  # noqa: BLE001 - the status tells the pool
            known = isinstance(error, CrossoverError | OSError)
            print(one_line(error) if known else explain(error), file=sys.stderr)
            sys.exit(OUT_OF_MEMORY if is_out_of_memory(error) else 1)
