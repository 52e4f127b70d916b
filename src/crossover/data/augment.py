"""How is a batch of training images changed? Each image draws its own parameters; the batch is changed as a whole.

The order is torchvision's: crop, flip, policy, normalise, erase, then mixup or CutMix. All randomness comes from the
generator that is passed in.
"""

import math

import torch
from torch import Tensor

from crossover.config import AugmentConfig
from crossover.data.policy import apply_policy


def augment(
    images: Tensor,
    labels: Tensor,
    config: AugmentConfig,
    *,
    classes: int,
    mean: Tensor,
    std: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return float32 (B, 3, H, W), channels last, and targets.

    `images` are uint8 (B, H, W, 3), `labels` int64 (B,). Targets are the labels, or probabilities float32 (B, classes)
    when mixup or CutMix is on.
    """
    if config.crop or config.flip:
        images = crop_and_flip(images, config.crop, config.flip, generator)
    if config.policy != "none":
        images = apply_policy(images, config, generator)
    x = normalise(images, mean, std)
    if config.erase:
        x = erase(x, config.erase, generator)
    if config.mixup or config.cutmix:
        return mix(x, labels, config, classes, generator)
    return x, labels


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images / 255 - mean) / std as float32 (B, 3, H, W), channels last."""
    scale, shift = 1 / (255 * std), -mean / std
    return torch.addcmul(shift, images.to(torch.float32), scale).permute(0, 3, 1, 2)


def pixels(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return normalised images (B, 3, H, W) as uint8 (B, H, W, 3): the inverse of `normalise`, rounded."""
    return (255 * (x.permute(0, 2, 3, 1).float() * std + mean)).round().clamp(0, 255).to(torch.uint8)


def permute(x: Tensor, order: Tensor | None) -> Tensor:
    """Return images (B, C, H, W), channels last, with their pixels in the given order; as they are without one."""
    if order is None:
        return x
    return x.flatten(2)[:, :, order].reshape(x.shape).contiguous(memory_format=torch.channels_last)


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return random crops of zero-padded images, each flipped left to right with probability one half; one gather."""
    count, height, width, _ = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    if padding:
        offset = torch.randint(2 * padding + 1, (2, count, 1), device=device, generator=generator)
        rows, columns = rows + offset[0], columns + offset[1]
        images = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    if flip:
        flipped = torch.rand((count, 1), device=device, generator=generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    full_height, full_width = images.shape[1:3]
    image = torch.arange(count, device=device)[:, None]
    at = ((image * full_height + rows)[:, :, None] * full_width + columns[:, None, :]).reshape(-1)
    return images.reshape(-1, 3)[at].reshape(count, height, width, 3)


def erase(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return images with a random rectangle set to zero: area 2-33 %, aspect ratio 0.3-3.3 (Zhong et al. 2020).

    As in torchvision, a shape that does not fit is drawn again, up to ten times, and else nothing is erased.
    """
    count, _, height, width = x.shape
    tries = 10
    draw = torch.rand((4, count, tries), device=x.device, generator=generator)
    area = height * width * (0.02 + draw[0] * (0.33 - 0.02))
    ratio = torch.exp(math.log(0.3) + draw[1] * (math.log(3.3) - math.log(0.3)))
    tall, wide = torch.sqrt(area * ratio).round(), torch.sqrt(area / ratio).round()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, wide, top, left = (v.gather(1, first)[:, 0] for v in (tall, wide, draw[2], draw[3]))
    top, left = torch.floor(top * (height - tall + 1)), torch.floor(left * (width - wide + 1))
    chosen = torch.rand(count, device=x.device, generator=generator) < probability
    mask = rectangle(top, left, tall, wide, height, width) & (chosen & fits.any(dim=1))[:, None, None]
    return x.masked_fill(mask[:, None], 0.0).contiguous(memory_format=torch.channels_last)


def rectangle(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """Return bool (B, height, width): inside each image's rectangle."""
    row = torch.arange(height, device=top.device)
    column = torch.arange(width, device=top.device)
    in_rows = (row >= top[:, None]) & (row < (top + tall)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    return in_rows[:, :, None] & in_columns[:, None, :]


def mix(
    x: Tensor, labels: Tensor, config: AugmentConfig, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return mixed images and targets: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), drawn for each image.

    The partner of an image is its neighbour in the batch, whose order is random already. With both on, each image gets
    one of the two with probability one half.
    """
    count, _, height, width = x.shape
    device = x.device
    partner = x.roll(1, 0)
    cut = torch.full((count,), bool(config.cutmix), device=device)
    if config.mixup and config.cutmix:
        cut = torch.rand(count, device=device, generator=generator) < 0.5
    ratio = torch.where(cut, _beta(config.cutmix, count, generator), _beta(config.mixup, count, generator))
    half = torch.sqrt(1 - ratio) / 2
    middle = torch.rand((2, count), device=device, generator=generator)
    top, left, bottom, right = (
        ((middle[i] * n).floor() + sign * (half * n).floor()).clamp(0, n)
        for sign in (-1, 1)
        for i, n in enumerate((height, width))
    )
    patch = rectangle(top, left, bottom - top, right - left, height, width)
    kept = torch.where(cut, 1 - patch.float().mean(dim=(1, 2)), ratio)
    own = torch.where(cut[:, None, None], (~patch).float(), ratio[:, None, None])[:, None]
    targets = torch.nn.functional.one_hot(labels, classes).float()
    targets = targets * kept[:, None] + targets.roll(1, 0) * (1 - kept)[:, None]
    mixed = partner + (x - partner) * own
    return mixed.contiguous(memory_format=torch.channels_last), targets


def _beta(alpha: float, count: int, generator: torch.Generator) -> Tensor:
    """Return draws (count,) of Beta(alpha, alpha), as the share of one of two gamma variates; ones when alpha is 0."""
    if alpha == 0:
        return torch.ones(count, device=generator.device)
    shape = torch.full((2, count), alpha, device=generator.device)
    gamma = torch._standard_gamma(shape, generator=generator).clamp(min=1e-12)
    return gamma[0] / gamma.sum(dim=0)
