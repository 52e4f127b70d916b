"""The steps of augmentation, for a batch at a time, with parameters drawn for each image; nothing is read back.

The policies are RandAugment and TrivialAugment: operations, strengths and the values they give are those of
torchvision's RandAugment (Cubuk et al. 2020) and TrivialAugmentWide (Müller and Hutter 2021), version 2 of its
transforms; geometric operations take the nearest neighbour and fill with zero.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from crossover.fields import AugmentConfig

TRIES = 10
"""Tries to draw a rectangle that fits, as in torchvision."""
Pair = tuple[float, float]
EACH = -1
"""Stands for the images in a shape."""
Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Changes images uint8 (B, 3, H, W), given operations (B,) and strengths (B, 1, 1, 1)."""
BINS = 31
"""Magnitudes 0..30."""
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")
OPERATIONS = (*GEOMETRIC, *ENHANCING, "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")
SIGNED = len(GEOMETRIC) + len(ENHANCING)
"""The first operations work in both directions, with probability one half each."""


class Draws:
    """Random draws for a batch of `count` images, kept for the images `rows` (int64 positions), or for all.

    They do not depend on how many processes share the batch.
    """

    def __init__(self, generator: torch.Generator, count: int, rows: Tensor | None = None) -> None:
        self.generator, self.count, self.rows = generator, count, rows

    def uniform(self, *shape: int) -> Tensor:
        """Return float32 in [0, 1) of a shape in which EACH stands for the images."""
        return self._draw(torch.rand, shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return int64 in 0..high-1 of a shape in which EACH stands for the images."""
        return self._draw(functools.partial(torch.randint, high), shape)

    def beta(self, alpha: float) -> Tensor:
        """Return draws of Beta(alpha, alpha), one for each image, as the share of one of two gamma variates."""

        def gamma(size: tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
            return torch._standard_gamma(torch.full(size, alpha, device=device), generator=generator)

        both = self._draw(gamma, (2, EACH)).clamp(min=1e-12)
        return both[0] / both.sum(dim=0)

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        full = tuple(self.count if length == EACH else length for length in shape)
        drawn = draw(full, device=self.generator.device, generator=self.generator)
        return drawn if self.rows is None else drawn.index_select(shape.index(EACH), self.rows)


def crop_and_flip(images: Tensor, padding: int, flip: bool, draws: Draws) -> Tensor:
    """Return random crops of zero-padded images, each flipped left to right with probability one half; one gather."""
    count, height, width, _ = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    if padding:
        offset = draws.integers(2 * padding + 1, 2, EACH, 1)
        rows, columns = rows + offset[0], columns + offset[1]
        images = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    if flip:
        columns = torch.where(draws.uniform(EACH, 1) < 0.5, columns.flip(1), columns)
    full_height, full_width = images.shape[1:3]
    image = torch.arange(count, device=device)[:, None]
    at = ((image * full_height + rows)[:, :, None] * full_width + columns[:, None, :]).reshape(-1)
    return images.reshape(-1, 3)[at].reshape(count, height, width, 3)


def resized_crop(images: Tensor, min_area: float, draws: Draws) -> Tensor:
    """Return random crops of square images, resized to full size (Szegedy et al. 2015): uint8 (B, S, S, 3).

    A crop has `min_area` to all of the area and an aspect ratio of 3/4 to 4/3; when no try fits it is the full image.
    Resizing is bilinear, as in torchvision, whose antialiasing has no effect on enlarging.
    """
    count, size, _, _ = images.shape
    top, left, tall, wide, fits = rectangles(draws, (size, size), (min_area, 1.0), (3 / 4, 4 / 3), (size, size))
    image = torch.arange(count, device=images.device)[:, None]
    x = images.flatten(2)
    for start, extent in ((top, tall), (left, wide)):  # vertically, and then horizontally
        first, length = torch.where(fits, start, 0), torch.where(fits, extent, size)
        place = (torch.arange(size, device=x.device) + 0.5) * (length / size)[:, None] - 0.5
        place = place.clamp(min=0).minimum(length[:, None] - 1)
        near = place.floor()
        far = (near + 1).minimum(length[:, None] - 1)
        low, high = (x[image, (first[:, None] + at).long()].float() for at in (near, far))
        x = (low + (high - low) * (place - near)[:, :, None]).view(count, size, size, 3).transpose(1, 2).flatten(2)
    return x.view(count, size, size, 3).round().to(torch.uint8)


def rectangles(draws: Draws, shape: Pair, areas: Pair, ratios: Pair, largest: Pair) -> tuple[Tensor, ...]:
    """Return top, left, height and width of a random rectangle for each image, and whether any of the tries fits.

    `areas` are shares of the image, `ratios` of height to width (log-uniform); none is larger than `largest`.
    """
    height, width = shape
    draw = draws.uniform(4, EACH, TRIES)
    area = height * width * (areas[0] + draw[0] * (areas[1] - areas[0]))
    ratio = torch.exp(math.log(ratios[0]) + draw[1] * (math.log(ratios[1]) - math.log(ratios[0])))
    tall, wide = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (tall <= largest[0]) & (wide <= largest[1])
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide, top, left = (v.gather(1, first)[:, 0] for v in (tall, wide, draw[2], draw[3]))
    top, left = torch.floor(top * (height - tall + 1)), torch.floor(left * (width - wide + 1))
    return top, left, tall, wide, fits.any(dim=1)


def erase(x: Tensor, probability: float, draws: Draws) -> Tensor:
    """Return images with a random rectangle set to zero: area 2-33 %, aspect ratio 0.3-3.3 (Zhong et al. 2020)."""
    height, width = x.shape[2:]
    top, left, tall, wide, fits = rectangles(draws, (height, width), (0.02, 0.33), (0.3, 3.3), (height - 1, width - 1))
    chosen = draws.uniform(EACH) < probability
    mask = rectangle(top, left, tall, wide, height, width) & (chosen & fits)[:, None, None]
    return x.masked_fill(mask[:, None], 0.0).contiguous(memory_format=torch.channels_last)


def rectangle(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """Return bool (B, height, width): inside each image's rectangle."""
    row = torch.arange(height, device=top.device)
    column = torch.arange(width, device=top.device)
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def mix(x: Tensor, labels: Tensor, config: AugmentConfig, classes: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Return mixed images and targets: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), drawn for each image.

    The partner of an image is its neighbour in the batch. With both on, each image gets one with probability one half.
    """
    count, _, height, width = x.shape
    partner = x.roll(1, 0)
    if config.mixup and config.cutmix:
        cut = draws.uniform(EACH) < 0.5
        ratio = torch.where(cut, draws.beta(config.cutmix), draws.beta(config.mixup))
    else:
        cut = torch.full((count,), bool(config.cutmix), device=x.device)
        ratio = draws.beta(config.cutmix or config.mixup)
    half = torch.sqrt(1 - ratio) / 2
    middle = draws.uniform(2, EACH)
    top, left, bottom, right = (
        ((middle[i] * n).floor() + sign * (half * n).floor()).clamp(0, n)
        for sign in (-1, 1)
        for i, n in enumerate((height, width))
    )
    patch = rectangle(top, left, bottom - top, right - left, height, width)
    kept = torch.where(cut, 1 - patch.float().mean(dim=(1, 2)), ratio)
    own = torch.where(cut[:, None, None], (~patch).float(), ratio[:, None, None])[:, None]
    targets = (labels[:, None] == torch.arange(classes, device=x.device)).float()
    targets = targets * kept[:, None] + targets.roll(1, 0) * (1 - kept)[:, None]
    mixed = partner + (x - partner) * own
    return mixed.contiguous(memory_format=torch.channels_last), targets


def apply_policy(images: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    """Return changed images; uint8 (B, H, W, 3) in and out."""
    table = strengths(config.policy, *images.shape[1:3], images.device)
    x = images.permute(0, 3, 1, 2).contiguous()
    for _ in range(config.policy_ops if config.policy == "randaugment" else 1):
        which, negative = draws.integers(len(OPERATIONS), EACH), draws.integers(2, EACH)
        trivial = config.policy == "trivialaugment"
        level = draws.integers(BINS, EACH) if trivial else torch.full_like(which, config.policy_magnitude)
        strength = table[which, level]
        x = apply_operations(x, which, torch.where((which < SIGNED) & (negative == 1), -strength, strength))
    return x.permute(0, 2, 3, 1).contiguous()


@functools.cache
def strengths(policy: str, height: int, width: int, device: torch.device) -> Tensor:
    """Return the strength float32 (operations, BINS) of every operation at every magnitude; zero where it has none."""
    wide = policy == "trivialaugment"
    top = {"ShearX": 0.99 if wide else 0.3, "ShearY": 0.99 if wide else 0.3, "Rotate": 135.0 if wide else 30.0}
    top |= {"TranslateX": 32.0 if wide else 150 / 331 * width, "TranslateY": 32.0 if wide else 150 / 331 * height}
    top |= dict.fromkeys(ENHANCING, 0.99 if wide else 0.9)
    bits = (torch.arange(BINS) / ((BINS - 1) / (6 if wide else 4))).round()
    other = {"Posterize": 8 - bits, "Solarize": torch.linspace(255.0, 0.0, BINS)}
    rows = [other.get(name, torch.linspace(0.0, top.get(name, 0.0), BINS)) for name in OPERATIONS]
    return torch.stack(rows).to(device)


def apply_operations(x: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Return uint8 (B, 3, H, W): image i changed by OPERATIONS[which[i]] at strength[i].

    On a CPU each operation is computed for the images that drew it. On a GPU it is computed for all images and used
    where it was drawn, since counting the draws would stall the device.
    """
    out, strength = x.clone(), strength[:, None, None, None]
    drawn: dict[Change, Tensor] = {transform: which < len(GEOMETRIC)}
    drawn |= {change: which == OPERATIONS.index(name) for name, change in _COLOUR.items()}
    for change, chosen in drawn.items():
        if not picks(x):
            out = torch.where(chosen[:, None, None, None], change(x, which, strength), out)
        elif len(at := chosen.nonzero()[:, 0]):
            out[at] = change(x[at], which[at], strength[at])
    return out


def picks(x: Tensor) -> bool:
    """Return whether an operation is computed only for the images that drew it."""
    return not x.is_cuda


def transform(x: Tensor, which: Tensor, strength: Tensor) -> Tensor:
    """Return images sheared about their top left corner, shifted, or rotated counter-clockwise about their centre."""
    height, width = x.shape[2:]

    def only(name: str) -> Tensor:
        return torch.where((which == OPERATIONS.index(name))[:, None, None], strength[:, 0], 0.0)

    shear_x, shear_y, angle = only("ShearX"), only("ShearY"), torch.deg2rad(only("Rotate"))
    move_x, move_y = only("TranslateX").trunc(), only("TranslateY").trunc()
    column = torch.arange(width, device=x.device) - (width - 1) / 2
    row = (torch.arange(height, device=x.device) - (height - 1) / 2)[:, None]
    # where each pixel comes from, measured from the centre
    from_column = angle.cos() * column + (shear_x - angle.sin()) * row + shear_x * height / 2 - move_x
    from_row = angle.cos() * row + (shear_y + angle.sin()) * column + shear_y * width / 2 - move_y
    j, i = ((from_column + (width - 1) / 2).round().long(), (from_row + (height - 1) / 2).round().long())
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    source = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).flatten(1)
    picked = x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return picked * inside[:, None]


