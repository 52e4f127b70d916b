"""The contents of a report before it is rendered: runs with their predictions, their analysis and its sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from crossover.analysis.contract import Analysis, Calibration, Pair, Result
from crossover.analysis.runs import Predictions
from crossover.analysis.sentences import extrapolation_sentence, verdict_words
from crossover.config import CrossoverError
from crossover.record import title
from crossover.report.section import PREDICTIONS, Section
from crossover.store import State, write_arrays
from crossover.text import counted

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
OF_SWEEPS = 2
"""The first of METHODS are about runs of our sweeps, and not about curves from elsewhere."""
KINDS = {
    "crossover": "with a crossover",
    "a_better": "with one model ahead",
    "b_better": "with one model ahead",
    "several_crossings": "with several crossings",
    "undecided": "undecided",
}
CHANGES = {"contradicts": "another leader", "weaker": "a less clear one", "stronger": "a clearer one"}
KEYS = ["run_id", "dataset"]
HEADLINES = 4
"""Most verdicts at the start of a report; more are counted and put in a table."""
Fact = str | int | bool | None
"""A device, a version, a commit: what a run was made with."""


@dataclass(frozen=True)
class ReportInput:
    """The input of a report: runs and information on them."""

    title: str
    command: str
    """What repeats it."""
    runs: pd.DataFrame
    conditions: Mapping[str, list[Fact]] = field(default_factory=dict)
    unfinished: Mapping[str, State] = field(default_factory=dict)
    """Run id to state of the planned runs that are not done."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Run id to the message of a failed run."""
    predictions: Predictions = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Data set to its classes."""
    ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Data set to the lowest possible error with what each names; not in the records, as are the sections."""
    sections: tuple[Section, ...] = ()
    """Such as sample images, and the models and recipes in words."""

    @property
    def planned(self) -> int:
        return len(self.runs) + len(self.unfinished)

    @property
    def is_transfer(self) -> bool:
        """Whether it is a transfer study: its rows are then probes of another sweep's backbones, not runs."""
        return self.command.startswith("make transfer ")

    @property
    def is_own(self) -> bool:
        """Whether our sweeps made the runs, and not others the curves."""
        return " curves=" not in self.command

    @property
    def sizes(self) -> str:
        """What n_train counts."""
        return "pre-training images" if self.is_transfer else "training images"

    @property
    def chance(self) -> dict[str, float]:
        """Data set to the error of guessing."""
        return {dataset: 1 - 1 / len(classes) for dataset, classes in self.names.items()}


