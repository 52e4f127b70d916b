"""Probes of published weights from timm, on a folder of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.config import resolve_model_data_config
from torch import Tensor

from crossover.config import CrossoverError
from crossover.data.folders import SUFFIXES
from crossover.studies.probes.measure import compare_networks
from crossover.training.weights import load_timm

MOST = 128
"""Images that are probed; at 224 px more would take minutes on a CPU."""


def probe_published(init_from: str, folder: Path | None) -> pd.DataFrame:
    """Return the probes of `timm:<tag>` and of the same network untrained, with a column `model`.

    `folder` holds a folder of images for each class: any classes, which only the linear probe uses. Probes of the
    network's own classes (accuracy and what depends on it) are left out.
    """
    if folder is None:
        raise CrossoverError("init_from needs images: give images=FOLDER, which has one folder of images per class")
    model: Any = load_timm(init_from)
    torch.manual_seed(0)
    untrained = timm.create_model(init_from.partition(":")[2], pretrained=False).eval()
    given: Any = resolve_model_data_config(model)
    images, labels = read_images(folder, given["input_size"][-1], given["mean"], given["std"])
    return compare_networks(model, untrained, images, labels, own_classes=False).assign(model=init_from)


def read_images(
    folder: Path, size: int, mean: tuple[float, ...], std: tuple[float, ...], most: int = MOST
) -> tuple[Tensor, Tensor]:
    """Return images normalised float32 (N, 3, size, size) and labels (N,), as many of each class, in a mixed order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [sorted(p for p in one.iterdir() if p.suffix.lower() in SUFFIXES) for one in classes]
    count = min((len(one) for one in files), default=0)
    if len(classes) < 2 or count < 4:
        raise CrossoverError(f"images={folder} needs at least two folders, one per class, of at least 4 images each")
    chosen = [(files[k][i], k) for i in range(count) for k in range(len(classes))][:most]
    chosen = [chosen[i] for i in np.random.default_rng(0).permutation(len(chosen))]
    arrays = [_read(path, size) for path, _ in chosen]
    x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    scale = [torch.tensor(values)[:, None, None] for values in (mean, std)]
    return (x - scale[0]) / scale[1], torch.tensor([label for _, label in chosen])


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    except (OSError, UnidentifiedImageError) as error:
        raise CrossoverError(f"{path} cannot be read as an image ({error}); remove it") from None
