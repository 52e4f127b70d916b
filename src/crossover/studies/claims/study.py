"""The study behind `make claims`: measures from its runs, published studies and computations, and their verdicts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
import torch.nn.functional as F
from rich.console import Console

from crossover.analysis.runs import without_twins
from crossover.config import CrossoverError, RunConfig, parse_run
from crossover.fields import Frozen
from crossover.report.build import environment
from crossover.report.section import Table, columns, terminal_table, write_section
from crossover.store import is_done, read_done, write_json, write_plan, write_text
from crossover.studies.claims.page import counts, ledger_section, write_ledger
from crossover.studies.claims.rules import (
    COLUMNS,
    ENDS,
    EXACT,
    KEYS,
    PUBLISHED,
    Place,
    Rules,
    costs_at,
    judge,
    matches,
    places,
)
from crossover.studies.demo import SHIFT, WHOLE, convolve, demonstrate, normalised, pictures
from crossover.studies.probes.equivariance import relative_error, translate
from crossover.studies.probes.study import PROBED, place_of, probe_table
from crossover.sweep.launch import do_runs
from crossover.sweep.plan import plan_runs, read_preset, sweep_dir
from crossover.training.models import count_parameters

RECORDED = ("test_error", "train_error", "params", "total_seconds")
"""Measures stored in a record; all others come from probes of the weights."""
FACTS = ["world", "augment", "model", "n_train", "chain"]
KNOWN = ("resnet50", "vit_base_patch16_224", "vit_small_patch16_224")
"""timm's names of ResNet-50, ViT-B/16 and ViT-S/16 (DeiT-S)."""
STUDY = "claims"
"""The name of the ledger's own runs, as a study in the measures and as a sweep."""


def runs_to_probe(runs: Iterable[RunConfig], wanted: Iterable[tuple[str, Place]], study: str) -> list[RunConfig]:
    """Return the runs whose weights some rule needs probed."""
    asked = [place for measure, place in wanted if measure not in RECORDED and place.get("study") == study]

    def matches(run: RunConfig) -> bool:
        own = place_of(run)
        return any(all(place.get(key, value) == value for key, value in own.items()) for place in asked)

    return [run for run in runs if matches(run)]


def measures_of_records(records: Sequence[Mapping[str, Any]], study: str) -> pd.DataFrame:
    """Return the numbers in the records of runs as measures."""
    rows = []
    for record in records:
        run = parse_run(record["config"])
        rows.append({**place_of(run), "chain": run.chain, **{name: record[name] for name in RECORDED}})
    return _melted(pd.DataFrame(rows, columns=[*FACTS, *RECORDED]), study)


def _melted(runs: pd.DataFrame, study: str) -> pd.DataFrame:
    melted = runs.melt(FACTS, list(RECORDED), var_name="measure", value_name="value")
    return melted.assign(study=study, layer="", state="trained")[list(COLUMNS)]


def measures_of_probes(table: pd.DataFrame, study: str) -> pd.DataFrame:
    """Return a table of probes as measures, with the state trained, untrained or analytic."""
    states = {"value": "trained", "untrained": "untrained", "analytic": "analytic"}
    kept = table[[*PROBED]].rename(columns={"probe": "measure"} | states)
    ids = [name for name in kept.columns if name not in states.values()]
    melted = kept.melt(ids, list(states.values()), var_name="state", value_name="value").dropna(subset=["value"])
    return melted.assign(study=study)[list(COLUMNS)]


def measures_of_study(folder: Path) -> pd.DataFrame:
    """Return the test errors and probes of a published study; empty where there is no such study."""
    parts = [pd.DataFrame(columns=list(COLUMNS))]
    if (folder / "runs.csv").exists():
        runs = without_twins(pd.read_csv(folder / "runs.csv"))
        parts.append(_melted(runs.rename(columns={"dataset": "world"}), folder.name))
    if (folder / "probes.csv").exists():
        table = pd.read_csv(folder / "probes.csv", keep_default_na=False, na_values=["NaN"])
        parts.append(measures_of_probes(table, folder.name))
    return pd.concat(parts, ignore_index=True)


