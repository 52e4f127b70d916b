"""The report of a sweep, with what its records lack: ceilings of the embedded world, sample images, recipes."""

import json
import shlex
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console

from crossover.analysis.runs import Method
from crossover.analysis.verdict import analyse
from crossover.config import CrossoverError, RunConfig, parse_run
from crossover.data.cache import Dataset, cache_folder, open_dataset
from crossover.data.cues import bayes_accuracy, local_only_accuracy
from crossover.fields import AugmentConfig, CuesData, ModelConfig
from crossover.record import runs_table, title
from crossover.report.build import keep_one_format, settings, sweep_input, write_report
from crossover.report.contents import ReportInput, pack_predictions, read_predictions
from crossover.report.page import terminal_summary
from crossover.report.section import PAGE, Drawing, Section, Table, table_of
from crossover.report.wandb import mirror_report
from crossover.store import SweepRecords, read_done, write_atomically
from crossover.sweep.plan import plan_runs, read_preset
from crossover.sweep.pool import Progress
from crossover.sweep.progress import working
from crossover.text import say

CEILING_IMAGES = 5_000
"""Images on which the exact Bayes accuracy is evaluated; its standard error is then about 0.001."""
ARGUMENTS = {
    "widths": "widths",
    "depths": "blocks",
    "embed_dim": "width",
    "depth": "layers",
    "num_heads": "heads",
    "mlp_ratio": "MLP ratio",
}
MOST_CLASSES = 10
STEPS = 3
"""Steps of a training whose augmentation is shown."""
MOST_PIXELS = 96
"""Largest side of one image in the picture."""


def present_sweep(
    sweep: SweepRecords, directory: Path, console: Console, also: Sequence[SweepRecords] = (), **settings: int
) -> None:
    """Write the report of a sweep, mirror it to W&B and print its summary; `settings` are those of write_report."""
    kinds = {
        (r["dataset"], r["augment"], r["model"], r["recipe"], r["budget"], r.get("lr")): r["config"]
        for r in sweep.records
    }
    with working(console, f"reporting on {len(sweep.records)} runs"):
        runs = [parse_run(config) for config in kinds.values()]
        inputs = describe_data(sweep_input(sweep, also), runs, directory)
        pack_predictions(inputs, directory)
        report = write_report(inputs, directory, **settings)
        mirror_report(report, sweep)
    terminal_summary(report, console)


class Interim:
    """Prints interim verdicts whenever another chain of a sweep is done; call it with each Progress of its runs."""

    def __init__(self, runs: Sequence[RunConfig], console: Console) -> None:
        self._chains: dict[int, list[RunConfig]] = {}
        for run in runs:
            self._chains.setdefault(run.chain, []).append(run)
        self._console, self._shown = console, 0
        self.threads: list[threading.Thread] = []

    def __call__(self, progress: Progress) -> None:
        whole = [runs for runs in self._chains.values() if all(progress.states[run.run_id] == "done" for run in runs)]
        if self._shown < len(whole) < len(self._chains):  # after the last one comes the report
            self._shown = len(whole)
            self.threads.append(threading.Thread(target=self._say, args=(whole,), daemon=True))  # the pool goes on
            self.threads[-1].start()

    def _say(self, chains: list[list[RunConfig]]) -> None:
        runs = [run for members in chains for run in members]
        try:
            predictions = read_predictions({run.run_id: run.run_dir / "predictions.npz" for run in runs})
            result = analyse(runs_table(read_done(runs)), Method(seed=0, predictions=predictions))
        except (CrossoverError, OSError):
            return  # the report says it
        for study in result["studies"]:
            for pair in study["pairs"]:
                text = f"after {len(chains)} of {len(self._chains)} chains, {study['dataset']}: {pair['summary']}"
                say(self._console, text)


def republish(study: ReportInput, folder: Path, runs: Sequence[RunConfig]) -> Path:
    """Rebuild the tables, figures and pages of a published study from its own files; return its page."""
    write_report(describe_data(study, runs, folder) if runs else study, folder)
    keep_one_format(folder)
    return folder / PAGE


