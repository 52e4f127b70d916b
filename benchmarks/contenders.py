"""The contenders of a race: ours with each engine, a plain loop of the same steps, the idiomatic way, timm's train.py.

All train the same network on the same images with the same batch, precision and augmentation list, and are timed over
the same window of steps; the device is synchronised at both ends.
"""

import logging
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import race
from benchmarks.idiomatic import Task
from benchmarks.timm_script import run_script
from crossover.config import RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import Images, TrainBatches
from crossover.data.subsets import subset
from crossover.training import module
from crossover.training.machine import forget_peaks, peak_rss_bytes, resolve_device, resolve_precision, tune_allocator
from crossover.training.models import build_model, forward_flops
from crossover.training.module import make_optimizer
from crossover.training.run import execute
from crossover.training.step import Function, with_engine

Way = Literal["ours", "eager", "graph", "compile", "plain", "idiomatic", "idiomatic_tuned", "timm"]
"""`ours` uses the default engine of a run; eager, graph and compile are ours with that engine."""
WARM_UP = 10
"""Steps before the clock starts, while caches fill and kernels are chosen."""
PROFILED = 5


@dataclass
class Window:
    """The timed steps, optionally followed by a few whose kernels are counted."""

    steps: int
    device: torch.device
    profiled: bool
    seconds: float = 0.0
    peak_bytes: int = 0
    kernels_per_step: float | None = None
    _ticks: int = 0
    _started: float = 0.0
    _profiler: Any = None

    @property
    def end(self) -> int:
        """Total steps of a contender."""
        return WARM_UP + self.steps + PROFILED * self.profiled

    def tick(self) -> bool:
        """Note that a step begins; return whether the window has ended."""
        if self._ticks == WARM_UP:
            self.start()
        elif self._ticks == WARM_UP + self.steps:
            self.stop()
            self.start_profile()
        elif self._ticks == self.end:
            self.stop_profile()
        self._ticks += 1
        return self._ticks > self.end

    def start(self) -> None:
        """Start the clock when all processes of the measurement are there."""
        finish(self.device)
        race.together.wait()
        self._started = time.perf_counter()

    def stop(self) -> None:
        finish(self.device)
        self.seconds = time.perf_counter() - self._started
        cuda = self.device.type == "cuda"
        self.peak_bytes = torch.cuda.max_memory_allocated(self.device) if cuda else peak_rss_bytes()

    def start_profile(self) -> None:
        if self.profiled:
            self._profiler = torch.profiler.profile(acc_events=True)
            self._profiler.start()

    def stop_profile(self) -> None:
        """Count the kernels of the profiled steps; on a CPU, the operators that call no others."""
        if not self.profiled:
            return
        finish(self.device)
        self._profiler.stop()
        events = self._profiler.events()
        if self.device.type == "cuda":
            on_device = [e for e in events if e.device_type.name == "CUDA"]
            count = sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device)
        else:
            count = sum(e.name.startswith("aten::") and not e.cpu_children for e in events)
        self.kernels_per_step = count / PROFILED


def finish(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: RunConfig, way: Way, steps: int, core: int | None, workers: int, profiled: bool, script: Path
) -> dict[str, float | None]:
    """Train in this process, bound to one core unless `core` is None, and measure a window of `steps`."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    device = resolve_device(run)
    torch.set_num_threads(run.machine.threads)
    forget_peaks(device)
    window = Window(steps, device, profiled)
    if way in ("idiomatic", "idiomatic_tuned"):
        _idiomatic(run, window, workers, tuned=way == "idiomatic_tuned")
    elif way == "timm":
        _timm(run, window, workers, script)
    elif way == "plain":
        _plain(run, window)
    else:
        _ours(run, window, way)
    network = build_model(run.model, image_size=run.data.image_size, classes=10)
    return {
        "images_per_second": steps * run.recipe.batch_size / window.seconds,
        "flops_per_image": 3 * forward_flops(network, run.data.image_size),
        "seconds": window.seconds,
        "peak_bytes": window.peak_bytes,
        "kernels_per_step": window.kernels_per_step,
    }


def _ours(run: RunConfig, window: Window, way: str) -> None:
    """Train a complete run as users do; its only validation comes after the window."""
    budget = run.budget.model_copy(update={"steps": window.end + 1, "evaluations": 1})
    engine = run.machine.engine if way == "ours" else way
    machine = run.machine.model_copy(update={"engine": engine})

    def with_ticks(*given: Any) -> Function:
        advance = with_engine(*given)

        def one_step(images: Tensor, labels: Tensor) -> None:
            window.tick()
            advance(images, labels)

        return one_step

    vars(module)["with_engine"] = with_ticks  # what the module calls for its steps
    execute(run.model_copy(update={"budget": budget, "machine": machine}))


def _plain(run: RunConfig, window: Window) -> None:
    """Train in a bare loop over the same batches, network, optimiser and schedule."""
    tune_allocator()
    recipe, device = run.recipe, window.device
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    images = Images(dataset.images, dataset.labels, indices, device, None)
    batches = TrainBatches(images, dataset, run.augment, batch_size=recipe.batch_size, seed=run.seed)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes)).train()
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, recipe)
    bf16 = resolve_precision(run, device) == "bf16"
    for step in range(window.end + 1):
        window.tick()
        x, target = batches.at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
        optimizer.step()


class _Ticks(pl.Callback):
    def __init__(self, window: Window) -> None:
        self.window = window

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        trainer.should_stop = self.window.tick()


def _idiomatic(run: RunConfig, window: Window, workers: int, *, tuned: bool) -> None:
    if tuned:
        tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        task = Task(run, window.end + 1, workers, tuned=tuned)
        trainer = task.trainer(folder, callbacks=[_Ticks(window)], limit_val_batches=0)
        trainer.fit(task.module, task.training)


class _OverError(Exception):
    """Ends a script that would continue after the window."""


def _timm(run: RunConfig, window: Window, workers: int, script: Path) -> None:
    """Run timm's train.py until the window ends; a step begins when the network is called."""

    def before_forward(network: nn.Module, _: Any) -> None:
        if network.training and torch.is_grad_enabled() and window.tick():
            raise _OverError

    try:
        run_script(run, script, workers=workers, epochs=10**6, interval=10**6, before_forward=before_forward)
    except _OverError:
        return


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product on one thread or the GPU, the best of two seconds."""
    torch.set_num_threads(1)
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < 2.0:
        finish(device)
        started = time.perf_counter()
        a @ b
        finish(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
