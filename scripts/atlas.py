"""Put every published pair through the engine: python scripts/atlas.py (make atlas)."""

import os
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from crossover.analysis.runs import AnalysisError
from crossover.cli import one_line_errors, resolved, run_app
from crossover.config import CrossoverError
from crossover.store import replace_block
from crossover.studies.atlas import atlas_table, read_sets
from crossover.studies.atlas_pages import BEGIN, END, readme_block, summary, write_atlas


@hydra.main(version_base="1.3", config_path="../conf", config_name="atlas")
@one_line_errors
def main(config: DictConfig) -> None:
    values = resolved(config)
    data, output = Path(values["data"]), Path(values["output"])
    try:
        table = atlas_table(data, values["parallel"] or len(os.sched_getaffinity(0)))
        write_atlas(table, read_sets(data), data, output)
    except AnalysisError as error:
        raise CrossoverError(str(error)) from None
    if values["readme"] is not None:
        replace_block(Path(values["readme"]), BEGIN, END, readme_block(table))
    console = Console(highlight=False, markup=False)
    console.print("\n".join(summary(table)).replace("*", "").replace("\\", ""))
    console.print(f"page: {output / 'atlas.md'}", soft_wrap=True)


if __name__ == "__main__":
    run_app(main)