def _uint8(values: Tensor) -> Tensor:
    return values.clamp(0, 255).to(torch.uint8)


def _add(a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
    """Return a + factor * b, rounded once as in a fused multiply-add (so are torchvision's values), cut to uint8."""
    return _uint8((a.double() + factor.double() * b.double()).float())


def _contrast(x: Tensor, _: Tensor, s: Tensor) -> Tensor:
    mean = tv.rgb_to_grayscale_image(x).float().mean(dim=(1, 2, 3), keepdim=True)
    return _add(x * (1 + s), mean, -s)


def _sharpness(x: Tensor, _: Tensor, s: Tensor) -> Tensor:
    """Blend with a 3x3 mean whose centre has weight five; the outermost pixels are unchanged."""
    inner = x[:, :, 1:-1, 1:-1].float()
    total = torch.nn.functional.avg_pool2d(x.float(), 3, stride=1, divisor_override=1)
    blurred = ((total + 4 * inner) / 13).round()
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = _add(inner, blurred - inner, -s)
    return out


_COLOUR: dict[str, Change] = {
    "Brightness": lambda x, _, s: _uint8(x * (1 + s)),
    "Color": lambda x, _, s: _add(x * (1 + s), tv.rgb_to_grayscale_image(x), -s),
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": lambda x, _, s: x & (256 - 2 ** (8 - s)).to(torch.uint8),
    "Solarize": lambda x, _, s: torch.where(x >= s, 255 - x, x),
    "AutoContrast": lambda x, *_: tv.autocontrast_image(x),
    "Equalize": lambda x, *_: tv.equalize_image(x),
}
