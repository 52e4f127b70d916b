"""Parameters and FLOPs of every shipped model, and its matched pairs: python scripts/models.py (make models)."""

import crossover  # isort: skip # noqa: F401
import sys
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from crossover.cli import run_app
from crossover.config import CrossoverError, validate
from crossover.fields import FAMILIES, ModelConfig
from crossover.text import tracked
from crossover.training.models import build_model, count_parameters, forward_flops

FOLDER = Path(__file__).parents[1] / "conf" / "model"
SIZES = (16, 32, 64, 224)
CLASSES = 10
TITLE = f"{CLASSES} classes; MFLOP: forward pass of one image; –: not for images of this size"
TOLERANCE = 0.05
"""Two models match when the smaller has at least 95% of the larger one's parameters."""
Cost = tuple[int, int]


def shipped() -> dict[str, ModelConfig]:
    """Return the models of conf/model, by family and then name."""
    models = []
    for path in FOLDER.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        if isinstance(values, dict):
            values.pop("defaults", None)  # its recipe
        models.append(validate(ModelConfig, values, str(path)))
    return {m.name: m for m in sorted(models, key=lambda m: (FAMILIES.index(m.family), m.name))}


def cost(config: ModelConfig, image_size: int) -> Cost:
    """Return trained parameters and forward FLOPs of one image; nothing is allocated or computed."""
    with torch.device("meta"):
        model = build_model(config, image_size=image_size, classes=CLASSES)
    return count_parameters(model), forward_flops(model, image_size)


def costs_at(models: dict[str, ModelConfig], image_size: int) -> dict[str, Cost]:
    """Return the cost of every model that can be built for images of this size."""
    costs = {}
    for name, model in models.items():
        with suppress(CrossoverError):
            costs[name] = cost(model, image_size)
    return costs


def matched(models: dict[str, ModelConfig], costs: dict[str, Cost]) -> list[tuple[str, str]]:
    """Return the pairs of different families whose parameters differ by at most TOLERANCE."""
    pairs = []
    for a, b in combinations((name for name in models if name in costs), 2):
        smaller, larger = sorted((costs[a][0], costs[b][0]))
        if models[a].family != models[b].family and smaller >= (1 - TOLERANCE) * larger:
            pairs.append((a, b))
    return pairs


def main() -> None:
    models = shipped()
    costs = {size: costs_at(models, size) for size in tracked(SIZES, "image sizes counted", len(SIZES))}
    for name, model in models.items():
        if not any(name in known for known in costs.values()):
            cost(model, SIZES[-1])  # raises what is wrong with it
    titles = [f"{what} {size} px" for what in ("params", "MFLOP") for size in SIZES]
    table = Table("model", "arch", *titles, box=None, title=TITLE)
    for name, model in models.items():
        known = [costs[size].get(name) for size in SIZES]
        parameters = (f"{one[0]:,}" if one else "–" for one in known)
        table.add_row(name, model.arch, *parameters, *(f"{one[1] / 1e6:,.1f}" if one else "–" for one in known))
    pairs = Table("px", "a", "b", "params b/a", "FLOPs b/a", box=None, title=f"parameters within {TOLERANCE:.0%}")
    for size in SIZES:
        for a, b in matched(models, costs[size]):
            ratios = (f"{costs[size][b][i] / costs[size][a][i]:.3f}" for i in (0, 1))
            pairs.add_row(str(size), a, b, *ratios)
    console = Console(width=160) if not sys.stdout.isatty() else Console()
    console.print(table, pairs, sep="\n")


if __name__ == "__main__":
    run_app(main)
