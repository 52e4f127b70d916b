"""Small networks and images to probe."""

from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from crossover.fields import ModelConfig
from crossover.studies.probes.networks import Found
from crossover.training.models import build_model
from tests.worlds import VIT


class Stack(nn.Module):
    """Convolutions of known padding and stride, listed as timm lists its stages."""

    def __init__(
        self, *strides: int, padding_mode: Literal["zeros", "circular"] = "circular", linear: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        total = 1
        self.feature_info = []
        for i, stride in enumerate(strides):
            conv = nn.Conv2d(3, 3, 3, stride=stride, padding=1, padding_mode=padding_mode)
            self.layers.append(conv if linear else nn.Sequential(conv, nn.ReLU()))
            total *= stride
            self.feature_info.append({"module": f"layers.{i}", "reduction": total, "num_chs": 3})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).mean((2, 3))


def images(count: int = 8, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def tiny(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return build_model(ModelConfig(**(VIT | changes)), image_size=16, classes=10).eval()


def tiny_resnet(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = ModelConfig(name="resnet_test", arch="basic_resnet", args={"widths": [8, 16], "depths": [1, 1]})
    return build_model(config, image_size=16, classes=10).eval()


def table_of(found: Iterable[Found]) -> Any:
    """Return the numbers of a probe, by its name and layer."""
    return pd.DataFrame(list(found), columns=Found._fields).set_index(["probe", "layer"])
