"""Augmentation of training images a batch at a time, with parameters drawn for each image.

The order is torchvision's: crop, flip, policy, normalise, erase, then mixup or CutMix. All randomness comes from the
draws that are passed in, and nothing is read back from the device.
"""

import math

import torch
from torch import Tensor

from crossover.data.draws import EACH, Draws
from crossover.data.policy import apply_policy
from crossover.fields import AugmentConfig

TRIES = 10
"""Tries to draw a rectangle that fits, as in torchvision."""


class Normaliser:
    """From pixel values to network inputs, and back; `mean` and `std` are of pixel values in 0..1."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, images: Tensor) -> Tensor:
        """Return (images / 255 - mean) / std as float32 (B, 3, H, W), channels last, of uint8 (B, H, W, 3)."""
        return torch.addcmul(self._shift, images.to(torch.float32), self._scale).permute(0, 3, 1, 2)

    def pixels(self, x: Tensor) -> Tensor:
        """Return normalised images as uint8 (B, H, W, 3), rounded."""
        return (255 * (x.permute(0, 2, 3, 1).float() * self.std + self.mean)).round().clamp(0, 255).to(torch.uint8)


def augment(
    images: Tensor, labels: Tensor, config: AugmentConfig, *, classes: int, normalise: Normaliser, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Return float32 (B, 3, H, W), channels last, and targets, of uint8 (B, H, W, 3) and int64 (B,).

    Targets are the labels, or probabilities float32 (B, classes) when mixup or CutMix is on.
    """
    if config.min_area:
        images = resized_crop(images, config.min_area, draws)
    if config.crop or config.flip:
        images = crop_and_flip(images, config.crop, config.flip, draws)
    if config.policy != "none":
        images = apply_policy(images, config, draws)
    x = normalise(images)
    if config.erase:
        x = erase(x, config.erase, draws)
    if config.mixes:
        return mix(x, labels, config, classes, draws)
    return x, labels


def permute(x: Tensor, order: Tensor | None) -> Tensor:
    """Return images (B, C, H, W), channels last, with their pixels in the given order; unchanged without one."""
    if order is None:
        return x
    return x.flatten(2)[:, :, order].reshape(x.shape).contiguous(memory_format=torch.channels_last)


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
    whole = torch.zeros_like(top), torch.full_like(top, size)
    image = torch.arange(count, device=images.device)[:, None]
    x = images.flatten(2)
    for start, extent in ((top, tall), (left, wide)):  # vertically, and then horizontally
        first, length = torch.where(fits, start, whole[0]), torch.where(fits, extent, whole[1])
        place = (torch.arange(size, device=x.device) + 0.5) * (length / size)[:, None] - 0.5
        place = place.clamp(min=0).minimum(length[:, None] - 1)
        near = place.floor()
        far = (near + 1).minimum(length[:, None] - 1)
        low, high = (x[image, (first[:, None] + at).long()].float() for at in (near, far))
        x = (low + (high - low) * (place - near)[:, :, None]).view(count, size, size, 3).transpose(1, 2).flatten(2)
    return x.view(count, size, size, 3).round().to(torch.uint8)


def rectangles(
    draws: Draws,
    shape: tuple[int, int],
    areas: tuple[float, float],
    ratios: tuple[float, float],
    largest: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
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
    else:
        cut = torch.full((count,), bool(config.cutmix), device=x.device)
    ratio = torch.where(cut, draws.beta(config.cutmix), draws.beta(config.mixup))
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
