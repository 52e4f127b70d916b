import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from benchmarks import bench, contenders, race
from benchmarks.bench import Bench, link_images
from benchmarks.contenders import PROFILED, WARM_UP, Window
from benchmarks.race import BEGIN, END, Row, in_turns, page_table, performance_block, race_table, summarise
from crossover.config import CrossoverError

ROOT = Path(__file__).parents[1]
PUBLISHED = [
    (path, name)
    for path in sorted((ROOT / "results" / "bench").glob("*.json"))
    for name in json.loads(path.read_text())
]


def test_contenders_are_measured_in_turns() -> None:
    rows = in_turns(["ours", "theirs"], 2, lambda way: {"seconds": float(len(way))})
    assert [(row["way"], row["repeat"]) for row in rows] == [("ours", 0), ("theirs", 0), ("ours", 1), ("theirs", 1)]


def test_ratio_is_that_of_medians_and_its_range_that_of_neighbours_in_time() -> None:
    rates = {"ours": (20.0, 30.0, 90.0), "theirs": (10.0, 20.0, 15.0)}
    rows = [{"way": way, "rate": rate} for way, values in rates.items() for rate in values]
    found = summarise(rows, "rate", "theirs")["ours"]
    assert found == {"median": 30.0, "min": 20.0, "max": 90.0, "ratio": 2.0, "ratio_min": 1.5, "ratio_max": 6.0}


def test_docs_show_the_published_measurements() -> None:
    docs = ROOT / "docs" / "performance.md"
    assert BEGIN + performance_block(ROOT / "results" / "bench") + END in docs.read_text()


@pytest.mark.parametrize(("path", "name"), PUBLISHED, ids=[f"{path.stem}-{name}" for path, name in PUBLISHED])
def test_a_published_table_follows_from_its_measurements(path: Path, name: str) -> None:
    part = json.loads(path.read_text())[name]
    races = part.get("races") or {k: v for k, v in part.items() if isinstance(v, dict) and "images_per_second" in v}
    if name == "gpu":
        assert part["table"] == page_table(part["rows"])
    elif races:
        against = "idiomatic" if name == "steady" else "plain"
        assert part["table"]["rows"] == race_table("", races, against)["rows"]
        for race in races.values():
            assert race["images_per_second"].keys() == {row["way"] for row in race["rows"]}
            for way, values in summarise(race["rows"], "images_per_second", against).items():
                assert values.items() <= race["images_per_second"][way].items()
    elif "wall_seconds" in part and name != "thousands":
        assert part["table"]["rows"] == race_table("", {"mini-sweep": part}, "ours", "wall_seconds")["rows"]
        assert part["wall_seconds"] == summarise(part["rows"], "wall_seconds", "ours")
    else:
        assert name in ("growth", "parity", "thousands")  # no longer measured; kept as they were published


def test_a_window_times_its_steps_after_the_warm_up_and_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    clock = iter([100.0, 107.0])
    monkeypatch.setattr(race, "together", SimpleNamespace(wait=lambda: log.append("barrier")), raising=False)
    window = Window(3, torch.device("cpu"), profiled=False)

    def read_clock() -> float:
        log.append("clock")
        return next(clock)

    monkeypatch.setattr(contenders, "finish", lambda device: log.append("device"))
    monkeypatch.setattr("time.perf_counter", read_clock)
    over = []
    for step in range(window.end + 1):
        log.append(str(step))
        over.append(window.tick())
    events = [entry for entry in log if not entry.isdigit() or entry in (str(WARM_UP), str(WARM_UP + 3))]
    assert events == [str(WARM_UP), "device", "barrier", "clock", str(WARM_UP + 3), "device", "clock"]
    assert over == [False] * window.end + [True]
    assert window.found["seconds"] == 7.0


def test_a_window_counts_the_operators_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "together", SimpleNamespace(wait=lambda: None), raising=False)
    window, x = Window(1, torch.device("cpu"), profiled=True), torch.ones(3)
    y = x + 1
    while not window.tick():
        x = x.add(y).mul(y)
    assert window.end == WARM_UP + 1 + PROFILED
    assert window.found["kernels_per_step"] == 2


def test_each_chain_has_images_of_its_own(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / "images" / f"class{number % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").touch()
    for turn in (0, 1):
        link_images(tmp_path / "images", tmp_path / str(turn), 20, turn)
    names = [{file.name for file in (tmp_path / str(turn)).glob("*/*")} for turn in (0, 1)]
    assert [len(found) for found in names] == [20, 20]
    assert not names[0] & names[1]


def test_another_process_has_the_environment_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:/elsewhere")
    code = "import os, sys; print(os.environ['PYTHONPATH'], os.environ['OMP_NUM_THREADS']); sys.exit(len(sys.argv) - 1)"
    bench._call(["-c", code], tmp_path / "log", threads="2")
    assert (tmp_path / "log").read_text() == f"{ROOT / 'src'}:/elsewhere 2\n"
    with pytest.raises(CrossoverError, match=r"failed with exit status 1: .*elsewhere 2"):
        bench._call(["-c", code, "x"], tmp_path / "log", threads="2")


