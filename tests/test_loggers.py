"""Claims about what each logger writes: every row once and at once, the final numbers apart, and no secret."""

import csv
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from tensorboardX.proto.event_pb2 import Event

from crossover import wandb_runs
from crossover.config import RunConfig
from crossover.record import (
    ACCURACY,
    CONFIG,
    CONFUSION,
    GPU_SECONDS,
    HISTORY,
    N_TRAIN,
    SUMMARY,
)
from crossover.training.epochs import StoppedError
from crossover.training.run import execute
from tests.logged import (
    HELD,
    RUN,
    SECRET,
    merged,
    metrics,
    program,
    recorded,
    records_of,
    rows_of,
    train_apart,
    train_in_two_parts,
    without_wandb,
)
from tests.worlds import files_with, results, small_run


def test_offline_wandb_keeps_each_row_at_once_config_and_final_numbers(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline", "group": "sweep"})
    (tmp_path / "12").touch()
    with socket.socket() as server, (tmp_path / "log.txt").open("w") as log:
        server.bind(("127.0.0.1", 0))  # every way out leads here, and nobody comes
        server.listen()
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        ways = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), url)
        ways |= {"HOME": str(tmp_path / "home"), "WANDB_BASE_URL": url, "WANDB_API_KEY": SECRET}
        command = program(HELD, run, str(tmp_path))
        training = subprocess.Popen(command, env=without_wandb() | ways, stdout=log, stderr=log)
        try:  # W&B holds a row back until the next one: the last row would be lost with the process
            rows = rows_before_the_end(run, training)
            assert [row["_step"] for row in rows] == [6, 12, 18, 24], (tmp_path / "log.txt").read_text()
            (tmp_path / "24").touch()
            assert training.wait() == 0, (tmp_path / "log.txt").read_text()
        finally:
            training.kill()
            training.wait()
        with pytest.raises(BlockingIOError):
            server.accept()
    assert files_with(SECRET, tmp_path) == []
    record = json.loads((run.run_dir / "record.json").read_text())
    (folder,) = run.run_dir.glob("wandb/offline-run-*")
    records = records_of(folder)
    (started,) = (r["run"] for r in records if r["type"] == "run")
    assert (started["run_id"], started["run_group"], started["job_type"]) == (run.run_id, "sweep", "train")
    assert started["tags"] == ["cues", "resnet_test"]
    config = started["config"]["update"]
    assert set(config) - {"_wandb"} == set(CONFIG)
    assert (config["n_train"], config["chain"], config["cell"]) == (100, 0, "resnet_test n=100")
    *rows, end = rows_of(folder)
    assert metrics(rows) == recorded(run)
    assert metrics([end]) == []  # the final numbers are no points of a curve
    summary = merged(records, "summary")
    for field, metric in SUMMARY.items():
        assert summary[metric] == pytest.approx(record[field]), metric
    assert summary[ACCURACY] == pytest.approx(1 - record["test_error"])
    assert (summary[GPU_SECONDS], summary[N_TRAIN]) == (0, 100)
    assert any(name.startswith(CONFUSION) for name in summary)
    artifacts = {r["artifact"]["name"] for r in records if r["type"] == "artifact"}
    assert f"record-{run.run_id}" in artifacts
    assert {r["metric"]["name"] for r in records if r["type"] == "metric"} >= set(HISTORY.values())
    assert (config["optimizer"], config["lr"], config["batch_size"]) == ("adamw", 0.003, 16)
    assert (config["image_size"], config["commit"]) == (16, record["git"]["commit"])
    assert not list((tmp_path / "home").rglob("staging/*"))


