"""Compare the published studies with published numbers and exact bounds: python scripts/gold.py (make gold)."""

import sys
from pathlib import Path

import hydra
import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.padding import Padding

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError
from crossover.store import write_text
from crossover.studies.gold import compare_study


@hydra.main(version_base="1.3", config_path="../conf", config_name="gold")
@one_line_errors
def main(config: DictConfig) -> None:
    gold = resolved(config)
    results = Path(gold["results"])
    studies = sorted(path.parent for path in results.glob("*/plan.json"))
    if not studies:
        raise CrossoverError(f"{results} has no study; make publish writes one")
    table = pd.concat([compare_study(path.name, pd.read_csv(path / "runs.csv"), gold) for path in studies])
    write_text(results / "gold.csv", table.to_csv(index=False, float_format="%.4f"))
    console, beside = Console(highlight=False, markup=False), table["n_train"].notna()
    for row in table[beside].to_dict("records"):
        console.print(f"{row['outcome']}: {row['study']}, {row['model']}, {row['n_train']:,.0f} images", style="bold")
        said = f"accuracy {row['accuracy']:.3f}, expected {row['expected']} ({row['source']})"
        console.print(Padding(said + (f": {row['why']}" if row["why"] else ""), (0, 0, 0, 2)))
    if others := ", ".join(table[~beside]["dataset"].unique()):
        console.print(f"No number of these models is published on {others}.")
    print(f"table: {results / 'gold.csv'}")
    sys.exit(1 if (table["outcome"] == "outside").any() else 0)


if __name__ == "__main__":
    run_hydra(main)
