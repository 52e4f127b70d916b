"""A fair search for recipes: the same seeded trials for every model, their best-of-k curves, and the recipes chosen."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pydantic import Field, model_validator
from rich.console import Console

from crossover.analysis.runs import AnalysisError
from crossover.cli import composed
from crossover.config import CrossoverError, RunConfig, parse_run
from crossover.fields import Frozen, Name
from crossover.record import Record, title
from crossover.report.section import Drawing, Section, Table, table_of, terminal_table, write_section
from crossover.report.style import panels, save, styles
from crossover.store import read_done, write_text
from crossover.sweep.launch import do_runs
from crossover.sweep.plan import override, sweep_dir
from crossover.text import say

NAME, FIGURE = "recipes.csv", "best-of-k"
NEEDED = ("model", "n_train", "lr", "weight_decay", "val_error")
SEARCHED = (
    "{} trials for every model and size, judged by validation error alone: what the best of k of them would have"
    " found. A curve that still falls at its end would gain from more trials. Which recipe was taken, and why, is said"
    " in conf/recipe/."
)


class Space(Frozen):
    """The search space of one model; both ranges are on a logarithmic scale."""

    lr: tuple[float, float]
    """Lowest and highest peak rate."""
    weight_decay: tuple[float, float]
    set: dict[str, object] = {}
    """Overrides for this model only, such as the recipe that supplies the other settings."""


class SearchConfig(Frozen):
    """A search: `trials` recipes for every model at every size in `bands`."""

    name: Name
    trials: int = Field(ge=1)
    seed: int = Field(ge=0)
    """Of the points."""
    bands: tuple[int, ...] = Field(min_length=1)
    """n_train of the trials."""
    chain: int = Field(ge=0)
    fixed: dict[str, object] = {}
    """Overrides that all trials share."""
    models: dict[str, Space] = Field(min_length=1)

    @model_validator(mode="after")
    def _fair(self) -> "SearchConfig":
        for name in ("lr", "weight_decay"):
            ratios: dict[str, float] = {}
            for model, space in self.models.items():
                low, high = getattr(space, name)
                if not 0 < low <= high:
                    raise ValueError(f"models.{model}.{name}=[{low:g}, {high:g}]: give 0 < lowest <= highest")
                ratios[model] = high / low
            if max(ratios.values()) > 1.001 * min(ratios.values()):
                said = ", ".join(f"{model} x{ratio:g}" for model, ratio in ratios.items())
                raise ValueError(f"a fair search has the same span of {name} for every model; got {said}")
        return self


class Options(Frozen):
    """The settings of conf/recipes.yaml, which documents them."""

    search: SearchConfig
    trials: Path | None
    where: str | None
    page: str | None
    output: Path | None
    parallel: int | None
    outputs: Path


def main(options: Options, console: Console) -> None:
    """Run the trials that are left, or read recorded ones; write tables, a figure, and a section of a report."""
    beside = sweep_dir(options.outputs, options.page or "")
    if not beside.is_dir() and options.page is not None:
        raise CrossoverError(f"there is no sweep {options.page} in {options.outputs}; make sweep makes it")
    if options.trials is None:
        planned = plan_trials(options.search, str(options.outputs))
        runs = [run for _, run in planned]
        say(console, f"search {options.search.name}: {len(runs)} trials")
        do_runs(runs, console, parallel=options.parallel)
        trials = pd.DataFrame(trial_row(*pair, record) for pair, record in zip(planned, read_done(runs), strict=True))
    else:
        trials = read_trials(options.trials, options.where)
    folder = options.output or options.outputs / "recipes" / options.search.name
    tables = {"best-of-k": best_of_k(trials), "chosen": chosen(trials)}
    save(best_of(tables["best-of-k"]), folder, FIGURE)
    for name, table in (tables | ({"trials": trials} if options.trials is None else {})).items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    console.print(terminal_table(chosen_table(tables["chosen"])))
    print(f"tables and figure: {folder}")
    if options.page is not None:
        write_search(trials, beside)
        print(f'make report SWEEP="{options.page}" puts the curves on its page')


def read_trials(path: Path, where: str | None) -> pd.DataFrame:
    try:
        trials = pd.read_csv(path)
        trials = trials if where is None else trials.query(where)
        if trials.empty:
            raise ValueError("it has no such rows")
        trials[list(NEEDED)]
    except (OSError, ValueError, NameError, SyntaxError, KeyError) as error:
        raise CrossoverError(
            f"{path} cannot be read as trials ({error}); needed columns: {', '.join(NEEDED)}"
        ) from None
    return trials


def draw_recipes(search: SearchConfig, model: str) -> list[dict[str, float]]:
    """Return rate and decay of every trial: the same points of the unit square for all models, to two digits."""
    ranges = np.array([search.models[model].lr, search.models[model].weight_decay])
    points = np.random.default_rng(search.seed).random((search.trials, 2))
    drawn = ranges[:, 0] * (ranges[:, 1] / ranges[:, 0]) ** points
    return [{"lr": float(f"{lr:.2g}"), "weight_decay": float(f"{decay:.2g}")} for lr, decay in drawn]


def plan_trials(search: SearchConfig, outputs: str) -> list[tuple[int, RunConfig]]:
    runs = []
    for model, space in search.models.items():
        pairs = {**search.fixed, "model": model, **space.set, "n_train": search.bands[0], "machine.outputs": outputs}
        values = parse_run(composed("train", [override(key, value) for key, value in pairs.items()])).model_dump()
        values["logger"]["group"] = f"search-{search.name}"
        for trial, drawn in enumerate(draw_recipes(search, model)):
            recipe = values["recipe"] | drawn | {"name": f"{search.name}-trial{trial}"}
            for n in search.bands:
                own = {"recipe": recipe, "n_train": n, "chain": search.chain, "seed": search.chain}
                runs.append((trial, parse_run({**values, **own})))
    return runs


def trial_row(trial: int, run: RunConfig, record: Record) -> dict[str, object]:
    """Return the row of trials.csv, which never has a test error."""
    if not math.isfinite(record["val_error"]):
        raise CrossoverError(f"{run.run_id} has no validation error; move {run.run_dir} away and repeat the search")
    facts: dict[str, object] = {"model": run.model.name, "n_train": run.n_train, "trial": trial, "chain": run.chain}
    facts |= run.recipe.model_dump(include={"lr", "weight_decay", "batch_size"})
    return facts | {"budget": run.budget.label, "val_error": record["val_error"], "run_id": run.run_id}


def expected_best(errors: np.ndarray) -> np.ndarray:
    """Return the expected lowest error of k of the T trials, drawn without replacement, for k = 1..T.

    E[min] = sum over sorted errors e_i of e_i C(T - i, k - 1) / C(T, k), i = 1..T: the unbiased estimator of expected
    validation performance (Tang et al. 2020, section 3, after Dodge et al. 2019).
    """
    ordered, total = np.sort(errors), len(errors)
    ways = [[math.comb(total - i, k - 1) for i in range(1, total + 1)] for k in range(1, total + 1)]
    weights = np.array(ways) / [[math.comb(total, k)] for k in range(1, total + 1)]
    return weights @ ordered


def best_of_k(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the curves: model, n_train, trials (k), val_error. Every model must have had the same number of trials."""
    counts = trials.groupby(["model", "n_train"], as_index=False).size()
    if counts["size"].nunique() != 1:
        said = ", ".join(f"{model} at {n:,}: {count}" for model, n, count in counts.itertuples(index=False))
        raise AnalysisError(f"a fair search has as many trials for every model and size; got {said}")
    cells = trials.groupby(["model", "n_train"], sort=False)["val_error"]
    curves = cells.apply(lambda errors: pd.Series(expected_best(errors.to_numpy(float)), range(1, len(errors) + 1)))
    return curves.rename_axis(["model", "n_train", "trials"]).reset_index()


