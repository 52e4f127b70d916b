"""Loading of the network of a run, trained and untrained, and of the images to probe it with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import EvalBatches, Images
from crossover.store import read_frozen, read_record
from crossover.training.models import build_model


@dataclass(frozen=True)
class Checkpoint:
    """A trained network, the same network before training, and its run."""

    run: RunConfig
    model: nn.Module
    untrained: nn.Module


def load_run(run_dir: Path) -> Checkpoint:
    """Return the tested weights of a finished run and its initial ones, drawn again from its seed, on the CPU."""
    run = read_frozen(run_dir)
    classes = len(read_record(run_dir / "record.json")["classes"])
    path = run_dir / "weights.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CrossoverError(f"{path} cannot be read ({error}); delete {run_dir} and repeat its sweep") from None
    networks = []
    for _ in range(2):
        torch.manual_seed(run.seed)
        networks.append(build_model(run.model, image_size=run.data.image_size, classes=classes))
    trained, untrained = networks
    try:
        trained.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CrossoverError(f"{path} does not fit its config: {reason}; repeat its sweep") from None
    return Checkpoint(run, trained.eval(), untrained.eval())


def probe_images(run: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` test images of all classes, normalised float32 (count, 3, S, S), and labels.

    No choice depends on them: probes describe a finished run.
    """
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    taken = mixed_order(dataset.test_labels)[:count]
    images = Images(dataset.test_images, dataset.test_labels, taken, torch.device("cpu"), float("inf"))
    batches = list(EvalBatches(images, dataset, batch_size=len(taken)))
    return batches[0]


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """Return an order, int64 (N,), in which any part has all classes: a fixed random one if images come class by class.

    Test images that are already mixed keep their order. Alternating the classes would not do, as the linear probe is
    fitted to every other image.
    """
    mixed = (np.diff(labels) < 0).any()
    return np.arange(len(labels)) if mixed else np.random.default_rng(0).permutation(len(labels))
