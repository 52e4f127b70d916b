"""How many images a second does one process train on? Ours, a plain loop of the same steps, and the idiomatic way."""

import logging
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.idiomatic import Clock, Pictures, Tutorial, loader, make_trainer, transforms
from benchmarks.worlds import Task, few_held_out, with_fields
from crossover.data.cache import Dataset
from crossover.data.subsets import subset
from crossover.training.data import SubsetData
from crossover.training.machine import (
    forget_peaks,
    peak_rss_bytes,
    resolve_device,
    resolve_engine,
    resolve_precision,
    tune_allocator,
)
from crossover.training.models import build_model, forward_flops, weight_decay_groups
from crossover.training.module import Classifier
from crossover.training.ranks import ALONE
from crossover.training.run import fit

WARM_UP = 10
"""Steps before the clock starts: caches fill, kernels are chosen, graphs are captured."""
Way = Literal["ours", "eager", "graph", "compile", "plain", "idiomatic", "idiomatic_tuned"]
"""Ours is with `machine.engine` as it is set; eager, graph and compile are ours with that engine."""


def images_per_second(task: Task, way: Way, steps: int, workers: int) -> dict[str, float]:
    """Train for WARM_UP + `steps` steps; return images_per_second, peak_bytes and flops_per_second of the latter."""
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if way in ("eager", "graph", "compile"):
        task, way = replace(task, run=with_fields(task.run, machine__engine=way)), "ours"
    run, device = task.run, resolve_device(task.run)
    torch.set_num_threads(run.machine.threads)
    if way in ("ours", "plain"):
        tune_allocator()
    dataset = few_held_out(task.dataset())
    torch.manual_seed(run.seed)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes))
    forward = forward_flops(network, run.data.image_size)
    if way != "idiomatic":
        network = network.to(memory_format=torch.channels_last)
    forget_peaks(device)
    if way in ("idiomatic", "idiomatic_tuned"):
        seconds = _idiomatic(task, dataset, network, steps, workers, tuned=way == "idiomatic_tuned")
    else:
        seconds = (_ours if way == "ours" else _plain)(task, dataset, network.to(device), steps)
    rate = steps * run.recipe.batch_size / seconds
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss_bytes()
    return {"images_per_second": rate, "flops_per_second": 3 * forward * rate, "peak_bytes": peak}


def _data(task: Task, dataset: Dataset, bounds: list[int]) -> SubsetData:
    run = task.run
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    return SubsetData(run, dataset, indices, bounds=bounds, device=resolve_device(run))


def _ours(task: Task, dataset: Dataset, network: nn.Module, steps: int) -> float:
    """Return the seconds of the second of two legs: what Lightning and our harness cost is in them."""
    run, device = task.run, resolve_device(task.run)
    data = _data(task, dataset, [0, WARM_UP, WARM_UP + steps])
    module = Classifier(
        network,
        run.recipe,
        data.train_batches,
        total_steps=WARM_UP + steps,
        bf16=resolve_precision(run, device) == "bf16",
        engine=resolve_engine(run, device),
    )
    fit(run, module, data, ALONE, None, threading.Event())
    return steps * run.recipe.batch_size / module.history[1]["images_per_second"]


def _plain(task: Task, dataset: Dataset, network: nn.Module, steps: int) -> float:
    """Return the seconds of a bare loop over the same batches, network, optimiser and schedule."""
    run, device = task.run, resolve_device(task.run)
    batches = _data(task, dataset, [0, steps]).train_batches
    recipe, bf16 = run.recipe, resolve_precision(run, device) == "bf16"
    groups = weight_decay_groups(network, recipe.weight_decay)
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True, fused=True)
    network.train()
    started = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            _wait(device)
            started = time.perf_counter()
        x, target = batches.at(step)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
        optimizer.step()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _idiomatic(task: Task, dataset: Dataset, network: nn.Module, steps: int, workers: int, *, tuned: bool) -> float:
    run, device = task.run, resolve_device(task.run)
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    change = transforms(run.augment, run.data.image_size, dataset.mean, dataset.std)
    pictures = Pictures(dataset.images[indices], dataset.labels[indices], change)
    cuda = device.type == "cuda"
    batches = loader(pictures, run.recipe.batch_size, workers=workers, steps=WARM_UP + steps, cuda=cuda)
    clock = Clock(WARM_UP)
    with tempfile.TemporaryDirectory() as folder:
        precision = resolve_precision(run, device)
        settings: dict[str, Any] = {
            "callbacks": [clock],
            "limit_val_batches": 0,
            "gradient_clip_val": run.recipe.grad_clip,
        }
        trainer = make_trainer(steps=WARM_UP + steps, precision=precision, cuda=cuda, folder=folder, **settings)
        trainer.fit(Tutorial(network, run.recipe, WARM_UP + steps, tuned=tuned), batches)
        _wait(device)
    return clock.seconds


def matmul_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Return the FLOP/s of a large matrix product, the best of several seconds."""
    torch.set_num_threads(threads)
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < 2.0:
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def on_core(core: int | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with this process bound to one core, so that every contender has the same."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    return function(*arguments)
