"""One fixed permutation of the patches or pixels of all images, after which nearness in the image means nothing."""

import numpy as np

from crossover.fields import PermuteConfig

_PERMUTE_STREAM = 3


def pixel_order(config: PermuteConfig, image_size: int) -> np.ndarray | None:
    """Return int64 (image_size ** 2,), the pixel that each place is filled from, or None without a permutation.

    A share of the patches (or pixels), rounded, is drawn at random and permuted in one random cycle, so that each of
    them moves and the others stay. A pure function of the config; a larger share moves those of a smaller one too.
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
