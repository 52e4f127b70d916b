"""The study behind `make claims`: measures from its runs, published studies and computations, and their verdicts."""

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from rich.console import Console

from crossover.analysis.runs import without_twins
from crossover.config import CrossoverError, RunConfig
from crossover.fields import Frozen
from crossover.record import runs_table
from crossover.report.build import environment
from crossover.report.section import table_of, terminal_table, write_section
from crossover.store import RUN_COLUMNS, is_done, read_done, read_table, write_json, write_plan, write_text
from crossover.studies.claims.page import counts, ledger_section, write_ledger
from crossover.studies.claims.rules import COLUMNS, ENDS, EXACT, KEYS, PUBLISHED, Place, Rules, at_any, cost_of, judge
from crossover.studies.demo import SHIFT, WHOLE, convolve, normalised, pictures, pool
from crossover.studies.probes.equivariance import relative_error, translate
from crossover.studies.probes.study import place_of, probe_table
from crossover.sweep.launch import do_runs
from crossover.sweep.plan import plan_runs, read_preset, sweep_dir
from crossover.training.models import count_parameters

RECORDED = ["test_error", "train_error", "params", "total_seconds"]
"""Measures stored in a record; all others come from probes of the weights."""
FACTS = ["world", "augment", "model", "n_train", "chain"]
KNOWN = ("resnet50", "vit_base_patch16_224", "vit_small_patch16_224")
"""timm's names of ResNet-50, ViT-B/16 and ViT-S/16 (DeiT-S)."""
STUDY = "claims"
"""The name of the ledger's own runs, as a study in the measures and as a sweep."""


class SweepPart(Frozen):
    """Runs of a preset, restricted to some models where these are given."""

    preset: str
    models: tuple[str, ...] | None = None


class Options(Rules):
    """The settings of conf/claims.yaml: the rules, and the sources of their numbers."""

    sweeps: tuple[SweepPart, ...]
    studies: tuple[str, ...]
    """Published studies that some cases use."""
    set: tuple[str, ...]
    """Overrides of every run."""
    run: bool
    dry_run: bool
    parallel: int | None
    output: Path | None
    outputs: Path
    results: Path


def main(rules: Options, console: Console) -> None:
    """Train and probe the runs that are left, and judge every claim; exit with status 1 if a claim has no data."""
    runs = planned(rules)
    print(f"claims: {len(rules.claims)} claims, {len(runs)} runs")
    if rules.dry_run:
        print(*(run.run_id for run in runs), sep="\n")
        return
    if rules.run:
        write_plan(sweep_dir(rules.outputs, STUDY), STUDY, "make claims", runs)
        do_runs(runs, console, parallel=rules.parallel)
    else:
        runs = [run for run in runs if is_done(run.run_dir)]
    folder = rules.output or rules.outputs / STUDY
    write_text(folder / "measures.csv", measure(rules, runs).to_csv(index=False, float_format="%.8g"))
    # what can be repeated from that file alone
    ledger = judge(rules, pd.read_csv(folder / "measures.csv", keep_default_na=False))
    write_ledger(ledger, folder)
    for name in [STUDY, *(part.preset for part in rules.sweeps)]:
        beside = sweep_dir(rules.outputs, name)
        if beside.exists():
            write_json(beside / "claims.json", ledger)
            write_section(ledger_section(ledger), beside)
    write_json(folder / "environment.json", environment(read_done(runs)) | {"claims timm": [version("timm")]})
    rows = ({"claim": claim["text"], "verdict": claim["verdict"]} for claim in ledger["claims"])
    console.print(terminal_table(table_of(rows)))
    print(counts(ledger), f"page: {folder / 'claims.html'}", sep="\n")
    sys.exit(1 if ledger["verdicts"]["no data"] else 0)


def planned(options: Options) -> list[RunConfig]:
    """Return the runs of all the ledger's sweeps, each once."""
    runs: dict[str, RunConfig] = {}
    for part in options.sweeps:
        made = plan_runs(read_preset(part.preset), extra=options.set, outputs=str(options.outputs))
        kept = [run for run in made if part.models is None or run.model.name in part.models]
        if not kept:
            raise CrossoverError(f"no run of {part.preset} matches; correct models in conf/claims.yaml")
        runs |= {run.run_id: run for run in kept}
    return sorted(runs.values(), key=lambda run: run.n_train)  # most claims have numbers of a small size first


def measure(rules: Options, runs: Sequence[RunConfig]) -> pd.DataFrame:
    """Return the measures that the rules use, and the costs of the runs they come from, in a fixed order."""
    probed = [run.run_dir for run in runs_to_probe(runs, rules.places)]
    recorded = runs_table(read_done(runs)).assign(world=[place_of(run)["world"] for run in runs])
    parts = [
        measures_of_runs(recorded, STUDY),
        measures_of_probes(probe_table(probed, rules.parallel), STUDY),
        operation_measures(rules.default),
        measures_of_atlas(rules.results / "atlas" / "atlas.csv", rules.default),
        *(measures_of_study(rules.results / name) for name in rules.studies),
    ]
    return needed(pd.concat([part for part in parts if len(part)], ignore_index=True), rules.places)


