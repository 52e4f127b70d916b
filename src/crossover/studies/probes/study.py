"""The study behind `make probe`: probes of a sweep or of published weights, as a table and a section of the report."""

from pathlib import Path

import pandas as pd
from pydantic import Field
from rich.console import Console

from crossover.config import CrossoverError
from crossover.fields import Frozen
from crossover.report.section import Part, Section, write_section
from crossover.report.table import Cell, Table, columns, terminal_table
from crossover.store import read_sweep, write_text
from crossover.studies.probes.load import load_published
from crossover.studies.probes.measure import compare_networks, probe_table
from crossover.sweep.plan import sweep_dir
from crossover.sweep.progress import working

NAME = "probes.csv"
KEYS = ["probe", "model", "layer"]
HEADER = ("measure", "model", "layer", "untrained", "without learning")
NOTE = (
    "Means over chains ± their standard deviation, by number of training images; beside them the same networks before"
    " training, and what it would be without learning, where that is known."
)
WORDS = {
    "accuracy_shifted": "accuracy on shifted images",
    "attention_adaptive": "how far attention varies with the image",
    "attention_beyond": "attention beyond neighbours, over that of even attention",
    "attention_distance": "mean attention distance (tokens)",
    "attention_local": "share of local heads",
    "cka_ends": "similarity of the first and last layer (CKA)",
    "consistency": "same answer for two shifts",
    "consistency_correct": "same answer for two shifts, of images that are right",
    "dense_ratio": "weights of fully connected layers, over those of the convolutions",
    "equivariance_1px": "equivariance error, 1 px",
    "equivariance_4px": "equivariance error, 4 px",
    "filters_low_frequency": "low-frequency energy of the first filters",
    "filters_top4": "variance of the first filters in four components",
    "lie_margin": "change of the margin per pixel of movement",
    "lie_rate": "change of the logits per pixel of movement",
    "linear_probe": "accuracy of a linear probe",
    "patch_order": "change of the logits when patches are shuffled",
    "position_loss": "accuracy lost without positions",
    "position_nearness": "likeness of near positions",
    "receptive_rms": "spread of the receptive field (px)",
    "rollout_distance": "attention distance through all layers (tokens)",
    "support": "side of the receptive field (px)",
}
"""Readable names of probes (docs/claims.md); in other names blanks replace underscores."""
MIXED = "Runs that differ in more than the chain (seed, budget or recipe) are averaged here."


class Options(Frozen):
    """The settings of conf/probe.yaml, which documents them."""

    name: str = Field(coerce_numbers_to_str=True)
    init_from: str | None
    images: Path | None
    output: Path | None
    outputs: Path
    parallel: int | None


def main(options: Options, console: Console) -> None:
    """Write the table of probes of the sweep `name`, with its section, or of the weights `init_from` on `images`."""
    published = options.init_from
    if published is None:
        path = options.output or sweep_dir(options.outputs, options.name) / NAME
        table = _probe_sweep(options)
    else:
        path = options.output or Path("outputs/probes") / f"{published.replace(':', '-')}.csv"
        with working(console, f"probing {published}"):
            networks = load_published(published, options.images)
            table = compare_networks(*networks, own_classes=False).assign(model=published)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False, float_format="%.6g", na_rep="NaN"))
    console.print(terminal_table(_over_runs(table)))
    print(f"table: {path}")
    if path.name == NAME and published is None:
        write_section(probe_section(table), path.parent)
        print("make report puts it on the sweep's page")


def _probe_sweep(options: Options) -> pd.DataFrame:
    """Return the probes of the runs of a sweep that are done."""
    sweep = read_sweep(options.outputs, options.name)
    if not sweep.records:
        raise CrossoverError(f"no run of sweep {sweep.name} is done; run {sweep.command} first")
    if len(sweep.records) < len(sweep.planned):
        print(f"{len(sweep.records)} of {len(sweep.planned)} runs are done and are probed")
    folders = [options.outputs / "runs" / record["run_id"] for record in sweep.records]
    return probe_table(folders, options.parallel)


def _over_runs(table: pd.DataFrame) -> Table:
    """Return the means over runs of the measures of whole networks."""
    numbers = ["value", "untrained", "analytic"]
    means = table[table["layer"] == ""].groupby(["model", "probe"], sort=False)[numbers].mean()
    rows = tuple((str(model), _words(str(probe)), *row) for (model, probe), *row in means.itertuples(name=None))
    titles = columns("model", "measure", "value", "untrained", "without learning", left=2)
    return Table(caption="means over runs", columns=titles, rows=rows)


def probe_section(table: pd.DataFrame) -> Section:
    """Return a part for each world and augmentation, with a row for each measure, model and layer.

    Similarities of single pairs of layers (`cka`) are left out, as they are in the table itself.
    """
    shown = table[table["probe"] != "cka"]
    parts = [
        Part(title=f"{world}, augmentation {augment}", sentences=_notes(part), tables=(_means(part),))
        for (world, augment), part in shown.groupby(["world", "augment"], sort=False)
    ]
    return Section(name="probes", title="What the networks have learned", parts=tuple(parts), files=(NAME,))


def _notes(table: pd.DataFrame) -> tuple[str, ...]:
    mixed = table.duplicated([*KEYS, "n_train", "chain"]).any()
    return (NOTE, MIXED) if mixed else (NOTE,)


def _means(table: pd.DataFrame) -> Table:
    sizes = sorted(table["n_train"].unique())
    order = {name: i for i, name in enumerate(dict.fromkeys(table["probe"]))}
    means = table.groupby([*KEYS, "n_train"], sort=False)["value"].agg(["mean", "std"])
    cells = {key: _cell(*numbers) for key, numbers in zip(means.index, means.to_numpy(), strict=True)}
    start = table.groupby(KEYS, sort=False)[["untrained", "analytic"]].mean()
    rows: list[tuple[Cell, ...]] = [
        (_words(key[0]), *key[1:], *(_cell(value) for value in start.loc[key]), *(cells.get((*key, n)) for n in sizes))
        for key in sorted(start.index, key=lambda key: order[key[0]])
    ]
    return Table(caption="", columns=columns(*HEADER, *(f"{n:,}" for n in sizes), left=3), rows=tuple(rows))


def _words(probe: str) -> str:
    return WORDS.get(probe, probe.replace("_", " "))


def _cell(mean: float, deviation: float = float("nan")) -> str | None:
    if pd.isna(mean):
        return None
    return f"{mean:.3g}" + ("" if pd.isna(deviation) else f" ± {deviation:.2g}")
