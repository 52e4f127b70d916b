"""Draw the article's demonstration: python scripts/demo.py [FOLDER] (make demo)."""

import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from crossover.store import write_atomically, write_json, write_text
from crossover.studies.probes.demo import SHIFT, WHOLE, demonstrate, draw


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or any(a.startswith("-") for a in arguments):
        print("usage: python scripts/demo.py [FOLDER]    where to write; default: outputs/demo", file=sys.stderr)
        return 2
    folder = Path(arguments[0] if arguments else "outputs/demo")
    rows = demonstrate()
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(rows)
    write_atomically(folder / "equivariance.png", lambda path: figure.savefig(path, format="png", dpi=130))
    columns = ["operation", "image", "error", "error_whole", "answer"]
    table = pd.DataFrame([[getattr(row, name) for name in columns] for row in rows], columns=columns)
    write_text(folder / "equivariance.csv", table.to_csv(index=False, float_format="%.6g"))
    versions = {name: version(name) for name in ("torch", "timm", "numpy", "matplotlib")}
    write_json(folder / "environment.json", {"command": "make demo", "precision": "float64"} | versions)
    shown = Table("operation", "image", f"{SHIFT} px", f"{WHOLE} px", "answer", box=None, title="relative change")
    for row in rows:
        answer = "" if row.answer is None else f"{row.answer:.2g}"
        shown.add_row(row.operation, row.image, f"{row.error:.2g}", f"{row.error_whole:.2g}", answer)
    Console().print(shown)
    print(f"figure: {folder / 'equivariance.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
