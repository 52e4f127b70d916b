"""Claims about W&B runs that are uploaded during training or after it: resumed, cut off, failed or without a server."""

import contextlib
import json
import socket
import subprocess
import time
from pathlib import Path

import pytest

from crossover import wandb_runs
from crossover.training.run import execute
from tests.logged import (
    HELD,
    SECRET,
    START,
    STOPPED,
    metrics,
    program,
    recorded,
    rows_of,
    sync,
    train_apart,
    train_in_two_parts,
    without_wandb,
)
from tests.wandb_stub import wandb_stub
from tests.worlds import files_with, results, small_run


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
    assert metrics(stub.rows[run.run_id]) == recorded(run)
    assert stub.ended == {run.run_id: 0}


@pytest.mark.slow
@pytest.mark.parametrize("second", ["wandb_offline", "wandb"])
def test_sync_uploads_both_parts_of_a_resumed_offline_run_into_one(tmp_path: Path, second: str) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline"})
    with wandb_stub() as stub:
        environment = stub.environment | {"HOME": str(tmp_path / "home")}
        train_in_two_parts(run, small_run(tmp_path, logger={"kind": second}), **environment)
        assert stub.runs == {}
        assert sync(tmp_path, **environment) == "2 of 2 uploaded"
        assert set(stub.runs) == {run.run_id}
        assert metrics(stub.rows[run.run_id]) == recorded(run)
        assert stub.ended == {run.run_id: 0}
        assert "nothing to upload" in sync(tmp_path, **environment)


@pytest.mark.slow
def test_outage_in_the_middle_of_a_run_changes_nothing_and_what_is_left_is_uploaded_later(tmp_path: Path) -> None:
    run, places = small_run(tmp_path, logger={"kind": "wandb"}), [tmp_path / "12", tmp_path / "24"]
    environment = {"HOME": str(tmp_path / "home"), "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.1", "PATIENCE": "2"}
    log = tmp_path / "log.txt"
    with wandb_stub() as stub, log.open("w") as file:
        stub.falls_silent = True
        known = without_wandb() | environment | stub.environment
        training = subprocess.Popen(program(HELD, run, str(tmp_path)), env=known, stdout=file, stderr=file)
        try:
            assert stub.silent.wait(120)
            places[0].touch()  # its next rows go to a server that hangs
            while not list(run.run_dir.glob("last.ckpt")):
                time.sleep(0.05)
            stub.refuse()
            places[1].touch()  # the end to none
            training.wait()
        finally:
            training.kill()
            training.wait()
    assert training.returncode == 0, log.read_text()
    assert "`make sync` uploads it" in log.read_text()
    assert len([line for line in log.read_text().splitlines() if "W&B" in line or "wandb" in line]) == 1
    assert len(stub.rows[run.run_id]) < 4
    record = json.loads((run.run_dir / "record.json").read_text())
    (tmp_path / "without").mkdir()
    assert results(record) == results(execute(small_run(tmp_path / "without")))
    with wandb_stub() as stub:
        assert sync(tmp_path, **stub.environment) == "1 of 1 uploaded"
    assert metrics(stub.rows[run.run_id]) == recorded(run)
    assert f"record-{run.run_id}" in stub.artifacts
    assert "nothing to upload" in sync(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [False, True], ids=["unreachable", "silent"])
def test_outage_of_wandb_costs_bounded_time_and_nothing_else(tmp_path: Path, answers: bool) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb"})
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:  # takes connections and says nothing
            server.listen(50)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {"WANDB_BASE_URL": url, "WANDB_API_KEY": SECRET, "HOME": str(tmp_path / "home"), "PATIENCE": "2"}
        said = train_apart(run, **environment)  # comes back: the server never answers
    assert "(not within 2 s)" in said
    assert SECRET not in said
    assert files_with(SECRET, run.run_dir) == []
    assert (run.run_dir / "record.json").exists()
    (folder,) = wandb_runs.offline_folders(run.run_dir / "wandb")
    assert metrics(rows_of(folder)) == recorded(run)
    assert wandb_runs.is_left(run.run_dir / "wandb")


@pytest.mark.slow
def test_an_upload_ends_with_the_training_it_belongs_to(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb"})
    with wandb_stub() as stub:
        known = without_wandb() | stub.environment | {"HOME": str(tmp_path / "home")}
        with (tmp_path / "log.txt").open("w") as log:
            training = subprocess.Popen(program(HELD, run, str(tmp_path)), env=known, stdout=log, stderr=log)
        try:
            while run.run_id not in stub.runs and training.poll() is None:
                time.sleep(0.1)
            uploads = [pid for pid in commands() if str(run.run_dir) in commands()[pid] and "--live" in commands()[pid]]
        finally:
            training.kill()
            training.wait()
        assert uploads
        while set(uploads) & set(commands()):
            time.sleep(0.1)


def commands() -> dict[str, str]:
    """Return the command of each process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found[path.parent.name] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: command for pid, command in found.items() if command}


@pytest.mark.slow
def test_what_wandb_failed_to_log_is_uploaded_from_the_record(tmp_path: Path) -> None:
    broken = (
        START
        + """
def fail(mirror, row, step):
    if step == 12:
        mirror.experiment.finish()
    log(mirror, row, step)
RunMirror.log_metrics = fail
execute(run)
"""
    )
    run = small_run(tmp_path, logger={"kind": "wandb_offline"})
    assert "`make sync` does it from the record" in train_apart(run, broken, HOME=str(tmp_path / "home"))
    with wandb_stub() as stub:
        assert sync(tmp_path, **stub.environment) == "1 of 1 uploaded"
        assert "nothing to upload" in sync(tmp_path, **stub.environment)
    assert metrics(stub.rows[run.run_id]) == recorded(run)
    assert f"record-{run.run_id}" in stub.artifacts
