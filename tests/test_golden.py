"""Run ids never change: presets plan the runs that they always planned, and published runs keep their names.

`python -m tests.test_golden` writes tests/golden/presets.json anew, for a preset that rightly changes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from crossover.config import parse_run
from crossover.sweep.plan import plan_runs, read_preset

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "presets.json"


def planned(preset: str) -> dict[str, Any]:
    """Return how many runs a preset plans and the SHA-256 of their sorted ids, one a line."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runs = plan_runs(read_preset(preset), outputs="outputs")
    text = "\n".join(sorted(run.run_id for run in runs))
    return {"runs": len(runs), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("preset", sorted(json.loads(GOLDEN.read_text())) if GOLDEN.exists() else [])
def test_a_preset_plans_the_same_run_ids(preset: str) -> None:
    assert planned(preset) == json.loads(GOLDEN.read_text())[preset]


def test_every_preset_has_its_golden_ids() -> None:
    assert sorted(json.loads(GOLDEN.read_text())) == sorted(path.stem for path in (ROOT / "conf/sweep").glob("*.yaml"))


def test_a_record_of_every_kind_keeps_its_name() -> None:
    """The configs of recorded runs, one of each preset, give the ids under which they were published."""
    kept = json.loads((GOLDEN.parent / "configs.json").read_text())
    assert {name: parse_run(config).run_id for name, config in kept.items()} == {name: name for name in kept}


if __name__ == "__main__":
    presets = {path.stem: planned(path.stem) for path in sorted((ROOT / "conf" / "sweep").glob("*.yaml"))}
    GOLDEN.write_text(json.dumps(presets, indent=1) + "\n")