@dataclass(frozen=True)
class Report:
    """A finished report with its sentences."""

    inputs: ReportInput
    directory: Path
    curves: pd.DataFrame
    result: Result
    stability: pd.DataFrame
    classes: pd.DataFrame
    calibration: Sequence[Calibration] = ()

    @property
    def runs(self) -> pd.DataFrame:
        return self.inputs.runs

    @property
    def pairs(self) -> list[tuple[str, Pair]]:
        return [(one["dataset"], pair) for one in self.result["studies"] for pair in one["pairs"]]

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each pair, or why there is none."""
        said = [f"{dataset}: {pair['summary']}" for dataset, pair in self.pairs]
        return said or ["No data set has runs of two models: there is nothing to compare."]

    @property
    def headline(self) -> list[str]:
        """The verdicts, or their count where they are many."""
        if len(self.verdicts) <= HEADLINES:
            return self.verdicts
        kinds = Counter(KINDS[pair["verdict"]] for _, pair in self.pairs)
        said = ", ".join(f"{count} {words}" for words, count in kinds.most_common())
        return [f"{len(self.pairs)} pairs of models on {counted(len(self.result['studies']), 'data set')}: {said}."]

    @property
    def trouble(self) -> list[str]:
        """What failed or is missing, one line each."""
        found = self.inputs
        left = sum(state != "failed" for state in found.unfinished.values())
        more = f"{left} of {found.planned} runs are not done yet; continue with: {found.command}"
        failed = [f"{run_id} failed: {text.splitlines()[-1]}" for run_id, text in found.errors.items()]
        return failed + [more] * (left > 0)

    @property
    def extrapolations(self) -> list[str]:
        known = [(dataset, pair, found) for dataset, pair in self.pairs if (found := pair["extrapolation"])]
        return [f"{dataset}: {extrapolation_sentence(pair, found)}" for dataset, pair, found in known]

    @property
    def stabilities(self) -> list[tuple[str, pd.DataFrame]]:
        """The stability sentence of each pair, and its rows."""
        groups = self.stability.groupby(["dataset", "a", "b"], sort=False)
        return [(f"{dataset}, {a} and {b}: {stability_sentence(rows)}", rows) for (dataset, a, b), rows in groups]


def notes_of(analysis: Analysis) -> list[str]:
    """Return the notes on a data set and on its pairs, each once."""
    return list(dict.fromkeys((*analysis["notes"], *(note for pair in analysis["pairs"] for note in pair["notes"]))))


def read_predictions(paths: Mapping[str, Path]) -> Predictions:
    """Return labels and predictions of each run."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for run_id, path in paths.items():
        try:
            with path.open("rb") as file, np.load(file) as saved:
                labels, predictions = saved["labels"], saved["predictions"]
            if not all(array.ndim == 1 and array.dtype.kind in "iu" for array in (labels, predictions)):
                raise ValueError("no lists of classes")
        except (BadZipFile, EOFError, LookupError, TypeError, ValueError) as error:
            raise CrossoverError(
                f"{path} cannot be read ({error}); move it away to report without these test images, or move the folder"
                " of this run away to repeat it"
            ) from None
        read[run_id] = labels, predictions
    return read


def pack_predictions(inputs: ReportInput, directory: Path) -> None:
    """Write what `unpack_predictions` reads; nothing if there are none."""
    if not inputs.predictions:
        return
    arrays = {f"classes-{dataset}": np.array(names) for dataset, names in inputs.names.items()}
    for run_id, dataset in inputs.runs[KEYS].to_numpy():
        if run_id in inputs.predictions:
            parts = zip((f"labels-{dataset}", f"predicted-{run_id}"), inputs.predictions[run_id], strict=True)
            arrays |= {name: classes.astype(np.min_scalar_type(classes.max())) for name, classes in parts}
    write_arrays(directory / PREDICTIONS, arrays)


def unpack_predictions(directory: Path, runs: pd.DataFrame) -> tuple[Predictions, dict[str, Sequence[str]]]:
    """Return the predictions of those runs that have them, and the classes of each data set."""
    if not (directory / PREDICTIONS).exists():
        return {}, {}
    with np.load(directory / PREDICTIONS) as saved:
        named = [(run_id, f"labels-{dataset}", f"predicted-{run_id}") for run_id, dataset in runs[KEYS].to_numpy()]
        read = {run_id: (saved[labels], saved[guess]) for run_id, labels, guess in named if guess in saved}
        known = [dataset for dataset in runs["dataset"].unique() if f"classes-{dataset}" in saved]
        return read, {dataset: [*map(str, saved[f"classes-{dataset}"])] for dataset in known}


def stability_sentence(rows: pd.DataFrame) -> str:
    """Return a sentence that summarises the rows of one pair in the stability table."""
    others = rows[(rows["choice"] != "as analysed") & rows["verdict"].notna()]
    if others.empty:
        return "The runs allow no alternative analysis."
    same = (others["change"] == "same").sum()
    said = [f"Of {len(others)} alternative analyses {same} give{'s' if same == 1 else ''} the same verdict"]
    for change, words in CHANGES.items():
        named = [
            f"{title(row['choice'])} {title(row['value'])}: {verdict_words(row['a'], row['b'], row['verdict'])}"
            for row in others[others["change"] == change].astype(str).to_dict("records")
        ]
        said += [f"{words} in {len(named)} ({', '.join(named)})"] if named else []
    return f"{'; '.join(said)}."
