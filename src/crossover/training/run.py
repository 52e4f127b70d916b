"""One run, from a config to a record: train, select on validation images, measure the test error once."""

import contextlib
import logging
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment  # type: ignore[attr-defined]
from safetensors.torch import save
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import EvalBatches, Images, TrainBatches
from crossover.data.subsets import index_hash, subset
from crossover.record import Record, identify
from crossover.store import weights_hash, write_arrays, write_atomically, write_json
from crossover.training.epochs import Chunks, ResumePoint, StoppedError, leg_bounds, stop_on_signals
from crossover.training.loggers import close_logger, log_end, make_logger
from crossover.training.machine import (
    Precision,
    device_name,
    forget_peaks,
    git_state,
    package_versions,
    peak_rss_bytes,
    resolve_device,
    resolve_engine,
    resolve_precision,
    tune_allocator,
)
from crossover.training.models import build_model, count_parameters, forward_flops
from crossover.training.module import Classifier, label_smoothing_floor
from crossover.training.ranks import Rank, companions, this_rank
from crossover.training.weights import start_from

EVAL_BATCH = 250
TRAIN_SAMPLE = 2_000
"""Most training images on which the final training error is measured."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, error as a fraction, labels and predicted classes int64 (N,)."""

    loss: float
    error: float
    labels: np.ndarray
    predictions: np.ndarray


def execute(run: RunConfig, stop: threading.Event | None = None) -> Record:
    """Train one run, or continue it, and return its record; raise StoppedError after `stop` was set and it saved."""
    rank = this_rank(run.trainer)
    with companions(run, rank, _take_part):
        return _execute(run, rank, stop or threading.Event())


def _take_part(run: RunConfig) -> None:
    with stop_on_signals(signal.SIGTERM) as stop, contextlib.suppress(StoppedError):
        execute(run, stop)


def _execute(run: RunConfig, rank: Rank, stop: threading.Event) -> Record:
    started = time.perf_counter()
    device = resolve_device(run, rank.local)
    forget_peaks(device)
    precision, engine = resolve_precision(run, device), resolve_engine(run, device)
    torch.set_num_threads(run.machine.threads)
    tune_allocator()
    torch.backends.cudnn.benchmark = True  # the shapes of a run do not change
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    indices = subset(dataset.pool, dataset.labels, n_train=run.n_train, chain=run.chain)
    torch.manual_seed(run.seed)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes))
    outputs = Path(run.machine.outputs)
    init_hash = None if run.init_from is None else start_from(network, run.init_from, outputs)
    forward = forward_flops(network, run.data.image_size)
    size, steps = run.recipe.batch_size, run.budget.total_steps(run.n_train, run.recipe.batch_size, forward)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if rank.count > 1:
        network = share_batch_norm(network, device)
    images = Images(dataset, indices, device, run.machine.resident_gb)
    batches = TrainBatches(images, run.augment, batch_size=size, seed=run.seed, rows=rank.rows(size))
    module = Classifier(network, run.recipe, batches, total_steps=steps, bf16=precision == "bf16", engine=engine)
    facts: Record = {
        **identify(run),
        "steps": steps,
        "images_seen": steps * size,
        "params": count_parameters(network),
        "flops": 3 * forward * steps * size,
        "forward_flops": forward,
        "loss_floor": label_smoothing_floor(run.recipe.label_smoothing, len(dataset.classes)),
        "device": device_name(device),
        "precision": precision,
        "engine": engine,
        "threads": run.machine.threads,
        "dataset_hash": dataset.hash,
        "subset_hash": index_hash(indices),
        "n_pool": len(dataset.pool),
        "init_hash": init_hash,
        "init_file_hash": None if run.init_from is None else weights_hash(run.init_from, outputs),
        "git": git_state(),
        "config": run.model_dump(mode="json"),
    }
    run.run_dir.mkdir(parents=True, exist_ok=True)
    logger, exit_code = make_logger(run, facts) if rank.index == 0 else None, 1
    try:
        fit(run, module, rank, logger, stop, init_hash)
        if rank.index > 0:  # the first one writes
            return {}
        record: Record = {
            **facts,
            **_measure(run, module, precision),
            "total_seconds": time.perf_counter() - started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_rss_bytes": peak_rss_bytes(),
            "device_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
            "versions": package_versions(),
            "classes": list(dataset.classes),
        }
        write_json(run.run_dir / "record.json", record)
        (run.run_dir / "last.ckpt").unlink(missing_ok=True)
        log_end(logger, record, run)
        exit_code = 0
    finally:
        close_logger(logger, exit_code)
    return record


