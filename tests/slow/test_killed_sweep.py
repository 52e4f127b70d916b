"""A sweep that was killed at any moment and repeated has the records of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import results

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "sweep.name=kill",
    "sweep.axes={model:[resnet_tiny,vit_tiny],n_train:[64,512],chain:[0,1]}",
    'set=["data.n_pool=2000","data.n_val=200","data.n_test=200","recipe.batch_size=16","logger=none"',
    "sweep.fixed={data:cues,budget.steps:150}",
]

pytestmark = pytest.mark.slow


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the sweep in a process group of its own."""
    settings = [*SETTINGS, f"outputs={folder / 'outputs'}"]
    settings[2] += f',"machine.data_dir={folder / "data"}","machine.device=cpu"]'
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "sweep.py", *settings],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(folder: Path) -> dict[str, Any]:
    """Repeat the sweep until its end; return the comparable part of each record."""
    assert start(folder).wait(timeout=300) == 0, (folder / "log.txt").read_text()
    paths = sorted((folder / "outputs" / "runs").glob("*/record.json"))
    return {path.parent.name: results(json.loads(path.read_text())) for path in paths}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    records = finish(tmp_path_factory.mktemp("whole"))
    assert len(records) == 8
    return records


@pytest.mark.parametrize("whole_group", [True, False], ids=["all-processes", "driver-alone"])
def test_killed_and_repeated_sweep_gives_the_same_records(
    tmp_path: Path, uninterrupted: dict[str, Any], whole_group: bool
) -> None:
    moments = random.Random(int(whole_group))
    for _ in range(4):
        sweep = start(tmp_path)
        time.sleep(moments.uniform(6, 16))
        if whole_group:
            os.killpg(sweep.pid, signal.SIGKILL)
        else:
            sweep.kill()  # its runs see that their parent is gone
        sweep.wait()
    assert finish(tmp_path) == uninterrupted
    left = {p.name for p in (tmp_path / "outputs" / "runs").glob("*/*")}
    expected = {"config.yaml", "log.txt", "predictions.npz", "record.json", "weights.safetensors"}
    assert left - {"error.txt"} == expected
