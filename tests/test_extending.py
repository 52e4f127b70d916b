"""The how-tos of docs/extending.md: a model is one file, and a data set is a YAML and one function."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.data.raw import Raw
from crossover.data.readers import READERS
from crossover.fields import ImageData, ModelConfig
from crossover.training.models import build_model

ROOT = Path(__file__).parents[1]


def blocks(language: str) -> list[str]:
    """Return the blocks of code of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)


def test_the_model_of_the_how_to_is_built_from_its_yaml_alone() -> None:
    values = yaml.safe_load(blocks("yaml")[0])
    (default,) = values.pop("defaults")
    assert (ROOT / "conf" / "recipe" / f"{default['override /recipe@_global_.recipe']}.yaml").exists()
    with torch.device("meta"):
        model = build_model(ModelConfig(**values), image_size=72, classes=10)
    assert sum(1 for _ in model.parameters()) > 100


def test_a_data_set_of_another_format_is_a_yaml_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    labels = np.arange(40) % 2
    config = ImageData(**yaml.safe_load(blocks("yaml")[1]))
    with pytest.raises(CrossoverError, match="kind=shapes has no reader; there is cues, cifar10"):
        open_dataset(config, tmp_path)
    monkeypatch.setitem(READERS, "shapes", lambda root, *_: Raw(("a", "b"), pixels, labels, pixels[:10], labels[:10]))
    dataset = open_dataset(config, tmp_path)
    assert dataset.classes == ("a", "b")
    assert np.array_equal(dataset.images, pixels)
    assert len(dataset.val) == 4
