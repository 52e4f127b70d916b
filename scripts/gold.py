"""Compare the published studies with published numbers and exact bounds: python scripts/gold.py (make gold)."""

import sys
from pathlib import Path

import hydra
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError
from crossover.report.section import markdown_part
from crossover.report.table import terminal_table
from crossover.store import write_text
from crossover.studies.gold import NOT, compare_study, gold_page, with_curves


@hydra.main(version_base="1.3", config_path="../conf", config_name="gold")
@one_line_errors
def main(config: DictConfig) -> None:
    gold = resolved(config)
    results = Path(gold["results"])
    studies = sorted(path.parent for path in results.glob("*/plan.json"))
    if not studies:
        raise CrossoverError(f"{results} has no study; make publish writes one")
    gold = with_curves(gold, Path(gold["data"]))
    table = pd.concat([compare_study(path.name, pd.read_csv(path / "runs.csv"), gold) for path in studies])
    write_text(results / "gold.csv", table[table["outcome"] != NOT].to_csv(index=False, float_format="%.4f"))
    page = gold_page(table)
    write_text(results / "gold.md", "\n".join(markdown_part(page, 1)))
    console = Console(highlight=False)
    console.print(terminal_table(page.tables[0]))
    console.print(page.sentences[0], markup=False)
    print(f"page: {results / 'gold.md'}")
    sys.exit(1 if (table["outcome"] == "outside").any() else 0)


if __name__ == "__main__":
    run_hydra(main)
