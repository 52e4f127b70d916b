"""Race our training against other ways of it: python -m benchmarks only=[steady] (make bench)."""

import json
import re
import tempfile
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.bench import PARTS, Bench
from benchmarks.race import BEGIN, END, Row, markdown, performance_block
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import validate
from crossover.store import replace_block, write_json


@hydra.main(version_base="1.3", config_path="../conf", config_name="bench")
@one_line_errors()
def main(config: DictConfig) -> None:
    console = Console()
    Path("outputs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="outputs") as place:
        bench = validate(Bench, resolved(config) | {"place": Path(place).resolve()}, "bench")
        images, conditions = bench.prepare(), bench.conditions()
        slug = re.sub(r"[^a-z0-9]+", "-", conditions["device"].lower()).strip("-")
        path = bench.output or Path("results/bench") / f"{slug}-{conditions['cores']}-cores.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
        for name in bench.only:
            conditions = bench.conditions() | {"images": images}

            def save(part: Row, name: str = name, conditions: Row = conditions) -> None:
                """Save the measurements so far, as the next one may fail or be interrupted."""
                parts[name] = {"conditions": conditions} | part
                write_json(path, parts)
                console.print(f"{name}: {' '.join(part['table']['rows'][-1])}", highlight=False, soft_wrap=True)

            PARTS[name](bench, save)
    console.print(Markdown(markdown(path, {name: parts[name] for name in bench.only})), f"wrote {path}")
    if bench.output is None:
        replace_block(Path("docs/performance.md"), BEGIN, END, performance_block(path.parent))
        console.print("its tables are in docs/performance.md")


if __name__ == "__main__":
    run_hydra(main)