def study_runs(study: ReportInput, outputs: str, changes: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Return the runs of a published study by id, as today's conf/ plans them; raise CrossoverError if it does not."""
    given = settings(study.command)
    overrides, extra = (shlex.split(given.get(name, "")) for name in ("ARGS", "SET"))
    planned = plan_runs(read_preset(study.title, overrides), extra=[*extra, *changes], outputs=outputs)
    wanted = {*study.runs["run_id"], *study.unfinished}
    found = {run.run_id: run for run in planned if run.run_id in wanted}
    gone = sorted(wanted - set(found))
    if gone:
        commits = ", ".join(map(str, study.conditions.get("commit", ["unknown"])))
        raise CrossoverError(
            f"conf/ no longer plans {len(gone)} of the published runs, such as {gone[0]}; they were made by commit"
            f" {commits}: git checkout that, or publish the study again"
        )
    return found


def describe_data(inputs: ReportInput, runs: Sequence[RunConfig], directory: Path) -> ReportInput:
    """Return the input with what a report shows of runs besides their records; pictures go to directory/figures."""
    data = {run.dataset: run.data for run in runs}
    ceilings = {name: cues_ceilings(config) for name, config in data.items() if isinstance(config, CuesData)}
    kinds = {(run.dataset, run.augment.name): run for run in runs}
    drawn: tuple[Drawing, ...] = ()
    said: tuple[str, ...] = ()
    try:
        drawn = tuple(_sample(run, directory / "figures") for run in kinds.values())
    except ImportError:
        said = ("No sample images: they need PyTorch, which is not installed here.",)
    except CrossoverError as error:
        said = (f"No sample images: {error}",)
    samples = Section(name="samples", title="What the networks see", after="cost", sentences=said, drawings=drawn)
    models = Section(name="models", title="Models and recipes", after="missing", tables=(recipe_table(runs),))
    return replace(inputs, ceilings=ceilings, sections=(samples, models))


def _sample(run: RunConfig, folder: Path) -> Drawing:
    """Return the picture of a data set and an augmentation, drawn where its images are; else an earlier one is kept."""
    path, data = folder / f"samples-{run.dataset}-{run.augment.name}.png", Path(run.machine.data_dir)
    if cache_folder(run.data, data).is_dir():
        pixels, classes = sample_picture(run, open_dataset(run.data, data))
        words = PngInfo()
        words.add_text("classes", json.dumps(classes))
        write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, "PNG", pnginfo=words))
    elif not path.exists():
        raise CrossoverError(f"the images of {run.dataset} are not on this machine ({data})")
    with Image.open(path) as image:
        classes = json.loads(image.info["classes"])
    said = f"One training image of each of {len(classes)} classes of {run.dataset} ({', '.join(classes)})"
    below = f"below each, the same image as augmented ({run.augment.name}) in three steps of a training."
    more = "Nothing is augmented." if run.augment.name == "none" else below
    return Drawing(name=path.stem, kind="png", alt=f"{said}. {more}")


def sample_picture(run: RunConfig, dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """Return a picture uint8 (H, W, 3) and the classes of its columns.

    Above, the first training image of each class; below, if anything changes them, the same images in STEPS steps.
    """
    labels = dataset.labels[dataset.pool]
    shown = [label for label in range(len(dataset.classes)) if (labels == label).any()][:MOST_CLASSES]
    first = np.array([dataset.pool[np.argmax(labels == label)] for label in shown])
    rows = [np.asarray(dataset.images[first])]
    if run.augment != AugmentConfig(name=run.augment.name) or dataset.order is not None:
        import torch  # a report needs it only if something changes the images: that saves seconds

        from crossover.data.loader import Images, TrainBatches

        images = Images(dataset, first, torch.device("cpu"), resident_gb=1)
        batches = TrainBatches(images, run.augment, batch_size=len(first), seed=run.seed)
        for step in range(STEPS):
            batches.seed_step(step)
            x, _ = batches.augment(*images.take(np.arange(len(first))))
            rows.append(images.normalise.pixels(x).numpy())
    picture = Image.fromarray(np.vstack([np.hstack(list(row)) for row in rows]))
    side = min(rows[0].shape[1], MOST_PIXELS)
    small = picture.resize((side * len(shown), side * len(rows)), Image.Resampling.LANCZOS)
    return np.asarray(small), [dataset.classes[label] for label in shown]


def cues_ceilings(config: CuesData) -> dict[str, float]:
    """Return the lowest error with all cues and, if there are two, with the local cue alone."""
    ceilings = {"best possible": 1 - bayes_accuracy(config, CEILING_IMAGES)}
    both = config.alpha != 0 and config.beta != 0
    return ceilings | ({"local cue alone": 1 - local_only_accuracy(config)} if both else {})


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


def recipe_table(runs: Sequence[RunConfig]) -> Table:
    """Return the models and recipes of some runs in words, one row for each model."""
    facts = [
        {
            "model": run.model.name,
            "what it is": model_words(run.model),
            "optimiser": {"adamw": "AdamW", "sgd": "SGD"}[run.recipe.optimizer],
            "peak learning rate": f"{run.recipe.lr:g}",
            "weight decay": f"{run.recipe.weight_decay:g}",
            "batch": str(run.recipe.batch_size),
            "label smoothing": f"{run.recipe.label_smoothing:g}",
            "augmentation": run.augment.name,
            "image side": f"{run.data.image_size} px",
            "budget": run.budget.label,
        }
        for run in runs
    ]
    by_model = pd.DataFrame(facts).groupby("model", sort=False, as_index=False)
    return table_of(by_model.agg(_either).to_dict("records"))


def _either(values: "pd.Series[str]") -> str:
    return " or ".join(values.unique())
