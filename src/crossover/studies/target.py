"""A target of a transfer study: linear probes of frozen features on it, and photographs it shares with the source."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossover.config import RunConfig
from crossover.data.cache import Dataset, open_dataset
from crossover.data.loader import Batch, EvalBatches, Images
from crossover.data.subsets import subset
from crossover.studies.probes.representation import Ridge
from crossover.training.machine import resolve_device
from crossover.training.models import build_model
from crossover.training.weights import start_from

PENALTIES = tuple(10.0**power for power in range(-4, 3))
"""Ridge penalties per image, tried on standardised features."""
Features = tuple[Tensor, Tensor]
"""float64 (N, D) and labels int64 (N,)."""
LIMIT = 4
"""Bits of 64 in which the hashes of two near-copies may differ: re-encoded, resized images differ in fewer."""
_ROWS, _STEPS = 8, 8
_CHUNK = 1000
"""Images hashed or compared at a time."""
_LUMINANCE = (0.299, 0.587, 0.114)


class Reading(NamedTuple):
    """The result of a linear probe of frozen features; errors are fractions, means over `draws`."""

    protocol: str
    """`probe`, or such as `5shot`."""
    n_target: int
    """Labelled images that the probe was fitted to."""
    draws: int
    """Independent draws of those images."""
    test_error: float
    val_error: float
    penalty: float
    """Ridge penalty per image with the lowest validation error; the median over draws."""


def read_backbone(
    run: RunConfig, *, probe_images: int, shots: Sequence[int], draws: int
) -> tuple[list[Reading], tuple[Tensor, Tensor]]:
    """Return the linear probes of a backbone on another task, and labels and predictions (T,) of the first, `probe`.

    `run` is the target's: its data, the model, the chain, and `init_from` (None: the untrained network of its seed).
    The probe is fitted to the first `probe_images` of the chain; few-shot probes to `draws` class-balanced draws of
    k images per class from those, the same for all backbones. Penalties are chosen on the target's validation images.
    """
    device = resolve_device(run)
    dataset = open_dataset(run.data, Path(run.machine.data_dir))
    torch.manual_seed(run.seed)
    network = build_model(run.model, image_size=run.data.image_size, classes=len(dataset.classes))
    if run.init_from is not None:
        start_from(network, run.init_from, Path(run.machine.outputs))
    network = network.to(device).eval()
    taken = subset(dataset.pool, dataset.labels, n_train=probe_images, chain=run.chain)

    def features_of(indices: np.ndarray, *, test: bool = False) -> Features:
        members = Images(dataset, indices, device, float("inf"), test=test)
        return features(network, EvalBatches(members, batch_size=500))

    x, y = features_of(taken)
    val = features_of(dataset.val)
    test = features_of(np.arange(len(dataset.test_labels)), test=True)
    fitted_to = {"probe": [np.arange(len(y))]}
    for k in shots:
        count = k * len(dataset.classes)
        fitted_to[f"{k}shot"] = [
            subset(np.arange(len(y)), y.numpy(), n_train=count, chain=draw) for draw in range(draws)
        ]
    readings, predicted = [], []
    for protocol, parts in fitted_to.items():
        fitted = (fit_reader((x[part], y[part]), val, test) for part in parts)
        errors, val_errors, penalties, guesses = zip(*fitted, strict=True)
        predicted.append(guesses[0])
        found = fmean(errors), fmean(val_errors), median(penalties)
        readings.append(Reading(protocol, len(parts[0]), len(parts), *found))
    return readings, (test[1], predicted[0])


@torch.inference_mode()
def features(network: Any, batches: Iterable[Batch]) -> Features:
    """Return the input of a timm network's classifier (pooled, normalised) and the labels, on the CPU."""
    found, labels = [], []
    for x, target in batches:
        found.append(network.forward_head(network.forward_features(x), pre_logits=True).double().cpu())
        labels.append(target.cpu())
    return torch.cat(found), torch.cat(labels)


def fit_reader(train: Features, val: Features, test: Features) -> tuple[float, float, float, Tensor]:
    """Return test error, validation error, penalty and predicted test classes (T,) of a ridge regression onto classes.

    The penalty is the one of PENALTIES with the lowest validation error; among equals, the largest.
    """
    classes = int(max(part[1].max() for part in (train, val, test))) + 1
    reader = Ridge(*train, classes)
    found = {penalty: reader.error(*val, penalty) for penalty in PENALTIES}
    best = min(found, key=lambda penalty: (found[penalty], -penalty))
    predicted = reader.predict(test[0], best)
    return float((predicted != test[1]).double().mean()), found[best], best, predicted


def difference_hash(images: np.ndarray) -> Tensor:
    """Return float32 (N, 64) of +1 and -1: whether the brightness rises from one to the next of 8 x 9 cells.

    `images` are uint8 (N, S, S, 3), of any size S.
    """
    parts = []
    for start in range(0, len(images), _CHUNK):
        pixels = torch.from_numpy(np.array(images[start : start + _CHUNK], np.float32))
        cells = F.adaptive_avg_pool2d(pixels @ torch.tensor(_LUMINANCE), (_ROWS, _STEPS + 1))
        parts.append(torch.where(cells.diff(dim=2) > 0, 1.0, -1.0).flatten(1))
    return torch.cat(parts)


def near_copies(images: np.ndarray, others: Tensor) -> int:
    """Return how many images have a hash within LIMIT bits of one of the `others` (M, 64)."""
    bits = _ROWS * _STEPS
    agreement = [(part @ others.T).amax(dim=1) for part in difference_hash(images).split(_CHUNK)]
    return int((torch.cat(agreement) >= bits - 2 * LIMIT).sum())


def overlap_sentence(source: Dataset, target: Dataset) -> str:
    """Return how many test images of the target have a near-copy in the source, beside what chance gives.

    Chance: the same test images mirrored, which have the same statistics and no copies.
    """
    hashes = difference_hash(source.images)
    found = near_copies(target.test_images, hashes)
    chance = near_copies(target.test_images[:, :, ::-1], hashes)
    return (
        f"Of {len(target.test_images):,} test images of {target.name}, {found} have a near-copy among the"
        f" {len(source.images):,} images of {source.name} (difference hashes differ in at most {LIMIT} of 64 bits)."
        f" By chance it is {chance}: so many have one when they are mirrored."
    )
