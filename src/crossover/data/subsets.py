"""Which images does a run train on? Class-stratified, nested, and the same for every model."""

import hashlib

import numpy as np

from crossover.config import CrossoverError

_HOLDOUT_STREAM, _CHAIN_STREAM = 0, 1


def stratified_holdout(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (pool, held out) as sorted int64 indices; `fraction` of each class, rounded, at least one image.

    Fixed: it depends on the labels alone, so that every run of every sweep selects on the same images.
    """
    rng = np.random.default_rng(_HOLDOUT_STREAM)
    held = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise CrossoverError(f"class {label} has {len(members)} training image: two are needed to hold one out")
        held.append(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def chain_order(labels: np.ndarray, chain: int) -> np.ndarray:
    """Return a permutation (N,) of the pool positions whose every prefix has the class proportions of the whole.

    Each class is shuffled and spread evenly over the order (its j-th image at (j + u) / size, with an own u per class),
    so that in a balanced pool the class counts of a prefix differ by at most one. Chains are independent draws.
    """
    rng = np.random.default_rng([_CHAIN_STREAM, chain])
    values = np.unique(labels)
    phase = (rng.permutation(len(values)) + 0.5) / len(values)
    place = np.empty(len(labels))
    for label, start in zip(values, phase, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + start) / len(members)
    return np.argsort(place, kind="stable")


def check_size(n_train: int, classes: int, pool: int) -> None:
    """Raise CrossoverError unless `n_train` images can be drawn."""
    if not classes <= n_train <= pool:
        raise CrossoverError(
            f"n_train={n_train} is not possible: allowed are {classes} (one image per class) to {pool} (the pool)"
        )


def subset(pool: np.ndarray, labels: np.ndarray, *, n_train: int, chain: int) -> np.ndarray:
    """Return int64 indices (n_train,) into the images: the first n_train of the chain.

    `pool` holds the indices chains are drawn from, `labels` the labels of all images.
    """
    check_size(n_train, len(np.unique(labels[pool])), len(pool))
    return pool[chain_order(labels[pool], chain)[:n_train]]


def index_hash(indices: np.ndarray) -> str:
    """Return the SHA-256 of an index array, in its order."""
    return hashlib.sha256(np.ascontiguousarray(indices, dtype="<i8").tobytes()).hexdigest()