def bench_of(measured: Callable[..., Row], monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Return a bench of two models at one batch whose measurements are made up."""
    monkeypatch.setattr(bench, "apart", lambda *_: [100.0])
    monkeypatch.setattr(Bench, "run", lambda _, model, *__: model)
    monkeypatch.setattr(Bench, "measure", lambda _, run, way, **given: measured(run, way, **given))
    values = yaml.safe_load((ROOT / "conf" / "bench.yaml").read_text())
    del values["defaults"]
    given: dict[str, object] = {
        "device": "cpu",
        "models": ["a", "b"],
        "batches": [8],
        "ways": ["eager", "graph"],
        "place": ".",
        "limit_seconds": 60,
    }
    return Bench.model_validate(values | given)


def fake_daemon(folder: Path, monkeypatch: pytest.MonkeyPatch, status: int = 0) -> Path:
    """Put a stand-in for CUDA's MPS daemon first in PATH; return the log of its calls."""
    log, command = folder / "log", folder / "bin" / "nvidia-cuda-mps-control"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$*" "$CUDA_MPS_PIPE_DIRECTORY" >> {log}\n[ "$1" = -d ] || cat >> {log}\nexit {status}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    return log


def test_the_page_has_each_way_and_density_with_and_without_mps_and_keeps_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, saved = fake_daemon(tmp_path, monkeypatch), list[dict[str, Any]]()

    def measured(run: str, way: str, *, count: int, profiled: bool, mps: dict[str, str] | None) -> Row:
        if way == "graph" and run == "b":
            raise CrossoverError("no graph here")
        assert (mps is not None) == log.exists()
        row: Row = {"images_per_second": 10.0 * count, "flops_per_second": 25.0, "peak_bytes": 1e6 * count}
        return row | ({"kernels_per_step": 7.0} if profiled else {})

    bench.gpu(bench_of(measured, monkeypatch), saved.append)
    rows = saved[-1]["rows"]
    assert [len(part["rows"]) for part in saved] == list(range(1, len(rows) + 1))  # each is kept as it comes
    assert [(r["model"], r["way"], r["runs"], r["mps"]) for r in rows] == [
        *((m, w, 1, False) for m in "ab" for w in ("eager", "graph")),
        *((m, "ours", n, False) for m in "ab" for n in (2, 4)),
        *((m, "ours", n, True) for m in "ab" for n in (1, 2, 4)),
    ]
    assert [row["error"] for row in rows if "error" in row] == ["no graph here"]
    assert saved[-1]["table"]["rows"][0] == ["a", "8", "eager", "1", "", "10", "25%", "1 MB", "7"]
    started, quit_ = log.read_text().split("quit")[0].splitlines()
    assert started.startswith("-d /")
    assert started.split()[1] == quit_.strip()


def test_what_is_not_begun_in_time_is_left_out_and_said_also_without_mps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_daemon(tmp_path, monkeypatch, status=1)
    monkeypatch.setattr("time.monotonic", iter([0.0, *[100.0] * 99]).__next__)
    saved: list[dict[str, Any]] = []
    bench.gpu(bench_of(lambda *_, **__: pytest.fail("measured"), monkeypatch), saved.append)
    assert {row["error"] for row in saved[-1]["rows"]} == {"not measured: the time was over"}
    assert not any(row["mps"] for row in saved[-1]["rows"])


TRAIN_SCRIPT = """
import argparse, os, torch
from timm import create_model
parser = argparse.ArgumentParser()
parser.add_argument("--batch-size", type=int)
given, _ = parser.parse_known_args()
model = create_model("crossover_model").train()
for _ in range(int(os.environ.get("STEPS", 10**6))):
    model(torch.zeros(given.batch_size, 3, 32, 32))
"""
"""Stands for timm's train.py: calls the network as often as it can."""


@pytest.mark.slow
def test_every_part_measures_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "train.py").write_text(TRAIN_SCRIPT)
    fake_daemon(tmp_path, monkeypatch)
    monkeypatch.setenv("STEPS", "30")
    output = tmp_path / "bench.json"
    settings = [
        "only=[harness,steady,minisweep,gpu]",
        "device=cpu",
        "models=[resnet_tiny]",
        "ways=[eager,graph,idiomatic]",
        "repeats=1",
        "steps=3",
        "mini_steps=2",
        "images=400",
        "pixels=[32]",
        "policies=[randaugment]",
        "batches=[8]",
        f"timm={tmp_path / 'timm'}",
        f"output={output}",
        f"data_dir={tmp_path}",
    ]
    subprocess.run([sys.executable, "-m", "benchmarks", *settings], cwd=ROOT, check=True, timeout=1800)
    found = json.loads(output.read_text())
    assert found["harness"]["races"]["resnet_tiny 32 px crop_flip"]["images_per_second"]["plain"]["ratio"] == 1.0
    rates = found["steady"]["races"]["resnet_tiny 32 px randaugment"]["images_per_second"]
    assert list(rates) == ["ours", "plain", "idiomatic", "idiomatic_tuned", "timm"]
    assert all(row["median"] > 0 and row["share_of_matmul"] > 0 for row in rates.values())
    assert found["minisweep"]["wall_seconds"].keys() == {"ours", "idiomatic", "timm", "timm_two_at_once"}
    rows = found["gpu"]["rows"]
    assert [row["way"] for row in rows if "error" in row] == ["graph"]
    assert all(
        row["kernels_per_step"] > 50 for row in rows if row["runs"] == 1 and not row["mps"] and "error" not in row
    )
