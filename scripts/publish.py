"""Publish the report of a sweep under results/, or rebuild the pages of published studies from their own files.

python scripts/publish.py SWEEP STUDY (make publish); python scripts/publish.py --pages [STUDY...] (make pages).
"""

import crossover  # isort: skip # noqa: F401
import sys
from pathlib import Path

from hydra import initialize

from crossover.cli import run_app
from crossover.config import CrossoverError
from crossover.report.build import BEGIN, END, publish, read_study, study_block, study_folder
from crossover.store import replace_block
from crossover.sweep.plan import sweep_dir
from crossover.sweep_report import republish, study_runs

RESULTS = Path("results")
README_STUDY = "cues"
"""The study on the README's first screen."""


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--pages"]:
        names = arguments[1:] or sorted(path.parent.name for path in RESULTS.glob("*/plan.json"))
        for number, name in enumerate(names, 1):
            study = read_study(study_folder(RESULTS, name))
            with initialize(version_base="1.3", config_path="../conf"):
                runs = {} if study.is_transfer else study_runs(study, "outputs")
            print(f"{number}/{len(names)}: {republish(study, RESULTS / name, list(runs.values()))}", flush=True)
    elif len(arguments) == 2 and not arguments[0].startswith("-"):
        publish(sweep_dir("outputs", arguments[0]), study_folder(RESULTS, arguments[1]))
        print(f"{RESULTS / arguments[1]} written")
    else:
        raise CrossoverError("usage: python scripts/publish.py SWEEP STUDY, or --pages [STUDY...]")
    replace_block(Path("README.md"), BEGIN, END, study_block(RESULTS / README_STUDY))


if __name__ == "__main__":
    run_app(main)
