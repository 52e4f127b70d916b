"""Races: measurements in fresh processes with the contenders taking turns, and their tables."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pandas as pd

from crossover.config import CrossoverError
from crossover.sweep.pool import fork_server
from crossover.training.ranks import begin_worker

Row = dict[str, Any]
BEGIN, END = "<!-- bench: written by make bench -->\n", "<!-- end of bench -->\n"
together: Barrier
"""In a process of a measurement: the barrier of all that are measured at the same time."""


def _begin(barrier: Barrier, environment: Mapping[str, str]) -> None:
    global together
    begin_worker()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the fork server ignores it
    together = barrier
    os.environ.update(environment)


def apart(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], environment: Mapping[str, str] | None = None
) -> list[Any]:
    """Return the results of calls at the same time, each in a process from the fork server of a sweep."""
    context = fork_server()
    given = (context.Barrier(len(calls), timeout=120), environment or {})
    with ProcessPoolExecutor(len(calls), mp_context=context, initializer=_begin, initargs=given) as processes:
        waiting = [processes.submit(function, *arguments) for arguments in calls]
        try:
            return [future.result() for future in waiting]
        except Exception as error:
            raise CrossoverError(f"a measurement failed: {str(error) or type(error).__name__}") from error


def in_turns(ways: Sequence[str], repeats: int, measure: Callable[[Any], Row]) -> list[Row]:
    """Return one row per measurement; every contender is measured once before any is measured again."""
    return [{"way": way, "repeat": repeat} | measure(way) for repeat in range(repeats) for way in ways]


def summarise(rows: Sequence[Row], field: str, against: str) -> dict[str, Row]:
    """Return median, min and max of `field` for each contender, and its ratio to contender `against`.

    The ratio is that of the medians; its range is over the repeats, each compared with its neighbour in time.
    """
    values = pd.DataFrame({way: [row[field] for row in rows if row["way"] == way] for way in (r["way"] for r in rows)})
    ratios = values.div(values[against], axis=0)
    summary = values.agg(["median", "min", "max"]).T
    summary["ratio"] = summary["median"] / summary["median"][against]
    summary["ratio_min"], summary["ratio_max"] = ratios.min(), ratios.max()
    return summary.to_dict("index")  # type: ignore[return-value]


def race_table(title: str, races: Mapping[str, Any], against: str, field: str = "images_per_second") -> Row:
    """Return the table of some races: medians with their range, and ratios to one contender."""
    number = "{:,.0f}" if field == "images_per_second" else "{:,.1f}"
    rows = []
    for race, values in races.items():
        for way, row in values[field].items():
            low, middle, high = (number.format(row[key]) for key in ("min", "median", "max"))
            ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            cells = {"race": race, "way": way.replace("_", " "), "median (range)": f"{middle} ({low} to {high})"}
            cells |= {f"over {against} (range)": ratio, "of matmul peak": _shown("{:.0%}", row.get("share_of_matmul"))}
            rows.append(cells | {"peak memory": _shown("{:,.0f} MB", row.get("peak_bytes"), 1e6)})
    return table(title, rows)


def page_table(rows: Sequence[Row]) -> Row:
    """Return the table of a GPU page: one row per measurement, in its order."""
    cells = [
        {
            "model": row["model"],
            "batch": str(row["batch"]),
            "way": row["way"].replace("_", " "),
            "runs": str(row["runs"]),
            "MPS": "yes" if row["mps"] else "",
            "images/s": row.get("error") or _shown("{:,.0f}", row["images_per_second"]),
            "of bf16 peak": _shown("{:.0%}", row.get("share_of_peak")),
            "peak memory": _shown("{:,.0f} MB", row.get("peak_bytes"), 1e6),
            "kernels a step": _shown("{:,.0f}", row.get("kernels_per_step")),
        }
        for row in rows
    ]
    return table("Training on one device, images per second", cells)


def _shown(form: str, value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else form.format(value / unit)


def table(title: str, rows: Sequence[dict[str, str]]) -> Row:
    """Return a table as the files store it: text alone, without columns that are empty in every row."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    return {"title": title, "columns": columns, "rows": [[row[column] for column in columns] for row in rows]}


def markdown(path: Path, parts: Mapping[str, Row]) -> str:
    """Return parts of a file as Markdown."""
    texts = []
    for name, part in parts.items():
        shown, given = part["table"], part["conditions"]
        lines = [shown["columns"], ["---"] * len(shown["columns"]), *shown["rows"]]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        where = f"{given['device']}, {given['cores']} cores, {given['threads']} thread a run"
        commit = (given["git"]["commit"] or "unknown")[:7]
        what = f"torch {given['versions']['torch']}; {given['repeats']} repeats; commit {commit}"
        link = f"[{path.name}](../results/{path.parent.name}/{path.name}), part `{name}`"
        texts.append(f"**{shown['title']}**\n\n{rows}\n\n{where}; {what}; {given['started'][:10]}; {link}\n")
    return "\n".join(texts)


def performance_block(folder: Path) -> str:
    """Return what docs/performance.md shows: all measurements in a folder, one machine after the other."""
    return "\n".join(markdown(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json")))
