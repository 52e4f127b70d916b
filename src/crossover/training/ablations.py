"""Ablations of a convolutional network: untied weights, circular padding, and a head that reads every place."""

import copy
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn


class LocallyConnected2d(nn.Module):
    """A convolution with unshared weights: every position of the output has its own."""

    def __init__(self, conv: nn.Conv2d, height: int, width: int) -> None:
        """Take the geometry of `conv` (no bias, groups or dilation) for maps of height x width; draw new weights."""
        super().__init__()
        self.kernel, self.stride = conv.kernel_size, conv.stride
        self.padding = cast(tuple[int, ...], conv.padding)
        size = zip((height, width), self.kernel, self.stride, self.padding, strict=True)
        self.out = [(n + 2 * p - k) // s + 1 for n, k, s, p in size]
        inputs = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        self.weight = nn.Parameter(torch.empty(self.out[0] * self.out[1], inputs, conv.out_channels))
        fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_out))  # as timm draws the convolution

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, h, w) of (B, in_channels, height, width)."""
        windows = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # (B, inputs, places)
        out = torch.bmm(windows.permute(2, 0, 1), self.weight)  # (places, B, out_channels)
        return out.permute(1, 2, 0).reshape(len(x), -1, *self.out)


def untie(model: nn.Module, image_size: int) -> None:
    """Replace every convolution wider than 1x1 by one without shared weights, in place."""
    sizes = input_sizes(model, image_size)
    for name, (height, width) in sizes.items():
        conv = model.get_submodule(name)
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            model.set_submodule(name, LocallyConnected2d(conv, height, width))


def input_sizes(model: nn.Module, image_size: int) -> dict[str, tuple[int, int]]:
    """Return height and width of the input of each convolution, by name; nothing is allocated or computed."""
    shadow = copy.deepcopy(model).to("meta").eval()
    sizes: dict[str, tuple[int, int]] = {}
    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda _m, inputs, name=name: sizes.update({name: tuple(inputs[0].shape[-2:])})
            )
    shadow(torch.empty(1, 3, image_size, image_size, device="meta"))
    return sizes


def make_circular(model: nn.Module) -> None:
    """Give every padded convolution and pooling circular padding, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d) and any(module.padding):
            module.padding_mode = "circular"
        elif isinstance(module, nn.MaxPool2d) and module.padding:
            pool: Any = copy.copy(module)
            pool.padding = 0
            model.set_submodule(name, nn.Sequential(nn.CircularPad2d(cast(int, module.padding)), pool))
        elif isinstance(module, BlurPool2d):
            module.pad_mode = "circular"


def flatten_head(model: Any, image_size: int, classes: int) -> None:
    """Make the head of timm's ByobNet read every position of the last map instead of their mean, in place."""
    with torch.no_grad():
        shape = (
            copy.deepcopy(model).to("meta").forward_features(torch.empty(2, 3, image_size, image_size, device="meta"))
        )
    model.head.global_pool = nn.Flatten(1)
    model.head.fc = nn.Linear(math.prod(shape.shape[1:]), classes)
    nn.init.normal_(model.head.fc.weight, std=0.01)  # as timm draws it
    nn.init.zeros_(model.head.fc.bias)
