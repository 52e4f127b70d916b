"""Claims about photographs that are in two data sets."""

import io

import numpy as np
import torch
from PIL import Image

from crossover.studies.target import LIMIT, difference_hash, near_copies


def smooth(seed: int, count: int, side: int) -> np.ndarray:
    """Return uint8 (count, side, side, 3): random images without detail, which are the hardest to tell apart."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def recoded(image: np.ndarray, side: int) -> np.ndarray:
    """Return the image at another size, after JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).resize((side, side)).save(buffer, "jpeg", quality=60)
    return np.asarray(Image.open(buffer))


def test_a_resized_recompressed_copy_is_found_and_other_images_are_not() -> None:
    theirs = smooth(0, 500, 64)
    ours = smooth(1, 200, 32)
    hashes = difference_hash(theirs)
    assert hashes.shape == (500, 64)
    assert near_copies(ours, hashes) == 0
    copies = np.stack([recoded(image, 32) for image in theirs[:50]])
    assert near_copies(copies, hashes) >= 45
    assert near_copies(np.concatenate([ours, copies[:1]]), hashes) == near_copies(copies[:1], hashes)


def test_the_hash_is_of_brightness_and_counts_bits() -> None:
    rising = np.arange(32, dtype=np.uint8)[None, None, :, None].repeat(32, 1).repeat(3, 3)
    assert (difference_hash(rising) == 1).all()
    assert (difference_hash(rising[:, :, ::-1]) == -1).all()
    changed = rising.copy()
    changed[:, :4] = changed[:, :4, ::-1]  # a row of cells: 8 bits
    assert (difference_hash(changed) == -1).sum() == 8 > LIMIT
    assert near_copies(changed, difference_hash(rising)) == 0
