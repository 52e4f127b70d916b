import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossover.config import AugmentConfig, RunConfig
from crossover.data.cache import open_dataset
from crossover.data.loader import Images, TrainBatches
from crossover.record import ACCURACY, CONFIG, CONFUSION, GPU_SECONDS, HISTORY, N_TRAIN, SAMPLES, SUMMARY
from crossover.training.loggers import sample_grid
from crossover.training.run import execute
from tests.wandb_stub import wandb_stub
from tests.worlds import files_with, results, small_run

ROOT = Path(__file__).parents[1]
SECRET = "5ec2e7" * 6 + "5ec2"

START = """
import json, sys, threading, time
from pathlib import Path
from crossover import wandb_runs
from crossover.config import parse_run
from crossover.training.loggers import WandbMirror
from crossover.training.resume import StoppedError
from crossover.training.run import execute
wandb_runs.INIT_SECONDS, wandb_runs.FINISH_SECONDS = 2.0, 2.0
run, log = parse_run(json.loads(sys.argv[1])), WandbMirror.log_metrics
"""
RUN = START + "execute(run)"
STOPPED = (
    START
    + """
stop = threading.Event()
def log_and_stop(mirror, row, step):
    log(mirror, row, step)
    if step == 12: stop.set()
WandbMirror.log_metrics = log_and_stop
try: execute(run, stop)
except StoppedError: pass
"""
)
"""A run that is stopped in its middle."""
HELD = (
    START
    + """
def log_and_wait(mirror, row, step):
    log(mirror, row, step)
    while step in (12, 18) and not Path(sys.argv[2], str(step)).exists(): time.sleep(0.02)
WandbMirror.log_metrics = log_and_wait
execute(run)
"""
)
"""A run that waits after its second row, when W&B sends the first, and after its third until the test lets it go on."""


def program(code: str, run: RunConfig, *more: str) -> list[str]:
    return [sys.executable, "-c", code, run.model_dump_json(), *more]


def without_wandb() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}


