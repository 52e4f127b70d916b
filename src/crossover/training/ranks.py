"""The processes and devices of a run: several devices train one run through Lightning's DDP, one process each.

Under srun with one task per device, the tasks are those processes; otherwise the run starts the others on this machine.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from crossover.config import CrossoverError, RunConfig, TrainerConfig
from crossover.store import write_text


@dataclass(frozen=True)
class Rank:
    """One of `count` processes that train a run; the first writes its files."""

    index: int = 0
    count: int = 1
    local: int = 0
    """Rank within the node: the device it uses."""
    by_slurm: bool = False
    """Started by srun, like all the others."""

    def rows(self, batch_size: int) -> slice:
        """Return the rows of a batch that this process trains on."""
        share = batch_size // self.count
        return slice(self.index * share, (self.index + 1) * share)


ALONE = Rank()
DEVICES = Path("/dev")


def this_rank(config: TrainerConfig) -> Rank:
    """Return the rank of this process from the environment; raise CrossoverError if the others cannot exist."""
    count = config.devices * config.num_nodes
    if count == 1:
        return ALONE
    if os.environ.get("SLURM_STEP_NUM_TASKS") == str(count):
        return Rank(int(os.environ["SLURM_PROCID"]), count, int(os.environ["SLURM_LOCALID"]), by_slurm=True)
    if config.num_nodes > 1:
        raise CrossoverError(
            f"trainer.num_nodes={config.num_nodes} must be started by srun with one task per device:"
            f" srun --nodes={config.num_nodes} --ntasks-per-node={config.devices} COMMAND, or make sweep LAUNCHER=slurm"
        )
    index = int(os.environ.get("LOCAL_RANK", 0))
    return Rank(index, count, index)


def visible_gpus() -> list[str]:
    """Return the CUDA devices that this process may use, by the user's choice or UUID, without touching CUDA.

    A number would not do: /dev/nvidia3 may be the only GPU of a container, and CUDA's number 0.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return installed_gpus()
    return [gpu for gpu in map(str.strip, named.split(",")) if gpu.isdigit() or gpu.startswith(("GPU-", "MIG-"))]


def installed_gpus() -> list[str]:
    """Return the CUDA devices of this machine by UUID, or by number where its driver does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - without the package or a driver
        return [str(number) for number, _ in enumerate(DEVICES.glob("nvidia[0-9]*"))]
    try:
        gpus = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetUUID(gpu) for gpu in gpus]
    finally:
        pynvml.nvmlShutdown()


@contextmanager
def companions(run: RunConfig, rank: Rank, work: Callable[[RunConfig], object]) -> Iterator[None]:
    """Run `work` in the other processes of the run alongside the first; do nothing if srun has started them.

    If one of them fails, the first would wait for it forever, so this process ends too, with exit status 1.
    """
    if rank.count == 1 or rank.by_slurm or "LOCAL_RANK" in os.environ:
        yield
        return
    from lightning_fabric.plugins.environments.lightning import find_free_network_port  # both need torch
    from torch.multiprocessing.spawn import start_processes

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
    others = start_processes(_accompany, (work, run, place), rank.count - 1, join=False, daemon=True)
    os.environ.update(place | {"LOCAL_RANK": "0"})
    over = threading.Event()
    # Only this thread waits for the processes: with two waiting threads, one gets "no such process".
    watch = threading.Thread(target=_end_with, args=(others, over), daemon=True)
    watch.start()
    try:
        yield
        watch.join()
    finally:
        over.set()
        for process in others.processes:
            process.kill()
        watch.join()
        for name in (*place, "LOCAL_RANK"):
            os.environ.pop(name, None)


def _accompany(index: int, work: Callable[[RunConfig], object], run: RunConfig, place: dict[str, str]) -> None:
    os.environ.update(place | {"LOCAL_RANK": str(index + 1)})
    begin_worker()
    try:
        work(run)
    except Exception as error:
        text = f"{error}\n" if isinstance(error, CrossoverError) else traceback.format_exc()
        write_text(run.run_dir / "error.txt", text)
        raise


def _end_with(others: Any, over: threading.Event) -> None:
    """Wait for the other processes; if one fails, end this one, which may be waiting for it inside a call."""
    try:
        while not others.join(grace_period=1):
            pass
    except Exception as error:  # noqa: BLE001 - of the process that failed
        if not over.is_set():
            print(f"a process of this run failed: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def worker_processes(count: int, context: BaseContext) -> ProcessPoolExecutor:
    """Return a pool whose processes end with this one, also when it is killed: they would wait for work for ever."""
    return ProcessPoolExecutor(count, context, begin_worker)


def begin_worker() -> None:
    """Leave Ctrl-C and a closed terminal to the process that started this one, and end when that has ended."""
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach the whole group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(75)
