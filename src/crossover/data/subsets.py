"""The random choices that all runs and models share: nested, class-stratified subsets, and permutations of pixels."""

import hashlib
from collections.abc import Sequence

import numpy as np

from crossover.config import CrossoverError
from crossover.fields import PermuteConfig

_HOLDOUT_STREAM, _CHAIN_STREAM, _PERMUTE_STREAM = 0, 1, 3


def stratified_holdout(labels: np.ndarray, fraction: float, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (pool, held out) as sorted int64 indices; `fraction` of each class, rounded, at least one image.

    It depends only on the labels, so that every run of every sweep selects on the same images.
    """
    rng = np.random.default_rng(_HOLDOUT_STREAM)
    held = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise CrossoverError(
                f"class {classes[label]} has {len(members)} training image: two are needed, as one is held out for"
                " validation; add another one, or a val folder"
            )
        held.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def chain_order(labels: np.ndarray, chain: int) -> np.ndarray:
    """Return a permutation (N,) of the pool positions whose every prefix has the class proportions of the whole.

    Each class is shuffled and spread evenly over the order (its j-th image at (j + u) / size, with an own u per class),
    so that in a balanced pool the class counts of a prefix differ by at most one. If a small class would come too
    late, the first image of every class comes as early as that of the largest, so that a prefix of as many images as
    classes has one of each. Chains are independent draws.
    """
    rng = np.random.default_rng([_CHAIN_STREAM, chain])
    values, counts = np.unique(labels, return_counts=True)
    phase = (rng.permutation(len(values)) + 0.5) / len(values)
    place = np.empty(len(labels))
    first = np.empty(len(values), np.int64)
    for number, start in enumerate(phase):
        members = rng.permutation(np.flatnonzero(labels == values[number]))
        place[members] = (np.arange(len(members)) + start) / len(members)
        first[number] = members[0]
    order = np.argsort(place, kind="stable")
    if len(np.unique(labels[order[: len(values)]])) < len(values):
        place[first] = phase / counts.max()
        order = np.argsort(place, kind="stable")
    return order


def check_size(n_train: int, classes: int, pool: int) -> None:
    """Raise CrossoverError unless a subset of `n_train` images exists."""
    if not classes <= n_train <= pool:
        raise CrossoverError(
            f"n_train={n_train} is not possible: allowed are {classes} (one image per class) to {pool} (the pool)"
        )


def subset(pool: np.ndarray, labels: np.ndarray, *, n_train: int, chain: int) -> np.ndarray:
    """Return int64 indices (n_train,) into the images: the first n_train of the chain, which is drawn from `pool`."""
    check_size(n_train, len(np.unique(labels[pool])), len(pool))
    return pool[chain_order(labels[pool], chain)[:n_train]]


def index_hash(indices: np.ndarray) -> str:
    """Return the SHA-256 of an index array, in its order."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()


def pixel_order(config: PermuteConfig, image_size: int) -> np.ndarray | None:
    """Return int64 (image_size ** 2,), the pixel that each place is filled from, or None without a permutation.

    A share of the patches (or pixels) is permuted in one random cycle; a larger share moves those of a smaller one too.
    """
    side = 1 if config.kind == "pixels" else config.patch
    cells = image_size // side
    moved = round(config.share * cells**2)
    if config.kind == "none" or moved < 2:
        return None
    cycle = np.random.default_rng([config.seed, _PERMUTE_STREAM]).permutation(cells**2)[:moved]
    source = np.arange(cells**2)
    source[cycle] = np.roll(cycle, 1)
    pixels = np.arange(image_size**2).reshape(cells, side, cells, side).swapaxes(1, 2).reshape(cells**2, -1)
    order = np.empty(image_size**2, np.int64)
    order[pixels] = pixels[source]
    return order
