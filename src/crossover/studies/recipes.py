"""Were the recipes searched as hard for every model? What `make recipes` left beside a report, for its page."""

from pathlib import Path
from typing import Any

import pandas as pd

from crossover.analysis.runs import AnalysisError
from crossover.config import CrossoverError
from crossover.report.figures import best_of
from crossover.report.style import save
from crossover.store import write_text
from crossover.studies.tuning import best_of_k, chosen

NAME, FIGURE = "recipes.csv", "best-of-k"
NEEDED = ("model", "n_train", "lr", "weight_decay", "val_error")
HEADER = ("model", "training images", "peak rate", "weight decay", "validation error", "at the edge of")


def write_search(trials: pd.DataFrame, directory: Path) -> None:
    """Write the trials and the figure of their best-of-k curves to the folder of a report."""
    figure = best_of(best_of_k(trials))
    write_text(directory / NAME, trials.to_csv(index=False, float_format="%.6g"))
    save(figure, directory / "figures", FIGURE)


def chosen_rows(best: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the recipes of analysis.tuning.chosen, one row of HEADER each."""
    rows: list[tuple[str, ...]] = []
    for row in best.to_dict("records"):
        edges = [word for name, word in (("lr", "rate"), ("weight_decay", "decay")) if row[f"{name}_at_edge"]]
        numbers = (
            f"{row['n_train']:,}",
            f"{row['lr']:g}",
            f"{row['weight_decay']:g}",
            f"{100 * row['val_error']:.1f} %",
        )
        rows.append((row["model"], *numbers, ", ".join(edges)))
    return rows


def read_search(directory: Path) -> dict[str, Any] | None:
    """Return header and rows of a search beside a report, and what its figure shows, where there is one."""
    path = directory / NAME
    if not path.exists():
        return None
    try:
        trials = pd.read_csv(path)
        curves = best_of_k(trials)
    except (AnalysisError, KeyError, ValueError) as error:
        raise CrossoverError(f"{path} cannot be read as trials ({error}); delete it, or repeat make recipes") from None
    ends = curves.loc[curves.groupby(["model", "n_train"], sort=False)["trials"].idxmax()]
    said = "; ".join(f"{model} at {n:,}: {100 * error:.1f} %" for model, n, _, error in ends.itertuples(index=False))
    count = int(curves["trials"].max())
    return {
        "header": list(HEADER),
        "rows": [list(row) for row in chosen_rows(chosen(trials))],
        "trials": count,
        "alt": f"Expected lowest validation error over trials. After {count}: {said}.",
    }
