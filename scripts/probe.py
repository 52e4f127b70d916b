"""Probe a sweep, or published weights: python scripts/probe.py name=quick, or init_from=timm:TAG (make probe)."""

from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError
from crossover.report.section import write_section
from crossover.store import read_sweep, write_text
from crossover.studies.claims.measures import probe_table
from crossover.studies.probes.measure import probe_runs
from crossover.studies.probes.published import probe_published
from crossover.studies.probes.tables import NAME, probe_section
from crossover.sweep.launch import slots_for
from crossover.sweep.plan import sweep_dir


@hydra.main(version_base="1.3", config_path="../conf", config_name="probe")
@one_line_errors
def main(config: DictConfig) -> None:
    values, console = resolved(config), Console()
    if values["init_from"] is not None:
        table = probe_published(values["init_from"], None if values["images"] is None else Path(values["images"]))
        path = Path(values["output"] or f"outputs/probes/{values['init_from'].replace(':', '-')}.csv")
    else:
        outputs = Path(values["outputs"])
        sweep = read_sweep(outputs, values["name"])
        folders = [outputs / "runs" / record["run_id"] for record in sweep.records]
        if not folders:
            raise CrossoverError(f"no run of sweep {sweep.name} is done; {sweep.command} does them")
        done = probe_runs(folders, len(slots_for([], values["parallel"], 1)))
        for _ in track(done, "probing", len(folders), console=console, disable=not console.is_terminal):
            pass
        table = probe_table(folders)
        path = Path(values["output"] or sweep_dir(outputs, sweep.name) / NAME)
        if len(folders) < len(sweep.planned):
            console.print(f"{len(folders)} of {len(sweep.planned)} runs are done and probed", style="red")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False, float_format="%.6g", na_rep="NaN"))
    on_page = path.name == NAME and values["init_from"] is None
    if on_page:
        write_section(probe_section(table), path.parent)
    shown = Table("model", "probe", "value", "untrained", "without learning", title="means over runs", box=None)
    for (model, probe), rows in table[table["layer"] == ""].groupby(["model", "probe"], sort=False):
        means = (rows[name].mean() for name in ("value", "untrained", "analytic"))
        shown.add_row(str(model), str(probe), *("" if mean != mean else f"{mean:.3g}" for mean in means))
    console.print(shown)
    console.print(f"table: {path}", highlight=False, markup=False, soft_wrap=True)
    if on_page:
        console.print("make report puts it on the sweep's page", highlight=False)


if __name__ == "__main__":
    run_hydra(main)
