"""How are the numbers of a bench shown in a terminal?"""

from collections.abc import Iterator
from typing import Any

from rich.table import Table


def tables(parts: dict[str, Any]) -> Iterator[Table]:
    """Yield a table for each part."""
    for name, part in parts.items():
        if name == "steady":
            yield _rates("training alone (img/s); ratio to the idiomatic way", part["races"])
        elif name == "harness":
            yield _rates("our loop and a plain loop of the same steps (img/s); ratio to the plain loop", _models(part))
        elif name == "growth":
            yield _growth(_models(part))
        elif name == "parity":
            yield _parity(part)
        elif name == "minisweep":
            title = f"sweep of {part['runs']} runs of {part['steps']} steps (seconds); ratio to ours"
            yield _rates(title, {"mini-sweep": part}, "wall_seconds")
        else:
            yield _rates("one run, from process start to end (seconds); ratio to ours", _models(part), "wall_seconds")


def _models(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if isinstance(value, dict) and name != "conditions"}


def _rates(title: str, races: dict[str, Any], field: str = "images_per_second") -> Table:
    table = Table("race", "way", "median", "min", "max", "ratio", "its range", "of matmul", "peak memory", title=title)
    for race, values in races.items():
        for way, row in values[field].items():
            cells = [
                f"{row[key]:,.0f}" if field.startswith("im") else f"{row[key]:,.1f}" for key in ("median", "min", "max")
            ]
            share = f"{row['share_of_matmul']:.0%}" if "share_of_matmul" in row else ""
            memory = f"{row['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in row else ""
            ratio = (f"{row['ratio']:.3f}", f"{row['ratio_min']:.3f} to {row['ratio_max']:.3f}")
            table.add_row(race, way, *cells, *ratio, share, memory)
    return table


def _growth(models: dict[str, Any]) -> Table:
    table = Table("model", "with", "images per second", title="how our rate changes")
    for model, axes in models.items():
        for axis, rates in axes.items():
            table.add_row(model, axis, ", ".join(f"{key}: {rate:,.0f}" for key, rate in rates.items()))
    return table


def _parity(part: dict[str, Any]) -> Table:
    title = f"test error after {part['steps']} steps on {part['n_train']:,} images"
    table = Table("model", "ours", "idiomatic", "difference", "standard errors", title=title)
    for model, values in _models(part).items():
        errors = (", ".join(f"{error:.3f}" for error in values[way]) for way in ("ours", "idiomatic"))
        table.add_row(model, *errors, f"{values['difference']:+.4f}", f"{values['standard_errors_apart']:+.1f}")
    return table
