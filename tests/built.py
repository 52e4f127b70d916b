"""Small models built for tests."""

from typing import Any

import torch

from crossover.fields import ModelConfig
from crossover.training.models import build_model
from scripts.models import shipped

MODELS = shipped()
VIT_ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}


def vit(arch: str = "vit", **changes: Any) -> ModelConfig:
    name = "hybrid_test" if arch == "hybrid_vit" else "vit_test"
    return ModelConfig(**{"name": name, "arch": arch, "args": VIT_ARGS, **changes})


def resnet(arch: str = "basic_resnet", **args: Any) -> ModelConfig:
    return ModelConfig(name="resnet_test", arch=arch, args=args)


def built(config: ModelConfig, image_size: int = 16, seed: int = 0, classes: int = 10) -> Any:
    torch.manual_seed(seed)
    return build_model(config, image_size=image_size, classes=classes)