def rows_before_the_end(run: RunConfig, training: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    """Return the rows on disk of a run that waits after its last one; read anew when the file has grown."""
    rows: list[dict[str, Any]] = []
    size, deadline = 0, time.monotonic() + 300
    while len(rows) < 4 and training.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        folders = wandb_runs.offline_folders(run.run_dir / "wandb")
        grown = sum(path.stat().st_size for folder in folders for path in folder.glob("*.wandb"))
        if grown > size:
            size, rows = grown, rows_of(folders[0])
    return rows


@pytest.mark.parametrize("error", [KeyError("getpwuid"), RuntimeError("no home"), OSError("disk"), TypeError()])
def test_no_failure_of_wandb_stops_a_run_or_passes_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    run = small_run(tmp_path, logger={"kind": "wandb"})
    record = execute(run)
    assert type(error).__name__ in capsys.readouterr().out
    assert type(error).__name__ in (run.run_dir / "wandb" / wandb_runs.NOT_LOGGED).read_text()
    (tmp_path / "without").mkdir()
    assert results(record) == results(execute(small_run(tmp_path / "without")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_offline_wandb_connects_to_nothing_but_itself(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline"})
    log = tmp_path / "connects"
    trace = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log)]
    command = [*trace, *program(RUN, run)]
    environment = without_wandb() | {"HOME": str(tmp_path / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if not (run.run_dir / "record.json").exists() and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    assert any("AF_UNIX" in call or "127.0.0.1" in call for call in calls)  # W&B's own service: it was seen
    outside = [c for c in calls if "AF_INET" in c and "127.0.0.1" not in c and "::1" not in c]
    assert outside == []


@pytest.mark.slow
def test_stopped_or_failed_run_ends_as_failed_and_its_rest_has_the_same_id(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline"})
    train_in_two_parts(run)
    first, second = (records_of(folder) for folder in sorted(run.run_dir.glob("wandb/offline-run-*")))
    ends = [r["exit"].get("exit_code", 0) for records in (first, second) for r in records if r["type"] == "exit"]
    assert ends == [1, 0]
    ids = {r["run"]["run_id"] for records in (first, second) for r in records if r["type"] == "run"}
    assert ids == {run.run_id}
    steps = [[row["_step"] for row in metrics(rows_of(f))] for f in sorted(run.run_dir.glob("wandb/offline-run-*"))]
    assert steps == [[6, 12], [18, 24]]


@pytest.mark.slow
def test_long_names_and_a_user_without_a_home_are_logged(tmp_path: Path) -> None:
    homeless = """
import os, pwd
def unknown(*_): raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"): os.environ.pop(name, None)
"""
    name, group = "resnet_" + "x" * 65, "g" * 200
    run = small_run(tmp_path, model__name=name, logger={"kind": "wandb_offline", "group": group})
    assert "not logged" not in train_apart(run, homeless + RUN)
    (folder,) = wandb_runs.offline_folders(run.run_dir / "wandb")
    assert metrics(rows_of(folder)) == recorded(run)


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_the_key_of_wandb_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    execute(small_run(tmp_path, logger={"kind": kind}))
    assert list(tmp_path.rglob("record.json"))
    assert files_with(SECRET, tmp_path) == []


def test_csv_logger_writes_each_validation_once_and_keeps_the_rows_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    run, stop = small_run(tmp_path, logger={"kind": "csv"}), threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        execute(run, stop)
    record = execute(run)
    rows = list(csv.DictReader((run.run_dir / "csv" / "metrics.csv").read_text().splitlines()))
    written = [{"_step": int(row.pop("step")), **{name: float(value) for name, value in row.items()}} for row in rows]
    assert written == recorded(run)
    config: Any = OmegaConf.load(run.run_dir / "csv" / "hparams.yaml")
    assert set(config) == set(CONFIG)
    assert (config["lr"], config["commit"]) == (0.003, record["git"]["commit"])


def test_tensorboard_has_each_validation_and_the_final_numbers_apart(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "tensorboard"})
    record = execute(run)
    scalars: dict[str, list[tuple[int, float]]] = {}
    for path in (run.run_dir / "tensorboard").glob("events.out.tfevents.*"):
        for event in events(path):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    for field, metric in HISTORY.items():
        steps, values = zip(*scalars[metric], strict=True)
        assert list(steps) == [row["step"] for row in record["history"]]
        assert list(values) == pytest.approx([dict(row)[field] for row in record["history"]], rel=1e-6), metric
    ((step, value),) = scalars["final/test/error"]
    assert step == 24
    assert value == pytest.approx(record["test_error"])


def events(path: Path) -> Iterator[Any]:
    """Yield the events of a TensorBoard file: each has its length (8 bytes), a checksum (4), and one after it (4)."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
