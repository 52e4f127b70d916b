"""Plain English for identifiers of the code: verdicts, metrics, choices, laws, models, recipes and methods."""

from collections.abc import Mapping, Sequence

import pandas as pd

from crossover.analysis.runs import title as usual_title
from crossover.analysis.sentences import verdict_words
from crossover.config import RunConfig
from crossover.fields import ModelConfig
from crossover.record import COLUMNS
from crossover.report.section import Table, columns

METHODS = (
    "Every model trains on the same class-stratified, nested subsets (chains); a chain is the random unit.",
    "Recipes and checkpoints are selected on validation images held out once; the test set is read once per run.",
    "The verdict comes from D(n) = log error(b) - log error(a), paired by chain, with a simultaneous 95% band over the"
    " measured sizes: a model leads where the whole band is on its side, and a change of lead is a crossover.",
    "N* is where the mean of D, interpolated in log n, changes sign; its confidence set, where the band contains zero.",
    "Data-equivalence is how many times the images of a model b needs for the error of a; its interval is for one"
    " size.",
    "With few chains an interval is wide and rests on a t distribution; it does not speak of other recipes or budgets.",
)
TITLES = {column.name: column.title for column in COLUMNS if column.title} | {
    "augment": "augmentation",
    "best_step": "step with the best validation error",
    "dirty": "changes that are in no commit",
    "size left out": "without the size",
    "chain left out": "without the chain",
    "selection": "weights tested",
    "metric": "number compared",
}
"""Readable names of other identifiers than those of the analysis."""
INTERVALS = {
    "chains": "paired chains",
    "seeds": "seeds of one chain",
    "unpaired": "chains, not paired",
    "roughness": "roughness of single curves",
}
"""The source of an interval."""
LAW_PARAMETERS = {"e_inf": "e∞", "n0": "n₀", "e0": "e₀"}
SMALLEST = 1e-12
"""A fitted number below this is zero: its law does not need it."""
ARGUMENTS = {
    "widths": "widths",
    "depths": "blocks",
    "embed_dim": "width",
    "depth": "layers",
    "num_heads": "heads",
    "mlp_ratio": "MLP ratio",
}


def title(name: str) -> str:
    """Return the readable name of a column, metric, choice or condition."""
    return TITLES.get(name) or usual_title(name)


def stability_sentence(rows: pd.DataFrame) -> str:
    """Return a sentence that summarises the rows of one pair in the stability table."""
    others = rows[(rows["choice"] != "as analysed") & rows["verdict"].notna()]
    if others.empty:
        return "The runs allow no alternative analysis."
    said = []
    for change, words in {
        "contradicts": "another leader",
        "weaker": "a less clear one",
        "stronger": "a clearer one",
    }.items():
        part = [
            f"{title(choice)} {title(value)}: {verdict_words(a, b, verdict)}"
            for choice, value, a, b, verdict in others.loc[
                others["change"] == change, ["choice", "value", "a", "b", "verdict"]
            ]
            .astype(str)
            .itertuples(index=False)
        ]
        if part:
            said.append(f"{len(part)} {_give(len(part))} {words} ({', '.join(part)})")
    if not said:
        return f"The verdict is the same under all {len(others)} alternative analyses."
    same = int((others["change"] == "same").sum())
    return f"Of {len(others)} alternative analyses {same} {_give(same)} the same verdict; {'; '.join(said)}."


def _give(number: int) -> str:
    return "gives" if number == 1 else "give"


def parameter_words(params: Mapping[str, float], errors: Mapping[str, float | None]) -> str:
    """Return the fitted parameters of a law with their standard errors."""
    parts = []
    for name, value in params.items():
        unit, scale = (" %", 100.0) if name == "e_inf" else ("", 1.0)
        number = "0" if abs(value) < SMALLEST else f"{scale * value:.3g}"
        error = errors[name]
        spread = "" if error is None or number == "0" else f" ± {scale * error:.2g}"
        parts.append(f"{LAW_PARAMETERS.get(name, name)} = {number}{spread}{unit}")
    return ", ".join(parts)


def model_words(model: ModelConfig) -> str:
    """Describe a model, such as `Vision Transformer: width 64, layers 4, heads 4; mean of the tokens`."""
    kinds = {"basic_resnet": "ResNet of basic blocks", "vit": "Vision Transformer"}
    values = {k: "-".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in model.args.items()}
    said = [f"{ARGUMENTS.get(name, title(name))} {value}" for name, value in values.items()]
    words = kinds.get(model.arch, f"{model.arch} of timm") + (f": {', '.join(said)}" if said else "")
    if model.family == "resnet":
        return words
    patch = "patches by image size" if model.patch_size is None else f"patches of {model.patch_size} px"
    pool = "mean of the tokens" if model.pool == "avg" else "class token"
    return f"{words}; {patch}, position embedding {model.position}, {pool}"


def recipe_table(runs: Sequence[RunConfig]) -> Table | None:
    """Return the models and recipes of some runs in words, one row for each model; None without runs."""
    if not runs:
        return None
    facts = {
        "model": lambda run: run.model.name,
        "what it is": lambda run: model_words(run.model),
        "optimiser": lambda run: {"adamw": "AdamW", "sgd": "SGD"}[run.recipe.optimizer],
        "peak learning rate": lambda run: f"{run.recipe.lr:g}",
        "weight decay": lambda run: f"{run.recipe.weight_decay:g}",
        "batch": lambda run: str(run.recipe.batch_size),
        "label smoothing": lambda run: f"{run.recipe.label_smoothing:g}",
        "augmentation": lambda run: run.augment.name,
        "image side": lambda run: f"{run.data.image_size} px",
        "budget": lambda run: run.budget.label,
    }
    by_model: dict[str, list[RunConfig]] = {}
    for run in runs:
        by_model.setdefault(run.model.name, []).append(run)
    rows = [[" or ".join(dict.fromkeys(map(fact, part))) for fact in facts.values()] for part in by_model.values()]
    return Table(caption="Models and recipes", columns=columns(*facts, left=len(facts)), rows=tuple(map(tuple, rows)))