def share_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch-norm statistics of the whole batch, when several processes train on its parts."""
    if device.type != "cuda" and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise CrossoverError(
            "trainer.devices above 1 with batch norm needs CUDA devices, as only they can share its statistics; use one"
            " device, or a model without batch norm"
        )
    return convert_sync_batchnorm(model)  # timm's: torch's own would drop the activations that timm fuses into norms


def fit(
    run: RunConfig,
    module: Classifier,
    rank: Rank,
    logger: Logger | None,
    stop: threading.Event,
    init_hash: str | None,
) -> None:
    dataset, device = module.batches.images.dataset, module.batches.images.device
    held_out = Images(dataset, dataset.val, device, run.machine.resident_gb)
    size = min(EVAL_BATCH, -(-len(held_out) // rank.count))
    validation = EvalBatches(held_out, batch_size=size, share=(rank.index, rank.count))
    bounds = leg_bounds(module.total_steps, run.budget.evaluations)
    origin = {"dataset_hash": dataset.hash, "init_hash": init_hash}
    point = ResumePoint(run.run_dir / "last.ckpt", bounds, stop, origin)
    point.load(module)
    # where Slurm is installed Lightning wants srun; we start our own processes
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")  # Lightning 2.6 with torch 2.14
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=run.trainer.devices if device.type == "cpu" or rank.count > 1 else [device.index],
        num_nodes=run.trainer.num_nodes,
        strategy="ddp" if rank.count > 1 else "auto",
        max_epochs=sum(bound > module.step for bound in bounds),
        logger=logger or False,
        callbacks=[point],
        plugins=[SLURMEnvironment(auto_requeue=False) if rank.by_slurm else LightningEnvironment()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=run.run_dir,
    )
    try:
        if module.step < module.total_steps:
            trainer.fit(module, Chunks(module, bounds), validation)
    finally:
        if rank.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if module.step != module.total_steps:
        raise CrossoverError(f"{run.run_id} stopped at step {module.step} of {module.total_steps}; start it again")


def _measure(run: RunConfig, module: Classifier, precision: Precision) -> Record:
    images = module.batches.images
    network = module.evaluated.to(images.device).eval()
    network.load_state_dict(module.best["weights"])

    def evaluated(indices: np.ndarray, *, test: bool) -> Evaluation:
        members = Images(images.dataset, indices, images.device, run.machine.resident_gb, test=test)
        return evaluate(network, EvalBatches(members, batch_size=EVAL_BATCH), precision)

    test = evaluated(np.arange(len(images.dataset.test_labels)), test=True)
    train = evaluated(images.indices[:TRAIN_SAMPLE], test=False)
    selected = next(row for row in module.history if row["step"] == module.best["step"])
    weights = {k: v.contiguous().cpu() for k, v in network.state_dict().items()}
    about = {"run_id": run.run_id, "model": run.model.model_dump_json()}
    # not with save_file: its errors are no OSError, and its files private
    write_atomically(run.run_dir / "weights.safetensors", lambda path: path.write_bytes(save(weights, about)))
    save_predictions(run.run_dir / "predictions.npz", test.labels, test.predictions)
    return {
        "test_error": test.error,
        "test_loss": test.loss,
        "train_error": train.error,
        "train_loss": train.loss,
        "val_error": selected["val_error"],
        "val_loss": selected["val_loss"],
        "test_error_by_class": error_by_class(test, len(images.dataset.classes)),
        "n_test": len(test.labels),
        "best_step": module.best["step"],
        "train_seconds": module.train_seconds,
        "images_per_second": module.step * run.recipe.batch_size / module.train_seconds,
        "history": module.history,
    }


def error_by_class(test: Evaluation, classes: int) -> list[float | None]:
    """Return the error of each class; None for a class without test images."""
    wrong = test.predictions != test.labels
    of_class = (wrong[test.labels == label] for label in range(classes))
    return [float(part.mean()) if len(part) else None for part in of_class]


def save_predictions(path: Path, labels: np.ndarray, predictions: np.ndarray) -> None:
    write_arrays(path, {"labels": labels.astype(np.int16), "predictions": predictions.astype(np.int16)})


@torch.inference_mode()
def evaluate(network: nn.Module, batches: EvalBatches, precision: Precision) -> Evaluation:
    losses, labels, predictions = [], [], []
    for x, target in batches:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(x)
        losses.append(F.cross_entropy(logits.float(), target, reduction="sum").double())
        labels.append(target)
        predictions.append(logits.argmax(1))
    truth, guess = torch.cat(labels).cpu().numpy(), torch.cat(predictions).cpu().numpy()
    return Evaluation(float(torch.stack(losses).sum()) / len(truth), float((truth != guess).mean()), truth, guess)
