"""Run ids never change: presets plan the runs that they always planned, and published runs keep their names.

`python -m tests.test_golden` writes tests/golden/presets.json anew, for a preset that rightly changes.
"""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from crossover.config import RunConfig, parse_run
from crossover.sweep.plan import plan_runs, read_preset

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "presets.json"
PRESETS = ROOT / "conf" / "sweep"
SHIPPED = sorted(path.stem for path in PRESETS.glob("*.yaml"))


@functools.cache
def runs_of(preset: str) -> list[RunConfig]:
    """Return the runs of a preset, planned once for all claims about them: a large one takes seconds."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plan_runs(read_preset(preset), outputs="outputs")


def header(preset: str) -> str:
    return (PRESETS / f"{preset}.yaml").read_text().splitlines()[0]


def planned(preset: str) -> dict[str, Any]:
    """Return how many runs a preset plans and the SHA-256 of their sorted ids, one a line."""
    runs = runs_of(preset)
    text = "\n".join(sorted(run.run_id for run in runs))
    return {"runs": len(runs), "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("preset", SHIPPED)
def test_a_preset_plans_the_same_run_ids(preset: str) -> None:
    assert planned(preset) == json.loads(GOLDEN.read_text())[preset]


def test_every_preset_has_its_golden_ids() -> None:
    assert sorted(json.loads(GOLDEN.read_text())) == SHIPPED


@pytest.mark.parametrize("preset", SHIPPED)
def test_every_preset_has_its_name_no_run_twice_and_says_what_it_costs(preset: str) -> None:
    runs = runs_of(preset)
    assert {run.logger.group for run in runs} == {preset}
    assert len({run.run_id for run in runs}) == len(runs)
    assert header(preset).startswith(f"# make sweep{'' if preset == 'quick' else f' SWEEP={preset}'} ")
    assert f" {len(runs)} runs" in header(preset)


FOR_GPUS = [preset for preset in SHIPPED if re.search("GPU|H100", header(preset))]


@pytest.mark.parametrize("preset", FOR_GPUS)
def test_a_preset_for_gpus_says_how_many_images_it_trains_on_and_repeats_none_endlessly(preset: str) -> None:
    seen = {}
    for run in runs_of(preset):
        batch = run.recipe.batch_size
        seen[run.run_id] = batch * run.budget.total_steps(run.n_train, batch, forward_flops=1)
        assert seen[run.run_id] <= (run.budget.max_epochs or 1000) * run.n_train + batch, run.run_id
    number, unit = re.search(r" ([\d.]+) (million|billion) images", header(preset)).groups()  # type: ignore[union-attr]
    assert sum(seen.values()) / {"million": 1e6, "billion": 1e9}[unit] == pytest.approx(float(number), rel=0.03)


def test_the_presets_for_gpus_are_those_of_the_large_data_sets() -> None:
    assert {"cifar10", "cifar10-10min", "cifar10-heavy", "cifar5m", "imagenet", "tiny-imagenet"} <= set(FOR_GPUS)


def test_a_record_of_every_kind_keeps_its_name() -> None:
    """The configs of recorded runs, one of each preset, give the ids under which they were published."""
    kept = json.loads((GOLDEN.parent / "configs.json").read_text())
    assert {name: parse_run(config).run_id for name, config in kept.items()} == {name: name for name in kept}


if __name__ == "__main__":
    presets = {preset: planned(preset) for preset in SHIPPED}
    GOLDEN.write_text(json.dumps(presets, indent=1) + "\n")
