"""How are the numbers of a bench shown, in a terminal and in the docs?"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

BEGIN, END = "<!-- bench: written by make bench -->\n", "<!-- end of bench -->\n"


@dataclass(frozen=True)
class Section:
    """One table of a bench."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def terminal(self) -> Table:
        table = Table(*self.header, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sections(parts: dict[str, Any]) -> Iterator[Section]:
    """Yield the table of each part."""
    for name, part in parts.items():
        if name == "steady":
            yield _rates(f"Training alone, {part['images']} images per second", part["races"], "idiomatic")
        elif name == "harness":
            yield _rates("Cost of the harness, images per second", _models(part), "plain loop")
        elif name == "growth":
            yield _growth(_models(part))
        elif name == "parity":
            yield _parity(part)
        elif name == "thousands":
            yield _commands(part)
        elif name in ("minisweep", "peer"):
            title = f"Sweep of {part['runs']} runs of {part['steps']} steps, seconds"
            yield _rates(title, {"mini-sweep": part}, "ours", "wall_seconds")


def performance_block(folder: Path) -> str:
    """Return Markdown of all measurements in `folder`, one machine after the other."""
    texts = []
    for path in sorted(folder.glob("*.json")):
        parts = json.loads(path.read_text())
        for name, section in zip(parts, sections(parts), strict=True):
            found = parts[name]["conditions"]
            repeats = _repeats(parts[name]) or found["repeats"]
            link = f"[{path.name}](../results/{folder.name}/{path.name})"
            texts.append(
                f"{section.markdown()}\n{found['device']}, {found['cores']} cores, {found['threads']} thread a run; "
                f"torch {found['versions']['torch']}; {repeats} repeats; commit {found['git']['commit'][:7]}; "
                f"{found['started'][:10]}; {link}, part `{name}`\n"
            )
    return "\n".join(texts)


def _repeats(part: dict[str, Any]) -> int:
    """Return how often each contender of a race was measured; 0 where there was no race."""
    found = [_repeats(value) for value in part.values() if isinstance(value, dict)]
    return max([row["repeat"] + 1 for row in part.get("rows", [])] + found, default=0)


def _models(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if isinstance(value, dict) and name != "conditions"}


def _rates(title: str, races: dict[str, Any], against: str, field: str = "images_per_second") -> Section:
    number = "{:,.0f}" if field == "images_per_second" else "{:,.1f}"
    rows = []
    for race, values in races.items():
        for way, row in values[field].items():
            low, middle, high = (number.format(row[key]) for key in ("min", "median", "max"))
            ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
            share = f"{row['share_of_matmul']:.0%}" if "share_of_matmul" in row else ""
            memory = f"{row['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in row else ""
            rows.append((race, way.replace("_", " "), f"{middle} ({low} to {high})", ratio, share, memory))
    header = ("race", "way", "median (range)", f"over {against} (range)", "of matmul peak", "peak memory")
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    return Section(title, tuple(header[i] for i in used), [tuple(row[i] for i in used) for row in rows])


def _growth(models: dict[str, Any]) -> Section:
    rows = [
        (model, axis.replace("_", " "), ", ".join(f"{key}: {rate:,.0f}" for key, rate in rates.items()))
        for model, axes in models.items()
        for axis, rates in axes.items()
    ]
    return Section("How our images per second change", ("model", "with", "images per second"), rows)


def _commands(part: dict[str, Any]) -> Section:
    rows = []
    for command in part["wall_seconds"]:
        found = (part[field][command] for field in ("wall_seconds", "cpu_seconds"))
        cells = (f"{row['median']:,.1f} ({row['min']:,.1f} to {row['max']:,.1f})" for row in found)
        rows.append((command, *cells))
    title = f"Commands on a sweep of {part['runs']:,} runs, seconds"
    return Section(title, ("command", "from start to end (range)", "of all cores (range)"), rows)


def _parity(part: dict[str, Any]) -> Section:
    rows = []
    for model, values in _models(part).items():
        errors = (", ".join(f"{error:.3f}" for error in values[way]) for way in ("ours", "idiomatic"))
        apart = values["standard_errors_apart"]
        rows.append((model, *errors, f"{values['difference']:+.4f}", "–" if apart is None else f"{apart:+.1f}"))
    title = f"Test error after {part['steps']} steps on {part['n_train']:,} images, by seed"
    return Section(title, ("model", "ours", "idiomatic", "difference", "standard errors"), rows)
