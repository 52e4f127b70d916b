"""RandAugment and TrivialAugment for a batch: torchvision's operations, each image with its own draw.

Operations and strengths are those of torchvision's RandAugment (Cubuk et al. 2020) and TrivialAugmentWide (Müller and
Hutter 2021), version 2 of its transforms, and so are the values they give; geometric ones take the nearest neighbour
and fill with zero.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from crossover.data.draws import EACH, Draws
from crossover.fields import AugmentConfig

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function from images, operations and strengths to changed images."""
BINS = 31
"""Magnitudes 0..30."""
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")
OPERATIONS = (*GEOMETRIC, *ENHANCING, "Posterize", "Solarize", "AutoContrast", "Equalize", "Identity")
SIGNED = len(GEOMETRIC) + len(ENHANCING)
"""The first operations work in both directions, with probability one half each."""


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
    out, pick = x.clone(), picks(x)
    drawn: dict[Change, Tensor] = {transform: which < len(GEOMETRIC)}
    drawn |= {change: which == OPERATIONS.index(name) for name, change in _COLOUR.items()}
    for change, chosen in drawn.items():
        if not pick:
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
        return torch.where(which == OPERATIONS.index(name), strength, 0.0)[:, None, None]

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


def _add(a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
    """Return a + factor * b, rounded once as in a fused multiply-add (so are torchvision's values), cut to uint8."""
    return (a.double() + factor.double() * b.double()).float().clamp(0, 255).to(torch.uint8)


def _wide(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


def _brightness(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    return (x * (1 + _wide(strength))).clamp(0, 255).to(torch.uint8)


def _color(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    s = _wide(strength)
    return _add(x * (1 + s), tv.rgb_to_grayscale_image(x), -s)


def _contrast(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    s = _wide(strength)
    mean = tv.rgb_to_grayscale_image(x).float().mean(dim=(1, 2, 3), keepdim=True)
    return _add(x * (1 + s), mean, -s)


def _sharpness(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    """Blend with a 3x3 mean whose centre has weight five; the outermost pixels are unchanged."""
    inner = x[:, :, 1:-1, 1:-1].float()
    total = torch.nn.functional.avg_pool2d(x.float(), 3, stride=1, divisor_override=1)
    blurred = ((total + 4 * inner) / 13).round()
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = _add(inner, blurred - inner, -_wide(strength))
    return out


def _posterize(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    return x & (256 - 2 ** (8 - _wide(strength))).to(torch.uint8)


def _solarize(x: Tensor, _: Tensor, strength: Tensor) -> Tensor:
    return torch.where(x >= _wide(strength), 255 - x, x)


_COLOUR: dict[str, Change] = {
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": lambda x, *_: tv.autocontrast_image(x),
    "Equalize": lambda x, *_: tv.equalize_image(x),
}
