"""How does a report become a published study? Its files are copied, and the README's block is written from them."""

import json
import shutil
from pathlib import Path

import pandas as pd

from crossover.config import CrossoverError
from crossover.files import write_text

FILES = ("report.html", "report.md", "crossover.json", "runs.csv", "curves.csv", "environment.json")
BEGIN, END = "<!-- results: written by make publish -->\n", "<!-- end of results -->\n"


def publish(report: Path, study: Path) -> None:
    """Copy a finished report to results/<study>; raise CrossoverError when a part of it is missing."""
    missing = [name for name in FILES if not (report / name).exists()]
    if missing:
        raise CrossoverError(f"{report} has no {', '.join(missing)}; run make sweep or make report first")
    study.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(report / name, study / name)
    shutil.rmtree(study / "figures", ignore_errors=True)
    shutil.copytree(report / "figures", study / "figures", ignore=shutil.ignore_patterns("*.pdf"))


def study_block(study: Path) -> str:
    """Return Markdown of a study: the verdicts and the mean test error by n_train and model, from its files alone."""
    curves = pd.read_csv(study / "curves.csv")
    pairs = [pair for part in json.loads((study / "crossover.json").read_text())["studies"] for pair in part["pairs"]]
    models = list(dict.fromkeys(curves["model"]))
    lines = [f"**{pair['summary']}**\n" for pair in pairs]
    lines += [
        "| training images | " + " | ".join(f"test error of {model}" for model in models) + " |",
        "|" + "---:|" * (len(models) + 1),
    ]
    for n, rows in curves.groupby("n_train"):
        errors = dict(zip(rows["model"], rows["error_mean"], strict=True))
        cells = [f"{100 * errors[model]:.1f} %" if model in errors else "" for model in models]
        lines.append(f"| {int(str(n)):,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def readme_with(readme: str, block: str) -> str:
    """Return the README with its results replaced; raise CrossoverError when it has lost its markers."""
    if BEGIN not in readme or END not in readme:
        raise CrossoverError(f"README.md has lost its markers {BEGIN.strip()} and {END.strip()}; put them back")
    head, rest = readme.split(BEGIN, 1)
    return head + BEGIN + block + END + rest.split(END, 1)[1]


def update_readme(path: Path, study: Path) -> None:
    """Write the block of `study` into the README."""
    write_text(path, readme_with(path.read_text(encoding="utf-8"), study_block(study)))