def best_of(curves: pd.DataFrame) -> Figure:
    """Return the expected lowest validation error over trials of each model, one panel per n_train."""
    sizes = sorted(curves["n_train"].unique())
    figure, drawn = panels(len(sizes), columns=min(2, len(sizes)))
    looks = styles(list(dict.fromkeys(curves["model"])))
    for axes, n in zip(drawn, sizes, strict=True):
        for model, rows in curves[curves["n_train"] == n].groupby("model", sort=False):
            colour, marker, line = looks[str(model)]
            axes.plot(rows["trials"], rows["val_error"], color=colour, marker=marker, linestyle=line, label=str(model))
        axes.set(xlabel="trials", ylabel="expected lowest\nvalidation error")
        axes.set_title(f"{n:,} training images", fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


def chosen(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the recipe of each model and size with the lowest validation error, and whether it is at an edge."""
    best = trials.loc[trials.groupby(["model", "n_train"], sort=False)["val_error"].idxmin()].copy()
    for name in ("lr", "weight_decay"):
        tried = trials.groupby("model")[name]
        low, high = best["model"].map(tried.min()), best["model"].map(tried.max())
        best[f"{name}_at_edge"] = ((best[name] == low) | (best[name] == high)) & (low < high)
    return best[["model", "n_train", "lr", "weight_decay", "val_error", "lr_at_edge", "weight_decay_at_edge"]]


def chosen_table(best: pd.DataFrame) -> Table:
    edges = best[["lr_at_edge", "weight_decay_at_edge"]].set_axis(["rate", "decay"], axis=1)
    said = [", ".join(edges.columns[row]) for row in edges.to_numpy(bool)]
    rows = best.iloc[:, :5].rename(columns=title).assign(**{"at the edge of": said}).to_dict("records")
    return table_of(rows, {title("val_error"): "%"}, "The best trial of each model and size")


def write_search(trials: pd.DataFrame, directory: Path) -> None:
    """Write the trials, the figure of their best-of-k curves, and a section on them, to the folder of a report."""
    curves = best_of_k(trials)
    write_text(directory / NAME, trials.to_csv(index=False, float_format="%.6g"))
    save(best_of(curves), directory / "figures", FIGURE)
    count = int(curves["trials"].max())
    ends = curves[curves["trials"] == count].itertuples(index=False)
    said = "; ".join(f"{model} at {n:,}: {100 * error:.1f} %" for model, n, _, error in ends)
    drawing = Drawing(
        name=FIGURE,
        alt=f"Expected lowest validation error over trials. After {count}: {said}.",
        caption="Expected lowest validation error of k trials: the mean over all subsets of the trials that were made.",
    )
    section = Section(
        name="recipes",
        title="How the recipes were searched",
        after="claims",
        sentences=(SEARCHED.format(count),),
        drawings=(drawing,),
        tables=(chosen_table(chosen(trials)),),
        files=(NAME,),
    )
    write_section(section, directory)
