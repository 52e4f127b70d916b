"""The study behind `make claims`: from the runs of the ledger to its verdicts."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from crossover.config import CrossoverError, RunConfig
from crossover.fields import Frozen
from crossover.report.build import environment
from crossover.report.section import write_section
from crossover.report.table import Table, columns, terminal_table
from crossover.store import is_done, read_done, write_json, write_plan, write_text
from crossover.studies.claims.measures import (
    exact_measures,
    measures_of_atlas,
    measures_of_probes,
    measures_of_records,
    measures_of_study,
    needed,
    operation_measures,
    read_measures,
    runs_to_probe,
)
from crossover.studies.claims.page import counts, ledger_section, write_ledger
from crossover.studies.claims.rules import Rules, judge, places
from crossover.studies.probes.measure import probe_table
from crossover.sweep.launch import do_runs
from crossover.sweep.plan import plan_runs, read_preset, sweep_dir

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
    console.print(f"claims: {len(rules.claims)} claims, {len(runs)} runs", highlight=False)
    if rules.dry_run:
        console.print("\n".join(run.run_id for run in runs), highlight=False)
        return
    if rules.run:
        write_plan(sweep_dir(rules.outputs, STUDY), STUDY, "make claims", runs)
        do_runs(runs, console, parallel=rules.parallel)
    else:
        runs = [run for run in runs if is_done(run.run_dir)]
    folder = rules.output or rules.outputs / STUDY
    folder.mkdir(parents=True, exist_ok=True)
    measures = measure(rules, runs)
    write_text(folder / "measures.csv", measures.to_csv(index=False, float_format="%.8g"))
    ledger = judge(rules, read_measures(folder / "measures.csv"))  # what can be repeated from that file alone
    write_ledger(ledger, folder)
    for name in [STUDY, *(part.preset for part in rules.sweeps)]:
        beside = sweep_dir(rules.outputs, name)
        if beside.exists():
            write_json(beside / "claims.json", ledger)
            write_section(ledger_section(ledger, drawn=False), beside)
    write_json(folder / "environment.json", environment(read_done(runs)) | {"claims timm": [version("timm")]})
    show(ledger, folder, console)


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


def show(ledger: Mapping[str, Any], folder: Path, console: Console) -> None:
    rows = tuple((claim["text"], claim["verdict"]) for claim in ledger["claims"])
    console.print(terminal_table(Table(caption="", columns=columns("claim", "verdict", left=2), rows=rows)))
    console.print(f"{counts(ledger)}\npage: {folder / 'claims.html'}", highlight=False, markup=False, soft_wrap=True)
    if ledger["verdicts"]["no data"]:
        sys.exit(1)
