"""The machine of a run: device, precision, memory, package versions and the state of the code."""

import contextlib
import ctypes
import platform
import resource
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from crossover.config import CrossoverError, RunConfig
from crossover.record import GitState
from crossover.training.ranks import installed_gpus, visible_gpus
from crossover.training.step import Engine

Precision = Literal["fp32", "bf16"]
_PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "numpy", "hydra-core", "wandb", "crossover")


def resolve_device(run: RunConfig, local_rank: int = 0) -> torch.device:
    """Return the device that `machine.device` asks for; silently training on a CPU beside a GPU could take days."""
    if run.machine.device == "cpu":
        return torch.device("cpu")
    with warnings.catch_warnings(record=True) as caught:  # torch warns of what is wrong with a driver
        warnings.simplefilter("always")
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = visible_gpus() if installed_gpus() else []  # CUDA_VISIBLE_DEVICES may be set where there is none
    if not available and gpus:
        why = "it is built without CUDA" if torch.version.cuda is None else f"it needs CUDA {torch.version.cuda}"
        said = "".join(f"; {str(warning.message).splitlines()[0]}" for warning in caught[:1])
        raise CrossoverError(
            f"there is a GPU ({gpus[0]}) that torch {torch.__version__} cannot use: {why}{said}. Install a torch that"
            " fits the driver (docs/cluster.md), or train on the CPU: machine.device=cpu"
        )
    if available <= local_rank and (available or run.machine.device == "cuda"):
        raise CrossoverError(
            f"machine.device={run.machine.device} with trainer.devices={run.trainer.devices} needs more CUDA devices"
            f" than there are ({available}); ask for fewer, or use machine.device=cpu"
        )
    return torch.device("cuda", local_rank) if available else torch.device("cpu")


def resolve_precision(run: RunConfig, device: torch.device) -> Precision:
    """Return the precision that the run asks for; auto is bf16 autocast on CUDA."""
    automatic: Precision = "bf16" if device.type == "cuda" else "fp32"
    return automatic if run.precision == "auto" else run.precision


def resolve_engine(run: RunConfig, device: torch.device) -> Engine:
    """Return how a step runs; auto is eager until a benchmark on a GPU shows that another engine is faster."""
    cuda, alone = device.type == "cuda", run.trainer.devices * run.trainer.num_nodes == 1
    if run.machine.engine == "graph" and not cuda:
        raise CrossoverError("machine.engine=graph needs a CUDA device; use eager or compile on a CPU")
    if run.machine.engine == "compile" and cuda and not alone:  # it is captured as well
        raise CrossoverError("machine.engine=compile is for one CUDA device; use eager for several")
    return "eager" if run.machine.engine == "auto" else run.machine.engine


def tune_allocator() -> None:
    """Make glibc keep freed memory; otherwise each step maps its activations again."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)


def device_name(device: torch.device) -> str:
    """Return the marketing name of the device, such as `NVIDIA H100` or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def forget_peaks(device: torch.device) -> None:
    """Reset the memory peaks, which belong to a process that may train several runs."""
    if device.type == "cuda":
        torch.cuda.init()  # before it there is nothing to reset, which torch takes for a wrong device
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # only Linux has it, and not in every sandbox
        Path("/proc/self/clear_refs").write_text("5")


def peak_rss_bytes() -> int:
    """Return the largest resident memory of this process since `forget_peaks`; since its start if that cannot be."""
    with contextlib.suppress(OSError, StopIteration):  # only Linux has it, and not in every sandbox
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def package_versions() -> dict[str, str]:
    """Return the version of each installed package; code that is run from its folder has none."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def git_state() -> GitState:
    """Return the commit of the code and whether the running code differs from it; nulls outside a git checkout."""
    here = Path(__file__).parent

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        code = [f"{top}/{part}" for part in ("src", "conf", "scripts", "requirements.lock")]
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *code))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
