"""Publish a report under results/: python scripts/publish.py SWEEP STUDY (make publish SWEEP=quick STUDY=cues).

python scripts/publish.py STUDY writes the tables, figures and pages of a published study again, from its own files.
"""

import sys
from pathlib import Path

from hydra import compose, initialize

from crossover.cli import resolved
from crossover.config import CrossoverError
from crossover.report.publish import publish, read_study, update_readme
from crossover.study import republish, study_runs
from crossover.sweep.plan import sweep_dir

README_STUDY = "cues"
"""The study on the README's first screen."""


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2) or arguments[0].startswith("-"):
        print("usage: python scripts/publish.py [SWEEP] STUDY", file=sys.stderr)
        return 2
    *sweep, study = arguments
    folder = Path("results") / study
    try:
        if sweep:
            publish(sweep_dir("outputs", sweep[0]), folder, Path("outputs") / "runs")
        else:
            found = read_study(folder)
            with initialize(version_base="1.3", config_path="../conf"):
                plan = {} if found.is_transfer else study_runs(found, lambda n, o: resolved(compose(n, o)), "outputs")
            republish(folder, list(plan.values()))
            for path in (folder / "figures").glob("*.pdf"):
                path.unlink()
        update_readme(Path("README.md"), Path("results") / README_STUDY)
    except CrossoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"results/{study} written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
