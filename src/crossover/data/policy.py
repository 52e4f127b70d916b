"""What do RandAugment and TrivialAugment do to a batch? torchvision's operations, each image with its own draw.

The images of a batch are grouped by what they drew (operation, magnitude, sign) and each group goes through
torchvision's batched kernel once. Operations, ranges and signs are those of torchvision's RandAugment (Cubuk et al. 2020)
and TrivialAugmentWide (Mueller and Hutter 2021); geometric ones use nearest neighbours and fill with zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from crossover.config import AugmentConfig

BINS = 31
"""Magnitudes 0..30."""


@dataclass(frozen=True)
class Operation:
    """A change of uint8 (B, 3, H, W) by a strength, and its strength at a magnitude."""

    apply: Callable[[Tensor, float], Tensor]
    strength: Callable[[float, int], float] = lambda share, width: 0.0
    """From the share of the largest magnitude (0..1) and the image's width."""
    signed: bool = False


def _affine(x: Tensor, *, shear: tuple[float, float] = (0.0, 0.0), move: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    degrees = [math.degrees(math.atan(value)) for value in shear]
    shift = [int(value) for value in move]
    return tv.affine_image(x, angle=0.0, translate=shift, scale=1.0, shear=degrees, center=[0.0, 0.0], fill=0.0)


def _operations(shear: float, move: Callable[[int], float], turn: float, colour: float, bits: int) -> list[Operation]:
    def linear(top: float) -> Callable[[float, int], float]:
        return lambda share, width: top * share

    def enhance(adjust: Callable[[Tensor, float], Tensor]) -> Operation:
        return Operation(lambda x, s: adjust(x, 1.0 + s), linear(colour), signed=True)

    return [
        Operation(lambda x, s: x),
        Operation(lambda x, s: _affine(x, shear=(s, 0.0)), linear(shear), signed=True),
        Operation(lambda x, s: _affine(x, shear=(0.0, s)), linear(shear), signed=True),
        Operation(lambda x, s: _affine(x, move=(s, 0.0)), lambda share, width: move(width) * share, signed=True),
        Operation(lambda x, s: _affine(x, move=(0.0, s)), lambda share, width: move(width) * share, signed=True),
        Operation(lambda x, s: tv.rotate_image(x, s, fill=0.0), linear(turn), signed=True),
        enhance(tv.adjust_brightness_image),
        enhance(tv.adjust_saturation_image),
        enhance(tv.adjust_contrast_image),
        enhance(tv.adjust_sharpness_image),
        Operation(lambda x, s: tv.posterize_image(x, int(s)), lambda share, width: 8 - round(share * bits)),
        Operation(lambda x, s: tv.solarize_image(x, s), lambda share, width: 255.0 * (1 - share)),
        Operation(lambda x, s: tv.autocontrast_image(x)),
        Operation(lambda x, s: tv.equalize_image(x)),
    ]


RANDAUGMENT = _operations(shear=0.3, move=lambda width: 150.0 / 331.0 * width, turn=30.0, colour=0.9, bits=4)
TRIVIALAUGMENT = _operations(shear=0.99, move=lambda width: 32.0, turn=135.0, colour=0.99, bits=6)


def apply_policy(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return changed images; uint8 (B, H, W, 3) in and out."""
    x = images.permute(0, 3, 1, 2).contiguous()
    count = len(x)

    def draw(high: int) -> Tensor:
        return torch.randint(high, (count,), device=x.device, generator=generator)

    if config.policy == "randaugment":
        fixed = torch.full((count,), config.policy_magnitude, device=x.device)
        for _ in range(config.policy_ops):
            x = apply_operations(x, RANDAUGMENT, draw(len(RANDAUGMENT)), fixed, draw(2))
    else:
        x = apply_operations(x, TRIVIALAUGMENT, draw(len(TRIVIALAUGMENT)), draw(BINS), draw(2))
    return x.permute(0, 2, 3, 1).contiguous()


def apply_operations(
    x: Tensor, operations: list[Operation], which: Tensor, magnitude: Tensor, negative: Tensor
) -> Tensor:
    """Return uint8 (B, 3, H, W), image i changed by operation which[i] at magnitude[i] (0..30), negated if negative[i]."""
    signed = torch.tensor([operation.signed for operation in operations], device=x.device)[which]
    graded = torch.tensor([operation.strength(1, 32) != operation.strength(0, 32) for operation in operations])
    # images that drew the same change form one group, whatever irrelevant numbers they drew besides
    key = which * 2 * BINS + magnitude * graded.to(x.device)[which] * 2 + negative * signed
    out = torch.empty_like(x)
    for group in key.unique().tolist():
        members = (key == group).nonzero()[:, 0]
        operation = operations[group // (2 * BINS)]
        strength = operation.strength((group % (2 * BINS)) // 2 / (BINS - 1), x.shape[-1])
        out[members] = operation.apply(x[members], -strength if group % 2 else strength)
    return out
