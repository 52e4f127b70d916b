"""Race our loop against a plain one and the idiomatic way: python -m benchmarks only=[steady] (make bench)."""

import json
import re
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from omegaconf import DictConfig
from pydantic import ValidationError
from rich.console import Console

from benchmarks.parts import PARTS
from benchmarks.race import Apart
from benchmarks.settings import Bench, BenchConfig
from benchmarks.table import BEGIN, END, performance_block, sections
from crossover.cli import one_line_errors, resolved, run_app
from crossover.config import CrossoverError, describe
from crossover.store import replace_block, write_json


def compose_train(overrides: list[str]) -> dict[str, Any]:
    return resolved(compose("train", overrides))


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench")
@one_line_errors
def main(config: DictConfig) -> None:
    try:
        settings = BenchConfig.model_validate(resolved(config))
    except ValidationError as error:
        raise CrossoverError(f"bad bench: {describe(error)}") from None
    names = [*settings.only, *(["peer"] if settings.peer and "peer" not in settings.only else [])]
    if unknown := [name for name in names if name not in PARTS]:
        raise CrossoverError(f"no part {', '.join(unknown)}; there is {', '.join(PARTS)}")
    bench, console = Bench(settings, compose_train, Apart()), Console()
    conditions = bench.conditions()
    slug = re.sub(r"[^a-z0-9]+", "-", conditions["device"].lower()).strip("-")
    path = settings.output or Path("results/bench") / f"{slug}-{conditions['cores']}-cores.json"
    parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        console.print(f"measuring {name}", style="dim")
        parts[name] = {"conditions": bench.conditions()} | PARTS[name](bench)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, parts)
    for section in sections({name: parts[name] for name in names}):
        console.print(section.terminal())
    console.print(f"wrote {path}", highlight=False)
    if settings.output is None:
        replace_block(Path("docs/performance.md"), BEGIN, END, performance_block(path.parent))
        console.print("its tables are in docs/performance.md", highlight=False)


if __name__ == "__main__":
    run_app(main)