def train_apart(run: RunConfig, code: str = RUN, **environment: str) -> str:
    """Train in a process of its own, as W&B starts a service; return what it said."""
    return subprocess.run(
        program(code, run),
        check=True,
        env=without_wandb() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


def train_in_two_parts(run: RunConfig, rest: RunConfig | None = None, **environment: str) -> None:
    train_apart(run, STOPPED, **environment)
    time.sleep(1.1)  # the folders of W&B are named by the second
    train_apart(rest or run, **environment)


def sync(folder: Path, **environment: str) -> str:
    """Return the last line that `make sync` says."""
    command = [sys.executable, "scripts/sync.py", str(folder / "outputs")]
    done = subprocess.run(command, cwd=ROOT, env=without_wandb() | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines(keepends=True)[-1]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return the records of an offline run, as `wandb leet inspect` reads them."""
    program = str(Path(sys.executable).with_name("wandb"))
    told = subprocess.run(
        [program, "leet", "inspect", "--json", str(folder)], check=True, capture_output=True, text=True
    )
    return [json.loads(line) for line in told.stdout.splitlines()]


def merged(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return all updates of a kind, in order."""
    updates = [r[kind]["update"] for r in records if r["type"] == kind and "update" in r[kind]]
    return {name: value for update in updates for name, value in update.items()}


def test_offline_wandb_keeps_config_history_and_final_numbers(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline", "group": "sweep"})
    with socket.socket() as server:  # every way out leads here, and nobody comes
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        ways = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), url)
        train_apart(run, HOME=str(tmp_path / "home"), WANDB_BASE_URL=url, WANDB_API_KEY=SECRET, **ways)
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
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert [row["_step"] for row in rows] == [6, 12, 18, 24]
    for field, metric in HISTORY.items():
        if metric not in SUMMARY.values():
            assert [row[metric] for row in rows] == pytest.approx([row[field] for row in record["history"]])
        assert all(metric in row for row in rows)
    summary = merged(records, "summary")
    for field, metric in SUMMARY.items():
        assert summary[metric] == pytest.approx(record[field]), metric
    assert summary[ACCURACY] == pytest.approx(1 - record["test_error"])
    assert (summary[GPU_SECONDS], summary[N_TRAIN]) == (0, 100)
    assert f"{SAMPLES}._type" in summary or SAMPLES in summary
    assert any(name.startswith(CONFUSION) for name in summary)
    artifacts = {r["artifact"]["name"] for r in records if r["type"] == "artifact"}
    assert f"record-{run.run_id}" in artifacts
    assert not list((tmp_path / "home").rglob("staging/*"))


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
    steps = [[r["history"]["step"]["num"] for r in records if r["type"] == "history"] for records in (first, second)]
    assert steps == [[6, 12], [18, 24]]


@pytest.mark.slow
def test_resumed_online_run_continues_its_wandb_run(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb"})
    with wandb_stub() as stub:
        environment = stub.environment | {"HOME": str(tmp_path / "home")}
        train_apart(run, STOPPED, **environment)
        assert [row["_step"] for row in stub.rows[run.run_id]] == [6, 12]
        assert stub.ended == {run.run_id: 1}
        train_apart(run, **environment)
    assert set(stub.runs) == {run.run_id}
    assert [row["_step"] for row in stub.rows[run.run_id]] == [6, 12, 18, 24]
    assert stub.ended == {run.run_id: 0}


@pytest.mark.slow
@pytest.mark.parametrize("second", ["wandb_offline", "wandb"])
def test_sync_uploads_both_parts_of_a_resumed_offline_run_into_one(tmp_path: Path, second: str) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline"})
    with wandb_stub() as stub:
        environment = stub.environment | {"HOME": str(tmp_path / "home")}
        train_in_two_parts(run, small_run(tmp_path, logger={"kind": second}), **environment)
        assert stub.runs == {}
        assert sync(tmp_path, **environment) == "1 of 1 runs uploaded\n"
        assert set(stub.runs) == {run.run_id}
        assert [row["_step"] for row in stub.rows[run.run_id]] == [6, 12, 18, 24]
        assert stub.ended == {run.run_id: 0}
        assert "nothing to upload" in sync(tmp_path, **environment)


@pytest.mark.slow
def test_outage_in_the_middle_of_a_run_changes_nothing_and_what_is_left_is_uploaded_later(tmp_path: Path) -> None:
    run, places = small_run(tmp_path, logger={"kind": "wandb"}), [tmp_path / "12", tmp_path / "18"]
    environment = {"HOME": str(tmp_path / "home"), "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.1"}
    log = tmp_path / "log.txt"
    with wandb_stub() as stub, log.open("w") as file:
        stub.falls_silent = True
        known = without_wandb() | environment | stub.environment
        training = subprocess.Popen(program(HELD, run, str(tmp_path)), env=known, stdout=file, stderr=file)
        try:
            assert stub.silent.wait(60)
            places[0].touch()  # its next row goes to a server that hangs
            time.sleep(1)
            stub.refuse()
            places[1].touch()  # the last to none
            training.wait(60)
            ended = time.time()
        finally:
            training.kill()
            training.wait()
    assert training.returncode == 0, log.read_text()
    assert [line for line in log.read_text().splitlines() if "W&B" in line or "wandb" in line] == [
        f"W&B has not taken all of {run.run_id} (no answer within 2 s); `make sync` uploads it later"
    ]
    assert [row["_step"] for row in stub.rows[run.run_id]] == [6]
    path = run.run_dir / "record.json"
    assert ended - path.stat().st_mtime < 15  # of which 2 s are the patience that the test gives
    record = json.loads(path.read_text())
    (tmp_path / "without").mkdir()
    assert results(record) == results(execute(small_run(tmp_path / "without")))
    with wandb_stub() as stub:
        assert sync(tmp_path, **environment, **stub.environment) == "1 of 1 runs uploaded\n"
    assert [row["_step"] for row in stub.rows[run.run_id]] == [6, 12, 18, 24]
    assert stub.rows[run.run_id][-1]["test/error"] == record["test_error"]
    assert f"record-{run.run_id}" in stub.artifacts
    assert "nothing to upload" in sync(tmp_path, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True], ids=["unreachable", "silent"])
def test_outage_of_wandb_costs_bounded_time_and_nothing_else(tmp_path: Path, answers: bool) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb"})
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:  # takes connections and says nothing
            server.listen(50)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        said = train_apart(run, WANDB_BASE_URL=url, WANDB_API_KEY=SECRET, HOME=str(tmp_path / "home"))
    assert "is logged offline" in said
    assert SECRET not in said
    assert files_with(SECRET, run.run_dir) == []
    assert (run.run_dir / "record.json").exists()
    assert len(list(run.run_dir.glob("wandb/offline-run-*"))) == 1


@pytest.mark.parametrize("kind", ["csv", "none"])
def test_the_key_of_wandb_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    execute(small_run(tmp_path, logger={"kind": kind}))
    assert list(tmp_path.rglob("record.json"))
    assert files_with(SECRET, tmp_path) == []


def test_csv_logger_writes_each_validation(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "csv"})
    record = execute(run)
    text = (run.run_dir / "csv" / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    losses = [float(row["val/loss"]) for row in rows if row["lr"]]
    assert losses == pytest.approx([row["val_loss"] for row in record["history"]])
    assert float(rows[-1]["test/error"]) == pytest.approx(record["test_error"])


def test_sample_grid_shows_the_images_enlarged(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    dataset = open_dataset(run.data, tmp_path / "data")
    images = Images(dataset.images, dataset.labels, np.arange(100), torch.device("cpu"), 1e9)
    batches = TrainBatches(images, dataset, AugmentConfig(name="none"), batch_size=16, seed=0)
    grid = sample_grid(batches)
    assert grid.shape == (64, 8 * 64, 3)
    np.testing.assert_array_equal(grid[::4, :64:4], batches.raw(0)[0][0])
    np.testing.assert_array_equal(grid[3::4, 3:64:4], batches.raw(0)[0][0])
