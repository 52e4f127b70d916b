"""A real Slurm on this machine for the tests of this folder: two virtual nodes with two pretended GPUs each."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from crossover.store import run_state
from tests.worlds import results

HERE = Path(__file__).parent
SCRIPTS = HERE.parents[1] / "scripts"
SMALL = {
    "data": "cues",
    "data.n_pool": 2000,
    "data.n_val": 100,
    "data.n_test": 100,
    "recipe.batch_size": 16,
    "logger": "none",
    "machine.device": "cpu",
}
RELEASE_TRIES = 50
HANGS = 3600.0
"""Seconds after which a test gives up: far more than the slowest machine takes."""
T = TypeVar("T")
Popen = subprocess.Popen[bytes]
NEEDED = ("slurmctld", "slurmd", "srun", "sbatch", "munged")


@dataclass(frozen=True)
class Cluster:
    """Slurm's commands, and sweeps that are submitted to it."""

    data: Path
    """Shared by all sweeps."""

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> dict[str, str]:
        """Return task id to state of all that is queued or running."""
        return dict(line.split() for line in self.slurm("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def start(self, folder: Path, sweep: dict[str, Any], *settings: str, launcher: str = "slurm") -> Popen:
        """Start `make sweep` with a sweep named t; `sweep` holds its axes, and more of what its runs share."""
        conf = folder / "conf" / "sweep"
        conf.mkdir(parents=True, exist_ok=True)
        fixed = SMALL | {"machine.data_dir": str(self.data)} | sweep.get("fixed", {})
        (conf / "t.yaml").write_text(json.dumps({"name": "t", "fixed": fixed, "axes": sweep["axes"]}))  # JSON is YAML
        command = [sys.executable, str(SCRIPTS / "sweep.py"), "--config-dir", str(conf.parent), "sweep=t"]
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen([*command, f"launcher={launcher}", *settings], cwd=folder, stdout=log, stderr=log)

    def sweep(self, folder: Path, sweep: dict[str, Any], *settings: str, launcher: str = "slurm") -> str:
        """Run the sweep's command to its end and return all that was said in `folder`; it must succeed."""
        assert self.start(folder, sweep, *settings, launcher=launcher).wait(HANGS) == 0, said(folder)
        return said(folder)

    def settle(self) -> None:
        """Wait until no job is left. What was requeued starts after some seconds; Slurm would let it wait for 121."""
        waiting: Counter[str] = Counter()

        def over() -> bool:
            jobs = self.jobs()
            waiting.update(job for job, state in jobs.items() if state == "PENDING")
            for job in [job for job, times in waiting.items() if times == RELEASE_TRIES]:  # at once its nodes refuse it
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
                del waiting[job]
            return not jobs

        until(over)


def until(condition: Callable[[], T], seconds: float = HANGS) -> T:
    """Return what a condition returns once it holds; give up after so many seconds, not counting those in a stop."""
    for _ in range(round(seconds / 0.1)):
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail("gave up waiting")


def said(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "outputs" / "runs").iterdir())


def records(folder: Path) -> dict[str, Any]:
    """Return the comparable part of every record."""
    return {path.name: results(json.loads((path / "record.json").read_text())) for path in runs(folder)}


def starts(folder: Path) -> dict[str, int]:
    """Return how often each run that is done was started."""
    done = [path for path in runs(folder) if run_state(path) == "done"]
    return {path.name: (path / "log.txt").read_text().count("started 20") for path in done}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine; on Debian, as root: tests/cluster/slurm.sh install")
    if os.getuid() != 0:
        pytest.skip("tests/cluster/slurm.sh starts Slurm's daemons, which needs root")
    folder = tmp_path_factory.mktemp("slurm")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        subprocess.run([HERE / "slurm.sh", "start", folder], check=True)
        yield Cluster(tmp_path_factory.mktemp("data"))
    finally:
        subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)
        del os.environ["SLURM_CONF"]
