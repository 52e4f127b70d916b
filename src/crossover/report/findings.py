"""The contents of a report before it is rendered: runs with their predictions, their analysis and its sentences."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from crossover.analysis.contract import Calibration, Pair, Repetitions, Result, Study
from crossover.analysis.runs import Predictions
from crossover.analysis.sentences import extrapolation_sentence, verdict_words
from crossover.record import title
from crossover.report.figures import Ceiling
from crossover.report.section import PREDICTIONS, Drawing, Table
from crossover.store import State, write_arrays

NO_MESSAGE = "no message"
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
KINDS = {
    "crossover": "with a crossover",
    **dict.fromkeys(("a_better", "b_better"), "with one model ahead"),
    "several_crossings": "with several crossings",
    "undecided": "undecided",
}
HEADLINES = 4
"""Most verdicts at the start of a report; more are counted and put in a table."""
Fact = str | int | bool | None
"""A device, a version, a commit: what a run was made with."""


@dataclass(frozen=True)
class Extras:
    """Information on the runs that is not in their records."""

    ceilings: Mapping[str, Sequence[Ceiling]] = field(default_factory=dict)
    """By data set."""
    samples: tuple[Drawing, ...] = ()
    """Sample training images."""
    no_samples: str = "No sample images: only curves were given."
    """Why there are none."""
    recipes: Table | None = None
    """Models and recipes in words."""


NO_EXTRAS = Extras()


@dataclass(frozen=True)
class Findings:
    """The input of a report: runs and information on them."""

    title: str
    command: str
    """What repeats it."""
    runs: pd.DataFrame
    planned: int
    conditions: Mapping[str, list[Fact]] = field(default_factory=dict)
    unfinished: Mapping[str, State] = field(default_factory=dict)
    """Run id to state of the planned runs that are not done."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Run id to the message of a failed run."""
    predictions: Predictions = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Data set to its classes."""
    extras: Extras = NO_EXTRAS
    sizes: str = "training images"
    """What n_train counts."""

    @property
    def chance(self) -> dict[str, float]:
        """Data set to the error of guessing."""
        return {dataset: 1 - 1 / len(classes) for dataset, classes in self.names.items()}


@dataclass(frozen=True)
class Report:
    """A finished report with its sentences."""

    findings: Findings
    directory: Path
    curves: pd.DataFrame
    result: Result
    stability: pd.DataFrame
    classes: pd.DataFrame
    calibration: Sequence[Calibration] = ()

    @property
    def runs(self) -> pd.DataFrame:
        return self.findings.runs

    @property
    def pairs(self) -> list[tuple[str, Pair]]:
        return [(study["dataset"], pair) for study in self.result["studies"] for pair in study["pairs"]]

    @property
    def verdicts(self) -> list[str]:
        """One sentence for each pair, or why there is none."""
        said = [f"{dataset}: {pair['summary']}" for dataset, pair in self.pairs]
        return said or [f"One model only, {self.runs['model'].iloc[0]}: there is nothing to compare it with."]

    @property
    def headline(self) -> list[str]:
        """The verdicts, or their count where they are many."""
        if len(self.verdicts) <= HEADLINES:
            return self.verdicts
        kinds = Counter(KINDS[pair["verdict"]] for _, pair in self.pairs)
        said = ", ".join(f"{kinds[words]} {words}" for words in dict.fromkeys(KINDS.values()) if kinds[words])
        many = len(self.result["studies"])
        return [f"{len(self.pairs)} pairs of models on {many} data set{'s' if many > 1 else ''}: {said}."]

    @property
    def trouble(self) -> list[str]:
        """What failed or is missing, one line each."""
        found = self.findings
        lines = [
            f"{run_id} failed: {(text.strip() or NO_MESSAGE).splitlines()[-1]}" for run_id, text in found.errors.items()
        ]
        left = sum(state != "failed" for state in found.unfinished.values())
        if left:
            lines.append(f"{left} of {found.planned} runs are not done yet; continue with: {found.command}")
        return lines

    @property
    def notes(self) -> list[str]:
        """What was left out, changed or could not be established."""
        of: dict[str, list[str]] = {}
        for study in self.result["studies"]:
            for note in notes_of(study):
                of.setdefault(note, []).append(study["dataset"])
        every = max(2, len(self.result["studies"]))
        return [f"{'all data sets' if len(names) == every else ', '.join(names)}: {note}" for note, names in of.items()]

    @property
    def extrapolations(self) -> list[str]:
        return [
            f"{dataset}: {extrapolation_sentence(pair, found)}"
            for dataset, pair in self.pairs
            if (found := pair["extrapolation"])
        ]

    @property
    def stabilities(self) -> list[tuple[str, pd.DataFrame]]:
        """The stability sentence of each pair, and its rows."""
        groups = self.stability.groupby(["dataset", "a", "b"], sort=False)
        return [(f"{dataset}, {a} and {b}: {stability_sentence(rows)}", rows) for (dataset, a, b), rows in groups]

    @property
    def calibrations(self) -> list[tuple[str, list[Repetitions]]]:
        """The calibration sentence of each pair, and its rows by number of chains."""
        return [
            (f"{one['dataset']}, {one['a']} and {one['b']}: {one['note']}", one["rows"]) for one in self.calibration
        ]

    @property
    def commands(self) -> list[str]:
        """Commands that repeat the study, from a clone of the code; a clone lacks what differed from the commit."""
        known = self.findings.conditions
        clean = not any(known.get("dirty", []))
        commits = [str(commit) for commit in known.get("commit", []) if commit and clean]
        return [*(f"git checkout {shlex.quote(commit)}" for commit in commits[:1]), self.findings.command]


def notes_of(study: Study) -> list[str]:
    """Return the notes of a study of crossover.json and of its pairs, each once."""
    return list(dict.fromkeys((*study["notes"], *(note for pair in study["pairs"] for note in pair["notes"]))))


def read_predictions(paths: Mapping[str, Path]) -> Predictions:
    """Return labels and predictions of each run."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for run_id, path in paths.items():
        with np.load(path) as saved:
            read[run_id] = saved["labels"], saved["predictions"]
    return read


