"""Networks to probe, of a run or published ones of timm, trained and untrained, and the images to probe them with."""

import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import decode, open_dataset
from crossover.data.loader import EvalBatches, Images
from crossover.data.readers.folder import class_files
from crossover.store import read_frozen, read_record
from crossover.training.models import build_model
from crossover.training.weights import load_timm

MOST_PUBLISHED = 128
"""Images that a published network is probed on; at 224 px more would take minutes on a CPU."""


class Checkpoint(NamedTuple):
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
        raise CrossoverError(f"{path} cannot be read ({error}); move {run_dir} away and repeat its sweep") from None
    torch.manual_seed(run.seed)
    untrained = build_model(run.model, image_size=run.data.image_size, classes=classes).eval()
    trained = copy.deepcopy(untrained)
    try:
        trained.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise CrossoverError(f"{path} does not fit its config: {reason}; repeat its sweep") from None
    return Checkpoint(run, trained, untrained)


def probe_images(run: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` test images of all classes, normalised float32 (count, 3, S, S), and labels.

    No choice depends on them: probes describe a finished run.
    """
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    taken = mixed_order(dataset.test_labels)[:count]
    images = Images(dataset.test_images, dataset.test_labels, taken, torch.device("cpu"), float("inf"))
    return next(iter(EvalBatches(images, dataset, batch_size=len(taken))))


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """Return an order, int64 (N,), in which any part has all classes: a fixed random one if images come class by class.

    Test images that are already mixed keep their order. Alternating the classes would not do, as the linear probe is
    fitted to every other image.
    """
    mixed = (np.diff(labels) < 0).any()
    return np.arange(len(labels)) if mixed else np.random.default_rng(0).permutation(len(labels))


def load_published(init_from: str, folder: Path | None) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Return the network `timm:<tag>`, the same without training, and images and labels of `folder`.

    `folder` holds a folder of images for each class: any classes, which only the linear probe uses.
    """
    if folder is None:
        raise CrossoverError("init_from needs images: give images=FOLDER, which has one folder of images per class")
    model = load_timm(init_from)
    torch.manual_seed(0)
    untrained = timm.create_model(init_from.partition(":")[2], pretrained=False).eval()
    given = resolve_model_data_config(model)
    return model, untrained, *read_images(folder, given["input_size"][-1], given["mean"], given["std"])


def read_images(folder: Path, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return images normalised float32 (N, 3, size, size) and labels (N,), as many of each class, in a mixed order."""
    files = list(class_files(folder, []).values())
    count = min(map(len, files), default=0)
    if len(files) < 2 or count < 4:
        raise CrossoverError(f"images={folder} needs at least two folders, one per class, of at least 4 images each")
    chosen = [(files[k][i], k) for i in range(count) for k in range(len(files))][:MOST_PUBLISHED]
    chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]
    x = torch.from_numpy(np.stack([decode(path, size) for path, _ in chosen])).permute(0, 3, 1, 2).float() / 255
    scale = [torch.tensor(values)[:, None, None] for values in (mean, std)]
    return (x - scale[0]) / scale[1], torch.tensor([label for _, label in chosen])