def measures_of_atlas(path: Path, default: Place) -> pd.DataFrame:
    """Return the pairs of an atlas.csv as measures: study is the set, world the task, and model `b / a`.

    `last_error_ratio` is error(b) / error(a) at the largest size; `n_star_share`, N* over the largest size, is 1 where
    b does not overtake a within it.
    """
    rows: list[dict[str, object]] = []
    pairs: Iterable[Any] = pd.read_csv(path).itertuples()
    for row in pairs:
        place = default | {"study": row.set, "world": row.task, "model": f"{row.b} / {row.a}", "state": PUBLISHED}
        place |= {"n_train": row.n_max, "chain": 0 if pd.isna(row.p_in_range) else EXACT}
        passes = row.verdict == "crossover" and row.direction == "b_overtakes_a"
        sides = {"crossover": (1, 1), "a_better": (1, 1)}.get(str(row.verdict), (0, 1))
        share = [n / row.n_max for n in (row.n_star, row.ci_low, row.ci_high)] if passes else (1, *sides)
        logs = row.log_ratio_n_max, row.log_ratio_n_max_low, row.log_ratio_n_max_high
        for name, values in (("last_error_ratio", np.exp(logs)), ("n_star_share", share)):
            kept = values if place["chain"] == EXACT else values[:1]
            rows += [place | {"measure": name + end, "value": v} for end, v in zip(("", *ENDS), kept, strict=False)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).dropna(subset=["value"])


def exact_measures(rows: Sequence[Mapping[str, Any]], default: Place) -> pd.DataFrame:
    """Return computed numbers as measures at the default place."""
    base = {"n_train": 0, "chain": EXACT} | default | {"state": "computed"}
    return pd.DataFrame([base | dict(row) for row in rows], columns=list(COLUMNS))


def operation_measures() -> list[dict[str, object]]:
    """Return model, measure, layer, value: `layer` is the picture that the operation was applied to.

    `shift_error_3px`, `shift_error_8px`: |f(shift x) - shift f(x)| / |shift f(x)|, as in `make demo`;
    `map_change_1px`: |f(shift x) - f(x)| / |f(x)| for one pixel; `params`: of known models, with 1,000 classes.
    """
    rows: list[dict[str, object]] = []
    names = {"convolution": "convolution", "the same": "pooling"}
    for row in demonstrate():
        model = names.get(row.operation.split(",")[0])
        if model is not None:
            at = {"model": model, "layer": row.image}
            rows.append(at | {"measure": f"shift_error_{SHIFT}px", "value": row.error})
            rows.append(at | {"measure": f"shift_error_{WHOLE}px", "value": row.error_whole})
    for name, picture in pictures().items():
        x = normalised(picture)
        one, other = convolve(translate(x, 0, 1)), convolve(x)
        change = {"convolution": relative_error(one, other)}
        change["pooling"] = relative_error(F.max_pool2d(one, 4), F.max_pool2d(other, 4))
        rows += [{"model": m, "layer": name, "measure": "map_change_1px", "value": v} for m, v in change.items()]
    for tag in KNOWN:
        with torch.device("meta"):
            params = count_parameters(timm.create_model(tag))
        rows.append({"model": f"timm:{tag}", "layer": "", "measure": "params", "value": float(params)})
    return rows


def needed(measures: pd.DataFrame, wanted: Iterable[tuple[str, Place]]) -> pd.DataFrame:
    """Return the measures that some rule uses, and the cost of the runs they come from, in a fixed order."""
    kept = pd.Series(False, index=measures.index)
    for measure, place in wanted:
        kept |= costs_at(measures, place)
        for name in (measure, *(measure + end for end in ENDS)):
            kept |= matches(measures, name, place)
    return measures[kept].sort_values(["measure", *KEYS, "chain"]).reset_index(drop=True)


def read_measures(path: Path) -> pd.DataFrame:
    """Return a table of measures as `make claims` wrote it."""
    return pd.read_csv(path, keep_default_na=False)


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
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "measures.csv", measure(rules, runs).to_csv(index=False, float_format="%.8g"))
    ledger = judge(rules, read_measures(folder / "measures.csv"))  # what can be repeated from that file alone
    write_ledger(ledger, folder)
    for name in [STUDY, *(part.preset for part in rules.sweeps)]:
        beside = sweep_dir(rules.outputs, name)
        if beside.exists():
            write_json(beside / "claims.json", ledger)
            write_section(ledger_section(ledger), beside)
    write_json(folder / "environment.json", environment(read_done(runs)) | {"claims timm": [version("timm")]})
    rows = tuple((claim["text"], claim["verdict"]) for claim in ledger["claims"])
    console.print(terminal_table(Table(caption="", columns=columns("claim", "verdict", left=2), rows=rows)))
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
    """Return all measures that the rules use."""
    wanted = places(rules)
    probed = [run.run_dir for run in runs_to_probe(runs, wanted, STUDY)]
    parts = [
        measures_of_records(read_done(runs), STUDY),
        measures_of_probes(probe_table(probed, rules.parallel), STUDY),
        exact_measures(operation_measures(), rules.default),
        measures_of_atlas(rules.results / "atlas" / "atlas.csv", rules.default),
        *(measures_of_study(rules.results / name) for name in rules.studies),
    ]
    return needed(pd.concat([part for part in parts if len(part)], ignore_index=True), wanted)