def pack_predictions(findings: Findings, directory: Path) -> None:
    """Write what `unpack_predictions` reads; nothing if there are none."""
    if not findings.predictions:
        return
    arrays = {f"classes-{dataset}": np.array(names) for dataset, names in findings.names.items()}
    for run_id, dataset in findings.runs[["run_id", "dataset"]].to_numpy():
        if run_id in findings.predictions:
            labels, predicted = (_compact(part) for part in findings.predictions[run_id])
            arrays |= {f"labels-{dataset}": labels, f"predicted-{run_id}": predicted}
    directory.mkdir(parents=True, exist_ok=True)
    write_arrays(directory / PREDICTIONS, arrays)


def unpack_predictions(directory: Path, runs: pd.DataFrame) -> tuple[Predictions, dict[str, Sequence[str]]]:
    """Return the predictions of those runs that have them, and the classes of each data set."""
    read: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    names: dict[str, Sequence[str]] = {}
    if not (directory / PREDICTIONS).exists():
        return read, names
    with np.load(directory / PREDICTIONS) as saved:
        for run_id, dataset in runs[["run_id", "dataset"]].to_numpy():
            if f"predicted-{run_id}" in saved:
                read[run_id] = saved[f"labels-{dataset}"], saved[f"predicted-{run_id}"]
            if f"classes-{dataset}" in saved:
                names[dataset] = list(map(str, saved[f"classes-{dataset}"]))
    return read, names


def _compact(classes: np.ndarray) -> np.ndarray:
    return classes.astype(np.uint8) if classes.max() < 256 else classes


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
