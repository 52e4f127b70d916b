"""The report of a sweep, with what its records lack: ceilings of the embedded world, sample images, recipes."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from crossover.report.build import (
    Published,
    keep_one_format,
    published_pools,
    study_findings,
    write_findings,
    write_report,
)
from crossover.report.figures import Ceiling
from crossover.report.findings import Extras, Findings, Report, read_predictions
from crossover.report.page import terminal_summary
from crossover.report.section import PAGE, Drawing, Table, columns
from crossover.report.wandb import mirror_report
from crossover.store import SweepRecords, read_done, write_atomically
from crossover.sweep.plan import plan_runs, read_preset
from crossover.sweep.pool import Progress
from crossover.sweep.progress import working

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


def report_sweep(
    sweep: SweepRecords, directory: Path, *, also: Sequence[SweepRecords] = (), seed: int = 0, designs: int = 0
) -> Report:
    """Write the report of a sweep into `directory`; the rest as in write_report."""
    kinds = {
        (r["dataset"], r["augment"], r["model"], r["recipe"], r["budget"], r.get("lr")): r["config"]
        for r in sweep.records
    }
    extras = describe_data([parse_run(config) for config in kinds.values()], directory)
    return write_report(sweep, directory, also=also, seed=seed, extras=extras, designs=designs)


def present_sweep(sweep: SweepRecords, directory: Path, console: Console, **settings: Any) -> None:
    """Write the report of a sweep, mirror it to W&B and print its summary; `settings` are those of report_sweep."""
    with working(console, f"reporting on {len(sweep.records)} runs"):
        report = report_sweep(sweep, directory, **settings)
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
                self._console.print(text, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)


def republish(folder: Path, runs: Sequence[RunConfig]) -> Path:
    """Rebuild the tables, figures and pages of a published study from its own files; return its page."""
    found = study_findings(folder, describe_data(runs, folder))
    pools = _pools(found, published_pools(folder.parent), runs)
    if pools and ("n_pool" not in found.runs or found.runs["n_pool"].isna().all()):
        found = replace(found, runs=found.runs.assign(n_pool=found.runs["dataset"].map(pools)))
    write_findings(found, folder)
    keep_one_format(folder)
    return folder / PAGE


def _pools(found: Findings, published: Mapping[str, int], runs: Sequence[RunConfig]) -> dict[str, int]:
    """Return the size of the pool by data set, which older records lack: from its config, or by the hash of its images.

    The hash is of the split as well.
    """
    pools = {run.dataset: run.data.n_pool for run in runs if isinstance(run.data, CuesData)}
    for dataset in set(found.runs["dataset"]) - set(pools):
        known = {published.get(str(digest)) for digest in found.conditions.get(f"{dataset} hash", [])}
        if len(known) == 1 and (size := known.pop()) is not None:
            pools[dataset] = size
    return pools


def study_runs(study: Published, outputs: str, changes: Sequence[str] = ()) -> dict[str, RunConfig]:
    """Return the runs of a published study by id, as today's conf/ plans them; raise CrossoverError if it does not."""
    planned = plan_runs(read_preset(study.sweep, study.overrides), extra=[*study.changes, *changes], outputs=outputs)
    by_id = {run.run_id: run for run in planned}
    gone = [run_id for run_id in study.run_ids if run_id not in by_id]
    if gone:
        commits = ", ".join(map(str, study.environment.get("commit", ["unknown"])))
        raise CrossoverError(
            f"conf/ no longer plans {len(gone)} of the runs of {study.name}, such as {gone[0]}; it was made by"
            f" commit {commits}: git checkout that, or publish the study again"
        )
    return {run_id: by_id[run_id] for run_id in study.run_ids}


def describe_data(runs: Sequence[RunConfig], directory: Path) -> Extras:
    """Return what a report shows of runs besides their records; pictures go to directory/figures."""
    data = {run.dataset: run.data for run in runs}
    ceilings = {name: cues_ceilings(config) for name, config in data.items() if isinstance(config, CuesData)}
    kinds = {(run.dataset, run.augment.name): run for run in runs}
    extras = Extras(ceilings, recipes=recipe_table(runs))
    try:
        return replace(extras, samples=tuple(_sample(run, directory / "figures") for run in kinds.values()))
    except ImportError:
        return replace(extras, no_samples="No sample images: they need PyTorch, which is not installed here.")
    except CrossoverError as error:
        return replace(extras, no_samples=f"No sample images: {error}")


