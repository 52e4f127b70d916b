"""Search recipes fairly, or draw the curves of a recorded search: python scripts/recipes.py (make recipes)."""

from pathlib import Path
from typing import Any

import hydra
import pandas as pd
from hydra import compose
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from crossover.analysis.runs import AnalysisError
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError
from crossover.report.figures import best_of
from crossover.report.style import save
from crossover.store import read_done, write_text
from crossover.studies.recipes import HEADER, NEEDED, chosen_rows, write_search
from crossover.studies.search import TRIAL_COLUMNS, parse_search, plan_trials, trial_row
from crossover.studies.tuning import best_of_k, chosen
from crossover.sweep.launch import do_runs
from crossover.sweep.plan import sweep_dir


@hydra.main(version_base="1.3", config_path="../conf", config_name="recipes")
@one_line_errors
def main(config: DictConfig) -> None:
    console, values = Console(), resolved(config)
    recorded = values["trials"] is not None
    trials = read_trials(Path(values["trials"]), values["where"]) if recorded else make_trials(values, console)
    beside = None if values["page"] is None else sweep_dir(values["outputs"], values["page"])
    if beside is not None and not beside.is_dir():
        raise CrossoverError(f"there is no sweep {values['page']} in {values['outputs']}; make sweep makes it")
    folder = Path(values["output"] or Path(values["outputs"]) / "recipes" / values["search"]["name"])
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tables = {"best-of-k": best_of_k(trials), "chosen": chosen(trials)}
    except AnalysisError as error:
        raise CrossoverError(str(error)) from None
    for name, table in (tables if recorded else tables | {"trials": trials}).items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    save(best_of(tables["best-of-k"]), folder, "best-of-k")
    shown = Table(*HEADER, box=None)
    for row in chosen_rows(tables["chosen"]):
        shown.add_row(*row)
    console.print(shown)
    print(f"tables and figure: {folder}")
    if beside is not None:
        write_search(trials, beside)
        print(f'make report SWEEP="{values["page"]}" puts the curves on its page')


def make_trials(values: dict[str, Any], console: Console) -> pd.DataFrame:
    """Do the trials that are left and return all; raise CrossoverError when one did not end."""
    search = parse_search(values["search"])
    planned = plan_trials(search, lambda overrides: resolved(compose("train", overrides)), values["outputs"])
    runs = [run for _, run in planned]
    console.print(f"search {search.name}: {len(runs)} trials", highlight=False)
    do_runs(runs, console, parallel=values["parallel"])
    records = read_done(runs)
    rows = [trial_row(trial, run, record) for (trial, run), record in zip(planned, records, strict=True)]
    return pd.DataFrame(rows, columns=TRIAL_COLUMNS)


def read_trials(path: Path, where: str | None) -> pd.DataFrame:
    try:
        trials = pd.read_csv(path)
        trials = trials if where is None else trials.query(where)
    except (OSError, ValueError, NameError, SyntaxError) as error:
        raise CrossoverError(
            f"{path} cannot be read as trials ({error}); needed columns: {', '.join(NEEDED)}"
        ) from None
    missing = [name for name in NEEDED if name not in trials.columns]
    if missing or trials.empty:
        raise CrossoverError(f"{path} has no {', '.join(missing) or 'rows'}; needed columns: {', '.join(NEEDED)}")
    return trials


if __name__ == "__main__":
    run_hydra(main)
