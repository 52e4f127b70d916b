"""Run a study: python scripts/study.py NAME [overrides], such as python scripts/study.py claims (make claims)."""

import importlib
import sys

import hydra
from omegaconf import DictConfig
from rich.console import Console

from crossover.analysis.runs import AnalysisError
from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import CrossoverError, validate

STUDIES = {
    "atlas": "atlas",
    "claims": "claims.study",
    "demo": "demo",
    "dose": "dose",
    "gold": "gold",
    "probe": "probes.study",
    "recipes": "recipes",
    "reproduce": "reproduction",
    "transfer": "transfer",
}
"""Name of a study and of its config: its module in crossover.studies, whose `main` runs it."""


def study_app(name: str) -> None:
    @hydra.main(version_base="1.3", config_path="../conf", config_name=name)
    @one_line_errors
    def app(config: DictConfig) -> None:
        try:
            study = importlib.import_module(f"crossover.studies.{STUDIES[name]}")
            values = resolved(config)
            study.main(validate(study.Options, values, name) if hasattr(study, "Options") else values, Console())
        except AnalysisError as error:
            raise CrossoverError(str(error)) from None

    run_hydra(app)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in STUDIES:
        print(f"usage: python scripts/study.py NAME [overrides]; NAME is one of {', '.join(STUDIES)}", file=sys.stderr)
        sys.exit(2)
    study_app(sys.argv.pop(1))