def needed(measures: pd.DataFrame, places: Sequence[Place]) -> pd.DataFrame:
    numbers = [place | {"measure": f"{place['measure']}{end}"} for place in places for end in ("", *ENDS)]
    kept = at_any(measures, [*numbers, *map(cost_of, places)])
    return measures[kept].sort_values(["measure", *KEYS, "chain"]).reset_index(drop=True)


def runs_to_probe(runs: Iterable[RunConfig], places: Iterable[Place]) -> list[RunConfig]:
    """Return the runs of the ledger whose weights some rule needs probed."""
    asked = [place for place in places if place["measure"] not in RECORDED and place.get("study") == STUDY]
    facts = [(run, place_of(run).items()) for run in runs]
    return [run for run, own in facts if any(all(place.get(k, v) == v for k, v in own) for place in asked)]


def measures_of_runs(runs: pd.DataFrame, study: str) -> pd.DataFrame:
    """Return the RECORDED numbers of a table of runs with FACTS as measures."""
    melted = runs.melt(FACTS, RECORDED, var_name="measure")
    return melted.assign(study=study, layer="", state="trained")[list(COLUMNS)]


def measures_of_probes(table: pd.DataFrame, study: str) -> pd.DataFrame:
    """Return a table of probes as measures, with the state trained, untrained or analytic."""
    named = table.rename(columns={"probe": "measure", "value": "trained"})
    melted = named.melt([*FACTS, "measure", "layer"], ["trained", "untrained", "analytic"], var_name="state")
    return melted.dropna(subset=["value"]).assign(study=study)[list(COLUMNS)]


def measures_of_study(folder: Path) -> pd.DataFrame:
    """Return the test errors and probes of a published study; empty where there is no such study."""
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    if (folder / "runs.csv").exists():
        runs = without_twins(read_table(folder / "runs.csv", needed=RUN_COLUMNS))
        parts.append(measures_of_runs(runs.rename(columns={"dataset": "world"}), folder.name))
    if (folder / "probes.csv").exists():
        table = read_table(folder / "probes.csv", keep_default_na=False, na_values=["NaN"])
        parts.append(measures_of_probes(table, folder.name))
    return pd.concat(parts, ignore_index=True)


def measures_of_atlas(path: Path, default: Place) -> pd.DataFrame:
    """Return the pairs of an atlas.csv as measures: study is the set, world the task, and model `b / a`.

    `last_error_ratio` is error(b) / error(a) at the largest size; `n_star_share`, N* over the largest size, is 1 where
    b does not overtake a within it. A pair without replicates has no interval.
    """
    rows: list[dict[str, object]] = []
    pairs: Iterable[Any] = read_table(path).itertuples()
    for row in pairs:
        place = default | {"study": row.set, "world": row.task, "model": f"{row.b} / {row.a}", "state": PUBLISHED}
        place |= {"n_train": row.n_max, "chain": 0 if pd.isna(row.p_in_range) else EXACT}
        share: tuple[float, ...] = (1, 1 if row.verdict in ("crossover", "a_better") else 0, 1)
        if row.verdict == "crossover" and row.direction == "b_overtakes_a":
            share = row.n_star / row.n_max, row.ci_low / row.n_max, row.ci_high / row.n_max
        ratio = np.exp((row.log_ratio_n_max, row.log_ratio_n_max_low, row.log_ratio_n_max_high))
        ends = ("", *ENDS) if place["chain"] == EXACT else ("",)
        for name, values in (("last_error_ratio", ratio), ("n_star_share", share)):
            rows += [place | {"measure": name + end, "value": v} for end, v in zip(ends, values, strict=False)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).dropna(subset=["value"])


def operation_measures(default: Place) -> pd.DataFrame:
    """Return measures of operations and known models; `layer` is the picture that an operation was applied to.

    `shift_error_3px`, `shift_error_8px`: |f(shift x) - shift f(x)| / |shift f(x)|, as in `make demo`;
    `map_change_1px`: |f(shift x) - f(x)| / |f(x)| for one pixel; `params`: of known models, with 1,000 classes.
    """
    rows: list[tuple[str, str, str, float]] = []
    for image, picture in pictures().items():
        x = normalised(picture)
        for model, maps in (("convolution", convolve), ("pooling", pool)):
            for shift in (SHIFT, WHOLE):
                error = relative_error(maps(translate(x, 0, shift)), translate(maps(x), 0, shift))
                rows.append((model, image, f"shift_error_{shift}px", error))
            rows.append((model, image, "map_change_1px", relative_error(maps(translate(x, 0, 1)), maps(x))))
    for tag in KNOWN:
        with torch.device("meta"):
            rows.append((f"timm:{tag}", "", "params", float(count_parameters(timm.create_model(tag)))))
    table = pd.DataFrame(rows, columns=["model", "layer", "measure", "value"])
    shared = {key: value for key, value in default.items() if key not in table}
    return table.assign(**shared | {"n_train": 0, "chain": EXACT, "state": "computed"})[list(COLUMNS)]
