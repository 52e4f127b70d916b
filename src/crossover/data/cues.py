"""The embedded two-cue world: its images, and the best accuracy that any classifier can reach on them.

    x = noise(0, 1) + alpha * T_y + beta * shift(M_m, u)        m = y with probability q, else a uniform class

`T_y` is a fixed full-image pattern per class: a global cue, bound to its place. `M_m` is a 5x5 motif per class at a
uniform random place u, entirely inside the image: a local cue, the same everywhere. An image is a pure function of
(world seed, image seed, split, index), so that every size is a prefix of an unlimited pool. Values are stored as uint8,
`ZERO` + `LEVELS` x, which adds 0.012 noise standard deviations of rounding error.
"""

from collections.abc import Iterator

import numpy as np

from crossover.fields import CuesData
from crossover.text import tracked

MOTIF = 5
ZERO, LEVELS = 128, 24
BLOCK = 4096
"""Images that share one random generator; changing it changes the world."""
_PATTERN_STREAM, _TRAIN_STREAM, _TEST_STREAM = 0, 1, 2
AT_ONCE = 25
"""Images per chunk of the exact Bayes rule: their windows fit the CPU cache, which is three times as fast."""


def draw_patterns(config: CuesData) -> tuple[np.ndarray, np.ndarray]:
    """Return T (K, S, S, 3) and M (K, 5, 5, 3), float32 of unit root mean square, of every class of a world.

    They depend on its seed, size and classes only, never on the dials.
    """
    rng = np.random.default_rng([config.world_seed, _PATTERN_STREAM, 0])
    cues = (rng.standard_normal((config.classes, side, side, 3)) for side in (config.image_size, MOTIF))
    pattern, motif = (x / np.sqrt(np.mean(x**2, axis=(1, 2, 3), keepdims=True)) for x in cues)
    return pattern.astype(np.float32), motif.astype(np.float32)


def blocks(config: CuesData, stream: int, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images uint8 (b, S, S, 3) and labels int64 (b,) of one stream, b <= BLOCK, `count` in all."""
    patterns, motifs = draw_patterns(config)
    offset = np.arange(MOTIF)
    for block in range(-(-count // BLOCK)):
        # a fourth word of 0 would be the same seed as none
        series = [] if config.image_seed is None else [1 + config.image_seed]
        rng = np.random.default_rng([config.world_seed, stream, 1 + block, *series])
        labels = rng.integers(config.classes, size=BLOCK)
        other = rng.integers(config.classes, size=BLOCK)
        motif = np.where(rng.random(BLOCK) < config.q, labels, other)
        row, column = rng.integers(config.image_size - MOTIF + 1, size=(2, BLOCK))
        x = rng.standard_normal((BLOCK, config.image_size, config.image_size, 3), dtype=np.float32)
        x += config.alpha * patterns[labels]
        rows, columns = row[:, None] + offset, column[:, None] + offset
        x[np.arange(BLOCK)[:, None, None], rows[:, :, None], columns[:, None, :]] += config.beta * motifs[motif]
        images = np.clip(np.rint(x * LEVELS + ZERO), 0, 255).astype(np.uint8)
        keep = min(BLOCK, count - block * BLOCK)
        yield images[:keep], labels[:keep]


def generate(config: CuesData) -> list[np.ndarray]:
    """Return train images, train labels, test images, test labels; train is the pool followed by validation."""
    drawn: list[np.ndarray] = []
    for stream, count in ((_TRAIN_STREAM, config.n_pool + config.n_val), (_TEST_STREAM, config.n_test)):
        parts = tracked(blocks(config, stream, count), f"{config.name}, blocks of images drawn", -(-count // BLOCK))
        drawn += [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return drawn


def bayes_predictions(config: CuesData, images: np.ndarray) -> np.ndarray:
    """Return the most probable class int64 (N,) of uint8 images: the exact Bayes rule, over all motifs and places.

    log p(x | y) = log sum_m p(m | y) mean_u exp(<x, c> - |c|^2 / 2) + const,  c = alpha T_y + beta shift(M_m, u).
    """
    classes, side = config.classes, config.image_size
    pattern, motif = (cues.astype(np.float64).reshape(classes, -1) for cues in draw_patterns(config))
    pattern, motif = config.alpha * pattern, config.beta * motif
    # <T_y, shift(M_m, u)> for every class, motif and place
    cross = _windows(pattern.reshape(classes, side, side, 3)) @ motif.T
    prior = np.log((1 - config.q) / classes + config.q * np.eye(classes) + 1e-300)
    bias = prior[:, None, :] - cross - 0.5 * np.sum(motif**2, axis=1)
    best = np.empty(len(images), np.int64)
    for start in range(0, len(images), AT_ONCE):
        x = (images[start : start + AT_ONCE].astype(np.float64) - ZERO) / LEVELS
        local = (_windows(x) @ motif.T).reshape(len(x), -1)
        highest = local.max(axis=1, keepdims=True)  # exponentials of what is left stay within float64
        of_cues = highest + np.log(np.exp(local - highest) @ np.exp(bias.reshape(classes, -1)).T)
        of_pattern = x.reshape(len(x), -1) @ pattern.T - 0.5 * np.sum(pattern**2, axis=1)
        best[start : start + AT_ONCE] = np.argmax(of_cues + of_pattern, axis=1)
    return best


def _windows(x: np.ndarray) -> np.ndarray:
    """Return every 5x5 window of (N, S, S, 3) as (N, places, 75)."""
    view = np.lib.stride_tricks.sliding_window_view(x, (MOTIF, MOTIF), axis=(1, 2))
    return np.moveaxis(view, 3, -1).reshape(len(x), -1, MOTIF * MOTIF * 3)


def bayes_accuracy(config: CuesData, images: int = 20_000) -> float:
    """Return the accuracy of the exact Bayes classifier on the first `images` of the test stream (a fraction)."""
    parts = blocks(config, _TEST_STREAM, images)
    return sum(int(np.sum(bayes_predictions(config, x) == labels)) for x, labels in parts) / images


def local_only_accuracy(config: CuesData) -> float:
    """Return the bound q + (1 - q) / K of any classifier that reads only the motif (a fraction)."""
    return config.q + (1 - config.q) / config.classes if config.beta > 0 else 1 / config.classes
