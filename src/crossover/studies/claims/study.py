"""The ledger of claims from its runs: what `make claims` does."""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from crossover.cli import compose_train, composed
from crossover.config import CrossoverError, RunConfig, validate
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
    probe_table,
    read_measures,
    runs_to_probe,
)
from crossover.studies.claims.operations import operation_measures
from crossover.studies.claims.page import counts, ledger_section, write_ledger
from crossover.studies.claims.rules import Rules, judge, places
from crossover.studies.probes.measure import probe_runs
from crossover.sweep.launch import do_runs, slots_for
from crossover.sweep.plan import parse_sweep, plan_runs, sweep_dir
from crossover.sweep.progress import tracked

STUDY = "claims"
"""The study of the ledger's own runs, in the measures and as a sweep."""


def main(values: dict[str, Any], console: Console) -> None:
    """Do and probe the runs that are left, and judge every claim; exit with status 1 where a claim has no data."""
    rules = validate(Rules, {name: values[name] for name in ("claims", "default", "confidence")}, "rules")
    runs = planned(values)
    console.print(f"claims: {len(rules.claims)} claims, {len(runs)} runs", highlight=False)
    if values["dry_run"]:
        console.print("\n".join(run.run_id for run in runs), highlight=False)
        return
    if values["run"]:
        write_plan(sweep_dir(values["outputs"], STUDY), STUDY, "make claims", runs)
        do_runs(runs, console, parallel=values["parallel"])
    else:
        runs = [run for run in runs if is_done(run.run_dir)]
    folder = Path(values["output"] or Path(values["outputs"]) / STUDY)
    folder.mkdir(parents=True, exist_ok=True)
    measures = measure(rules, runs, values, console)
    write_text(folder / "measures.csv", measures.to_csv(index=False, float_format="%.8g"))
    ledger = judge(rules, read_measures(folder / "measures.csv"))  # what can be repeated from that file alone
    write_ledger(ledger, folder)
    for name in [STUDY, *(part["preset"] for part in values["sweeps"])]:
        beside = sweep_dir(values["outputs"], name)
        if beside.exists():
            write_json(beside / "claims.json", ledger)
            write_section(ledger_section(ledger, drawn=False), beside)
    write_json(folder / "environment.json", environment(read_done(runs)) | {"claims timm": [version("timm")]})
    show(ledger, folder, console)


def planned(values: dict[str, Any]) -> list[RunConfig]:
    """Return the runs of all the ledger's sweeps, each once."""
    runs: dict[str, RunConfig] = {}
    for part in values["sweeps"]:
        sweep = parse_sweep(composed("sweep", [f"sweep={part['preset']}"])["sweep"])
        made = plan_runs(sweep, compose_train, extra=values["set"], outputs=values["outputs"])
        kept = [
            run
            for run in made
            if run.n_train in part.get("n_train", [run.n_train])
            and run.model.name in part.get("models", [run.model.name])
        ]
        if not kept:
            raise CrossoverError(
                f"no run of sweep {part['preset']} is kept; correct n_train or models in conf/claims.yaml"
            )
        runs |= {run.run_id: run for run in kept}
    return sorted(runs.values(), key=lambda run: run.n_train)  # most claims have numbers of a small size first


def measure(rules: Rules, runs: Sequence[RunConfig], values: dict[str, Any], console: Console) -> pd.DataFrame:
    """Return all measures that the rules read."""
    wanted = places(rules)
    probed = [run.run_dir for run in runs_to_probe(runs, wanted, STUDY)]
    workers = len(slots_for(runs, values["parallel"], 1))
    for _ in tracked(probe_runs(probed, workers), "probing", len(probed), console):
        pass
    parts = [
        measures_of_records(read_done(runs), STUDY),
        measures_of_probes(probe_table(probed), STUDY),
        exact_measures(operation_measures(), rules.default),
        measures_of_atlas(Path(values["results"]) / "atlas" / "atlas.csv", rules.default),
        *(measures_of_study(Path(values["results"]) / name) for name in values["studies"]),
    ]
    return needed(pd.concat([part for part in parts if len(part)], ignore_index=True), wanted)


def show(ledger: dict[str, Any], folder: Path, console: Console) -> None:
    rows = tuple((claim["text"], claim["verdict"]) for claim in ledger["claims"])
    console.print(terminal_table(Table(caption="", columns=columns("claim", "verdict", left=2), rows=rows)))
    console.print(f"{counts(ledger)}\npage: {folder / 'claims.html'}", highlight=False, markup=False, soft_wrap=True)
    if ledger["verdicts"]["no data"]:
        sys.exit(1)
