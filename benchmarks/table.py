"""The tables of a benchmark, as stored in its file and shown in the terminal and in docs/performance.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.table

from benchmarks.race import Row

BEGIN, END = "<!-- bench: written by make bench -->\n", "<!-- end of bench -->\n"
Table = dict[str, Any]
"""A title, columns and rows, all of them text."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table without columns that are empty in every row."""
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return {"title": title, "columns": [columns[i] for i in used], "rows": [[row[i] for i in used] for row in rows]}


def race_table(title: str, races: dict[str, Any], against: str, field: str = "images_per_second") -> Table:
    """Return the table of some races: medians with their range, and ratios to one contender."""
    number = "{:,.0f}" if field == "images_per_second" else "{:,.1f}"
    rows = []
    for race, values in races.items():
        for way, row in values[field].items():
            low, middle, high = (number.format(row[key]) for key in ("min", "median", "max"))
            ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            rates = [f"{middle} ({low} to {high})", ratio, _share(row, "share_of_matmul"), _memory(row)]
            rows.append([race, way.replace("_", " "), *rates])
    columns = ("race", "way", "median (range)", f"over {against} (range)", "of matmul peak", "peak memory")
    return table(title, columns, rows)


def page_table(rows: Sequence[Row]) -> Table:
    """Return the table of a GPU page: one row per measurement, in its order."""
    columns = ("model", "batch", "way", "runs", "MPS", "images/s", "of bf16 peak", "peak memory", "kernels a step")
    cells = []
    for row in rows:
        kernels = row.get("kernels_per_step")
        cells.append(
            [
                row["model"],
                str(row["batch"]),
                row["way"].replace("_", " "),
                str(row["runs"]),
                "yes" if row["mps"] else "",
                row.get("error") or f"{row['images_per_second']:,.0f}",
                _share(row, "share_of_peak"),
                _memory(row),
                "" if kernels is None else f"{kernels:,.0f}",
            ]
        )
    return table("Training on one device, images per second", columns, cells)


def _share(row: Row, field: str) -> str:
    return f"{row[field]:.0%}" if field in row else ""


def _memory(row: Row) -> str:
    return f"{row['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in row else ""


def terminal(part: Table) -> rich.table.Table:
    shown = rich.table.Table(*part["columns"], title=part["title"], title_justify="left")
    for row in part["rows"]:
        shown.add_row(*row)
    return shown


def performance_block(folder: Path) -> str:
    """Return Markdown of all measurements in `folder`, one machine after the other."""
    texts = []
    for path in sorted(folder.glob("*.json")):
        for name, part in json.loads(path.read_text()).items():
            shown, given = part["table"], part["conditions"]
            lines = [shown["columns"], ["---"] * len(shown["columns"]), *shown["rows"]]
            rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            link = f"[{path.name}](../results/{folder.name}/{path.name})"
            where = f"{given['device']}, {given['cores']} cores, {given['threads']} thread a run"
            what = (
                f"torch {given['versions']['torch']}; {given['repeats']} repeats; commit {given['git']['commit'][:7]}"
            )
            sources = f"{where}; {what}; {given['started'][:10]}; {link}, part `{name}`"
            texts.append(f"**{shown['title']}**\n\n{rows}\n\n{sources}\n")
    return "\n".join(texts)
