"""Verdict and N* by dose of bias: python scripts/dose.py SWEEP [FOLDER] (make dose SWEEP=ablate-dose)."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from crossover.analysis.crossover import analyse
from crossover.analysis.dose import dose_table
from crossover.config import CrossoverError, CuesData, parse_run
from crossover.files import write_text
from crossover.report.dose import draw_dose
from crossover.report.style import save
from crossover.sweep.plan import sweep_dir
from crossover.sweep.records import read_sweep, runs_table


def main(arguments: list[str]) -> int:
    if not 1 <= len(arguments) <= 2 or any(a.startswith("-") for a in arguments):
        print(
            "usage: python scripts/dose.py SWEEP [FOLDER]    where to write; default: the sweep's folder",
            file=sys.stderr,
        )
        return 2
    try:
        write_dose(arguments[0], Path(arguments[1]) if len(arguments) > 1 else sweep_dir("outputs", arguments[0]))
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_dose(name: str, folder: Path) -> None:
    """Write dose.csv and the figure dose of a sweep; raise CrossoverError when none of its runs is done."""
    sweep = read_sweep(Path("outputs"), name)
    if not sweep.records:
        raise CrossoverError(f"no run of sweep {name} is done; {sweep.command} does them")
    doses, label = doses_of(sweep.records)
    table = dose_table(analyse(runs_table(sweep.records), rng=np.random.default_rng(0)), doses)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "dose.csv", table.to_csv(index=False, float_format="%.6g"))
    save(draw_dose(table, label), folder / "figures", "dose")
    shown = Table("pair", label, "verdict", "N*", box=None)
    for row in table.drop_duplicates(["a", "b", "dose"]).to_dict("records"):
        star = "" if row["n_star"] != row["n_star"] else f"{row['n_star']:,.0f}"
        shown.add_row(f"{row['a']}, {row['b']}", str(row["dose"]), row["verdict"].replace("_", " "), star)
    Console().print(shown)
    print(f"table: {folder / 'dose.csv'}")


def doses_of(records: Any) -> tuple[dict[str, float | str], str]:
    """Return the dose of each dataset and what it is: the share permuted, or the dials where nothing is."""
    data = {record["dataset"]: parse_run(record["config"]).data for record in records}
    if any(one.permute.kind != "none" for one in data.values()):
        shares: dict[str, float | str] = {
            name: 0.0 if one.permute.kind == "none" else one.permute.share for name, one in data.items()
        }
        return shares, "share of patches permuted"
    dials: dict[str, float | str] = {
        name: f"alpha {one.alpha:g}, q {one.q:g}" if isinstance(one, CuesData) else name for name, one in data.items()
    }
    return dials, "dials"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
