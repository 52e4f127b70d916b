"""Run a study: python scripts/study.py NAME [overrides], such as python scripts/study.py claims (make claims)."""

import crossover  # isort: skip # noqa: F401
import importlib
import sys

import hydra
from omegaconf import DictConfig
from rich.console import Console

from crossover.cli import one_line_errors, resolved, run_hydra
from crossover.config import validate

MODULES = {"claims": "claims.study", "probe": "probes.study", "reproduce": "reproduction"}
STUDIES = ("atlas", "claims", "demo", "dose", "gold", "probe", "recipes", "reproduce", "transfer")
"""Names of studies and of their configs. The function `main` of a module of crossover.studies runs each."""


def study_app(name: str) -> None:
    @hydra.main(version_base="1.3", config_path="../conf", config_name=name)
    @one_line_errors()
    def app(config: DictConfig) -> None:
        study = importlib.import_module(f"crossover.studies.{MODULES.get(name, name)}")
        values = resolved(config)
        study.main(validate(study.Options, values, name) if hasattr(study, "Options") else values, Console())

    run_hydra(app)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in STUDIES:
        print(f"usage: python scripts/study.py NAME [overrides]; NAME is one of {', '.join(STUDIES)}", file=sys.stderr)
        sys.exit(2)
    study_app(sys.argv.pop(1))
