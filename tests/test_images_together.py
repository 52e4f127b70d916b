"""Processes that ask for the same cache at the same moment: one builds it, and a dead one's work is taken over."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pets import CONFIG, write_pets

OPEN = """
import sys, time, types
from pathlib import Path
from crossover.fields import ImageData
from crossover.data import cache as images

config, data_dir, log, pause = sys.argv[1:]
write = images._write

def counted(*args):
    with open(log, "a") as file:
        file.write("built\\n")
    write(*args)
    time.sleep(float(pause))

def wait(seconds, sleep=time.sleep):
    print("waits", flush=True)
    sleep(seconds)

images._write, images.WAIT_SECONDS = counted, 0.02
images.time = types.SimpleNamespace(sleep=wait, time=time.time, monotonic=time.monotonic)
print("ready", flush=True)
sys.stdin.readline()
print(images.open_dataset(ImageData.model_validate_json(config), Path(data_dir)).hash)
"""
Process = subprocess.Popen[str]


def ready(data_dir: Path, count: int, pause: float) -> list[Process]:
    """Return processes that open the dataset once they are told to; a builder goes on `pause` seconds at its end."""
    arguments = [CONFIG.model_dump_json(), str(data_dir), str(data_dir / "log"), str(pause)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", OPEN, *arguments], **pipes) for _ in range(count)]  # type: ignore[call-overload]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    return started


def go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def builds(data_dir: Path) -> int:
    log = data_dir / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_pets(tmp_path, train=8, test=3)
    return tmp_path


def test_of_four_processes_one_builds_and_all_read_the_same(data_dir: Path) -> None:
    processes = ready(data_dir, 4, pause=0.3)
    for process in processes:
        go(process)
    hashes = [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert builds(data_dir) == 1
    assert len(set(hashes)) == 1
    (cache,) = (data_dir / "cache").iterdir()  # and no lock, clock or half-built folder
    assert cache.name.startswith("pets-")


def test_a_builder_that_is_killed_half_way_is_followed_by_one_other(data_dir: Path) -> None:
    (builder,), others = ready(data_dir, 1, pause=60), ready(data_dir, 2, pause=0)
    go(builder)
    deadline = time.monotonic() + 60
    while not list((data_dir / "cache").glob(".*.tmp/built/meta.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for process in others:
        go(process)
    assert [process.stdout.readline() for process in others if process.stdout] == ["waits\n"] * 2
    assert builds(data_dir) == 1
    assert [process.poll() for process in others] == [None, None]  # they wait
    builder.kill()
    builder.communicate()
    hashes = [process.communicate(timeout=60)[0].splitlines()[-1] for process in others]
    assert [process.returncode for process in others] == [0, 0]
    assert builds(data_dir) == 2
    assert len(set(hashes)) == 1
    (cache,) = (data_dir / "cache").iterdir()
    assert cache.name.startswith("pets-")
