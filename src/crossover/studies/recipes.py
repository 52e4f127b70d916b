"""A search for recipes beside a report: its trials, its figure and the section of the page."""

from pathlib import Path

import pandas as pd

from crossover.report.figures import best_of
from crossover.report.section import Drawing, Section, write_section
from crossover.report.style import save
from crossover.report.table import Table, columns
from crossover.store import write_text
from crossover.studies.tuning import best_of_k, chosen

NAME, FIGURE = "recipes.csv", "best-of-k"
NEEDED = ("model", "n_train", "lr", "weight_decay", "val_error")
HEADER = ("model", "training images", "peak rate", "weight decay", "validation error", "at the edge of")

SEARCHED = (
    "{} trials for every model and size, judged by validation error alone: what the best of k of them would have"
    " found. A curve that still falls at its end would gain from more trials. Which recipe was taken, and why, is said"
    " in conf/recipe/."
)


def write_search(trials: pd.DataFrame, directory: Path) -> None:
    """Write the trials and the figure of their best-of-k curves to the folder of a report."""
    figure = best_of(best_of_k(trials))
    write_text(directory / NAME, trials.to_csv(index=False, float_format="%.6g"))
    save(figure, directory / "figures", FIGURE)
    write_section(search_section(trials), directory)


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


def search_section(trials: pd.DataFrame) -> Section:
    """Return the section of a report that shows a search and its figure."""
    curves = best_of_k(trials)
    ends = curves.loc[curves.groupby(["model", "n_train"], sort=False)["trials"].idxmax()]
    said = "; ".join(f"{model} at {n:,}: {100 * error:.1f} %" for model, n, _, error in ends.itertuples(index=False))
    count = int(curves["trials"].max())
    drawing = Drawing(
        name=FIGURE,
        alt=f"Expected lowest validation error over trials. After {count}: {said}.",
        caption="Expected lowest validation error of k trials: the mean over all subsets of the trials that were made.",
    )
    return Section(
        name="recipes",
        title="How the recipes were searched",
        after="claims",
        sentences=(SEARCHED.format(count),),
        drawings=(drawing,),
        tables=(
            Table(
                caption="The best trial of each model and size",
                columns=columns(*HEADER, left=1),
                rows=tuple(chosen_rows(chosen(trials))),
            ),
        ),
        files=(NAME,),
    )
