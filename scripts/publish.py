"""Publish a report under results/: python scripts/publish.py SWEEP STUDY (make publish SWEEP=quick STUDY=cues)."""

import sys
from pathlib import Path

from crossover.config import CrossoverError
from crossover.report.publish import publish, update_readme
from crossover.sweep.plan import sweep_dir

README_STUDY = "cues"
"""The study on the README's first screen."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python scripts/publish.py SWEEP STUDY", file=sys.stderr)
        return 2
    sweep, study = arguments
    try:
        publish(sweep_dir("outputs", sweep), Path("results") / study, Path("outputs") / "runs")
        update_readme(Path("README.md"), Path("results") / README_STUDY)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"results/{study} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
