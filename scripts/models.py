"""Parameters and FLOPs of every shipped model, and its matched pairs: python scripts/models.py (make models)."""

import sys
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from crossover.cli import run_app
from crossover.config import CrossoverError
from crossover.fields import FAMILIES, ModelConfig
from crossover.text import tracked
from crossover.training.models import build_model, count_parameters, forward_flops

SIZES = (16, 32, 64, 224)
TITLE = "10 classes; MFLOP: forward pass of one image; –: not for images of this size"
TOLERANCE = 0.05
"""Two models match when the smaller has at least 95% of the larger one's parameters."""


def shipped() -> dict[str, ModelConfig]:
    """Return the models of conf/model, by family and then name."""
    models = []
    for path in (Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        del values["defaults"]  # its recipe
        models.append(ModelConfig(**values))
    return {m.name: m for m in sorted(models, key=lambda m: (FAMILIES.index(m.family), m.name))}


def main() -> None:
    models, costs = shipped(), dict[tuple[str, int], tuple[int, int]]()
    heads = [f"{what} {size} px" for what in ("params", "MFLOP") for size in SIZES]
    table = Table("model", "arch", *heads, box=None, title=TITLE)
    for name, config in tracked(models.items(), "models counted", len(models)):
        for size in SIZES:
            with suppress(CrossoverError), torch.device("meta"):  # nothing is allocated or computed
                model = build_model(config, image_size=size, classes=10)
                costs[name, size] = count_parameters(model), forward_flops(model, size)
        known = [costs.get((name, size)) for size in SIZES]
        parameters = [f"{one[0]:,}" if one else "–" for one in known]
        table.add_row(name, config.arch, *parameters, *(f"{one[1] / 1e6:,.1f}" if one else "–" for one in known))
    pairs = Table("px", "a", "b", "params b/a", "FLOPs b/a", box=None, title=f"parameters within {TOLERANCE:.0%}")
    for (a, size), (b, other) in combinations(sorted(costs, key=lambda at: at[1]), 2):
        (params_a, flops_a), (params_b, flops_b) = costs[a, size], costs[b, other]
        close = min(params_a, params_b) >= (1 - TOLERANCE) * max(params_a, params_b)
        if size == other and models[a].family != models[b].family and close:
            pairs.add_row(str(size), a, b, f"{params_b / params_a:.3f}", f"{flops_b / flops_a:.3f}")
    console = Console(width=160) if not sys.stdout.isatty() else Console()
    console.print(table, pairs, sep="\n")


if __name__ == "__main__":
    run_app(main)
