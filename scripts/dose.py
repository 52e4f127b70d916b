"""Verdict and N* by dose of bias: python scripts/dose.py SWEEP [FOLDER] (make dose SWEEP=ablate-dose)."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crossover.config import CrossoverError, CuesData, ImageData, parse_run
from crossover.report.section import write_section
from crossover.report.style import save
from crossover.store import read_sweep, write_text
from crossover.studies.dose import dose_table
from crossover.studies.dose_figure import dose_section, dose_words, draw_dose
from crossover.sweep.plan import sweep_dir


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
    """Write dose.csv and the figure dose of a sweep; raise CrossoverError where its report has no verdicts yet."""
    sweep = read_sweep(Path("outputs"), name)
    if not sweep.records:
        raise CrossoverError(f"no run of sweep {name} is done; {sweep.command} does them")
    doses, label = doses_of(sweep.records)
    verdicts = sweep_dir("outputs", name) / "crossover.json"
    if not verdicts.exists():
        raise CrossoverError(f'sweep {name} has no report yet; make report SWEEP="{name}" writes it')
    table = dose_table(json.loads(verdicts.read_text(encoding="utf-8")), doses)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "dose.csv", table.to_csv(index=False, float_format="%.6g"))
    save(draw_dose(table, label), folder / "figures", "dose")
    write_section(dose_section(table), folder)
    shown = Table("pair", label, "N* (95% CI), or the verdict", box=None)
    for row in table.drop_duplicates(["a", "b", "dose"]).to_dict("records"):
        shown.add_row(f"{row['a']}, {row['b']}", str(row["dose"]), dose_words(row))
    Console().print(shown)
    print(f"table: {folder / 'dose.csv'}\nfigure: {folder / 'figures' / 'dose.png'}")
    print("make report puts both on the sweep's page")


def doses_of(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float | str], str]:
    """Return the dose of each dataset, in the order of a table, and what it is: a share permuted, or the world's dials.

    Where that does not tell the datasets apart, the dose is their name.
    """
    data = {record["dataset"]: parse_run(record["config"]).data for record in records}
    kinds = sorted({one.permute.kind for one in data.values()} - {"none"})
    doses: dict[str, float | str]
    if len(kinds) == 1:
        shares = {name: 0.0 if one.permute.kind == "none" else one.permute.share for name, one in data.items()}
        doses, label = dict(sorted(shares.items(), key=lambda item: item[1])), f"share of {kinds[0]} permuted"
    else:
        doses, label = {name: _dials(name, one) for name, one in data.items()}, "world"
    if len(set(doses.values())) < len(doses):
        return dict(zip(data, data, strict=True)), "data set"
    return doses, label


def _dials(name: str, data: CuesData | ImageData) -> str:
    if isinstance(data, CuesData) and data.permute.kind == "none":
        return f"alpha {data.alpha:g}, beta {data.beta:g}, q {data.q:g}"
    return name


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