def _sample(run: RunConfig, folder: Path) -> Drawing:
    """Return the picture of a data set and an augmentation, drawn unless an earlier report has left it there."""
    path = folder / f"samples-{run.dataset}-{run.augment.name}.png"
    parts = run.model_dump(mode="json", include={"data": True, "augment": True}) | {"seed": run.seed}
    parts["data"].pop("root", None)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    if path.exists():
        with Image.open(path) as image:
            if image.info.get("config") == digest:
                return _drawing(run, path, json.loads(image.info["classes"]))
    cache = cache_folder(run.data, Path(run.machine.data_dir))
    if not cache.is_dir():
        raise CrossoverError(f"the images of {run.dataset} are not on this machine ({cache})")
    pixels, classes = sample_picture(run, open_dataset(run.data, Path(run.machine.data_dir)))
    words = PngInfo()
    words.add_text("config", digest)
    words.add_text("classes", json.dumps(classes))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: Image.fromarray(pixels).save(temporary, "PNG", pnginfo=words))
    return _drawing(run, path, classes)


def _drawing(run: RunConfig, path: Path, classes: Sequence[str]) -> Drawing:
    named = ", ".join(classes)
    words = f"One training image of each of {len(classes)} classes of {run.dataset} ({named})"
    changed = f"below each, the same image as augmented ({run.augment.name}) in three steps of a training."
    more = "Nothing is augmented." if run.augment.name == "none" else changed
    return Drawing(name=path.stem, kind="png", alt=f"{words}. {more}")


def sample_picture(run: RunConfig, dataset: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a picture uint8 (H, W, 3) and the classes of its columns.

    Above, the first training image of each class; below, if anything changes them, the same images in STEPS steps.
    """
    labels = dataset.labels[dataset.pool]
    shown = [label for label in range(len(dataset.classes)) if (labels == label).any()][:MOST_CLASSES]
    first = np.array([dataset.pool[np.argmax(labels == label)] for label in shown])
    rows = [np.asarray(dataset.images[first])]
    if changes(run.augment) or dataset.order is not None:
        rows += _changed(run, dataset, first)
    small = [[_reduced(image) for image in row] for row in rows]
    return np.vstack([np.hstack(row) for row in small]), tuple(dataset.classes[label] for label in shown)


def _changed(run: RunConfig, dataset: Dataset, indices: np.ndarray) -> list[np.ndarray]:
    import torch  # a report needs it only if something changes the images: that saves seconds

    from crossover.data.loader import Images, TrainBatches

    images = Images(dataset.images, dataset.labels, indices, torch.device("cpu"), resident_bytes=2**30)
    batches = TrainBatches(images, dataset, run.augment, batch_size=len(indices), seed=run.seed)
    rows = []
    for step in range(STEPS):
        batches.seed_step(step)
        x, _ = batches.augment(*images.take(np.arange(len(indices))))
        rows.append(batches.normalise.pixels(x).numpy())
    return rows


def changes(augment: AugmentConfig) -> bool:
    """Return whether an augmentation does anything."""
    return augment != AugmentConfig(name=augment.name)


def _reduced(image: np.ndarray) -> np.ndarray:
    if len(image) <= MOST_PIXELS:
        return image
    return np.asarray(Image.fromarray(image).resize((MOST_PIXELS, MOST_PIXELS), Image.Resampling.LANCZOS))


def cues_ceilings(config: CuesData) -> list[Ceiling]:
    """Return the lowest error with all cues and with the local cue alone."""
    bayes = Ceiling("best possible", 1 - bayes_accuracy(config, CEILING_IMAGES))
    if config.alpha == 0 or config.beta == 0:
        return [bayes]
    return [bayes, Ceiling("local cue alone", 1 - local_only_accuracy(config))]


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
