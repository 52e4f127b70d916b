"""The contenders of a race: ours with each engine, a plain loop of the same steps, the idiomatic way, timm's train.py.

All train the same network on the same images with the same batch, precision and augmentation list, and are timed over
the same window of steps; the device is synchronised at both ends.
"""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torch.utils.benchmark
from torch import Tensor, nn

from benchmarks import idiomatic, race
from benchmarks.timm_script import run_script
from crossover.config import RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import Images, TrainBatches
from crossover.data.subsets import subset
from crossover.training import module
from crossover.training.machine import forget_peaks, peak_rss_bytes, resolve_device, resolve_precision, tune_allocator
from crossover.training.models import build_model, forward_flops
from crossover.training.run import execute
from crossover.training.step import Function, with_engine

Way = Literal["ours", "eager", "graph", "compile", "plain", "idiomatic", "idiomatic_tuned", "timm"]
"""`ours` uses the default engine of a run; eager, graph and compile are ours with that engine."""
WARM_UP = 10
"""Steps before the clock starts, while caches fill and kernels are chosen."""
PROFILED = 5


class Window(pl.Callback):
    """The timed steps, and afterwards a few whose kernels are counted if it is `profiled`."""

    def __init__(self, steps: int, device: torch.device, profiled: bool) -> None:
        self.steps, self.device, self.profiled = steps, device, profiled
        self.end = WARM_UP + steps + PROFILED * profiled
        self.found: race.Row = {}
        self._ticks = self._measure()

    def tick(self) -> bool:
        """Note that a step begins; return whether the window has ended."""
        return next(self._ticks, None) is None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = self.tick()

    def _measure(self) -> Iterator[int]:
        """Yield at the beginning of each step."""
        yield from range(WARM_UP)
        finish(self.device)
        race.together.wait()  # until all processes of the measurement are there
        started = time.perf_counter()
        yield from range(self.steps)
        finish(self.device)
        cuda = self.device.type == "cuda"
        self.found["seconds"] = time.perf_counter() - started
        self.found["peak_bytes"] = torch.cuda.max_memory_allocated(self.device) if cuda else peak_rss_bytes()
        if not self.profiled:
            return
        with torch.profiler.profile(acc_events=True) as profiler:
            yield from range(PROFILED)
            finish(self.device)
        kernels = [e for e in profiler.events() if e.device_type.name == "CUDA"]
        operators = [e for e in profiler.events() if e.name.startswith("aten::") and not e.cpu_children]
        counted = [e for e in kernels if not e.name.startswith(("Memcpy", "Memset"))] if cuda else operators
        self.found["kernels_per_step"] = len(counted) / PROFILED


def finish(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: RunConfig, way: Way, steps: int, core: int | None, workers: int, profiled: bool, timm: Path
) -> race.Row:
    """Train in this process, bound to one core unless `core` is None, and measure a window of `steps`."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    device = resolve_device(run)
    torch.set_num_threads(run.machine.threads)
    forget_peaks(device)
    window = Window(steps, device, profiled)
    budget = run.budget.model_copy(update={"steps": window.end + 1, "evaluations": 1})
    longer = run.model_copy(update={"budget": budget})
    if way in ("plain", "idiomatic_tuned"):
        tune_allocator()
    if way.startswith("idiomatic"):
        idiomatic.train(longer, workers, tuned=way == "idiomatic_tuned", window=window)
    elif way == "timm":
        _timm(run, window, workers, timm)
    elif way == "plain":
        _plain(run, window)
    else:
        _ours(longer, window, way)
    network = build_model(run.model, image_size=run.data.image_size, classes=10)
    return window.found | {
        "images_per_second": steps * run.recipe.batch_size / window.found["seconds"],
        "flops_per_image": 3 * forward_flops(network, run.data.image_size),
    }


def _ours(run: RunConfig, window: Window, way: str) -> None:
    """Train a complete run as users do; its only validation comes after the window."""

    def with_ticks(*given: Any) -> Function:
        advance = with_engine(*given)

        def one_step(images: Tensor, labels: Tensor) -> None:
            window.tick()
            advance(images, labels)

        return one_step

    vars(module)["with_engine"] = with_ticks  # what the module calls for its steps
    engine = run.machine.engine if way == "ours" else way
    execute(run.model_copy(update={"machine": run.machine.model_copy(update={"engine": engine})}))


def _plain(run: RunConfig, window: Window) -> None:
    """Train in a bare loop over the same batches, network, optimiser and schedule."""
    recipe, device = run.recipe, window.device
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    images = Images(dataset, indices, device, run.machine.resident_gb)
    batches = TrainBatches(images, run.augment, batch_size=recipe.batch_size, seed=run.seed)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes)).train()
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = module.make_optimizer(network, recipe)
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


class _OverError(Exception):
    """Ends a script that would continue after the window."""


def _timm(run: RunConfig, window: Window, workers: int, checkout: Path) -> None:
    """Run timm's train.py until the window ends; a step begins when the network is called."""

    def before_forward(network: nn.Module, _: Any) -> None:
        if network.training and torch.is_grad_enabled() and window.tick():
            raise _OverError

    images = Path(run.data.root)  # type: ignore[union-attr]
    with suppress(_OverError):
        run_script(run, checkout, images, workers=workers, epochs=10**6, before_forward=before_forward)


def matmul_peak(device: torch.device) -> float:
    """Return the FLOP/s of a large matrix product on one thread or the GPU, the best of two seconds."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timer = torch.utils.benchmark.Timer("a @ b", globals={"a": a, "b": b})
    return 2 * size**3 / float(min(timer.blocked_autorange(min_run_time=2.0).times))
