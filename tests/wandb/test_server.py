"""W&B against openwandb, a server that speaks its protocol: each row there equals its record (make test-wandb)."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from crossover.config import RunConfig
from crossover.record import CONFIG, SUMMARY, history_row
from tests.logged import HELD, ROOT, program, sync, train_apart, without_wandb
from tests.wandb.openwandb import OpenWandb, openwandb
from tests.worlds import small_run

pytestmark = pytest.mark.wandb
SWEEP = """
name: small
fixed: {data: cues, data.n_pool: 1200, data.n_val: 100, data.n_test: 200, budget: steps, budget.steps: 20,
  logger: wandb}
axes: {model: [resnet_tiny, vit_tiny], n_train: [64, 256], chain: [0]}
"""


def differing(server: OpenWandb, record: dict[str, Any]) -> list[str]:
    """Return the metrics of a run on the server whose rows are not those of its record."""
    expected: dict[str, set[tuple[int, float]]] = {}
    for row in record["history"]:
        for metric, value in history_row(row).items():
            expected.setdefault(metric, set()).add((row["step"], value))
    there = server.points(record["run_id"])
    return [metric for metric in expected | there if there.get(metric) != expected.get(metric)]


def media(server: OpenWandb, run_id: str) -> set[str]:
    """Return the pictures and tables of a run, without the hashes in their names."""
    return {re.sub(r"_\d+_\w+\.(table\.)?", ".", name) for name in server.files(run_id) if name.startswith("media/")}


def check_there(server: OpenWandb, record: dict[str, Any]) -> None:
    assert differing(server, record) == []
    run = server.get(record["run_id"])["run"]
    for field, metric in SUMMARY.items():
        assert run["summary"][metric] == pytest.approx(record[field]), metric
    config = {name: value["value"] for name, value in run["config"].items() if name in CONFIG}
    assert set(config) == set(CONFIG)
    assert (config["lr"], config["n_train"]) == (record["lr"], record["n_train"])
    names = {artifact["name"] for artifact in server.get(f"{record['run_id']}/artifacts")["artifacts"]}
    assert f"record-{record['run_id']}" in names


def read(run: RunConfig) -> dict[str, Any]:
    return json.loads((run.run_dir / "record.json").read_text())


def test_an_online_sweep_is_on_the_server_row_for_row(tmp_path: Path) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "small.yaml").write_text(SWEEP)
    command = [sys.executable, "scripts/sweep.py", "--config-dir", str(tmp_path / "conf"), "sweep=small"]
    command += [f"outputs={tmp_path / 'outputs'}", f'set=["machine.data_dir={tmp_path / "data"}"]']
    with openwandb(tmp_path) as server:
        known = without_wandb() | server.environment
        done = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        sync(tmp_path, **server.environment)  # what did not fit into the patience of a run
        records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/record.json")]
        assert len(records) == 4
        for record in records:
            check_there(server, record)
            assert media(server, record["run_id"]) == {"media/table/confusion_table.json"}
        (report,) = {sent["name"] for sent in server.sent if sent.get("jobType") == "report"}
        drawn = {
            f"media/images/figures/{name}.png"
            for name in ("learning-curves", "gap", "data-equivalence", "samples-cues-none")
        }
        assert {*drawn, "media/table/learning_curves.json"} <= media(server, report)
        groups = {sent["name"]: sent["groupName"] for sent in server.sent if sent.get("groupName")}
        jobs = {sent.get("jobType") for sent in server.sent}
    assert {record["run_id"] for record in records} < set(groups)
    assert len(groups) == 4 + 2 + 1 + 1  # runs, curves, pair, report
    assert len(set(groups.values())) == 1
    assert {"train", "curve", "pair", "report"} <= jobs


def test_after_an_offline_run_and_outages_at_the_start_and_in_mid_run_sync_uploads_the_rest(tmp_path: Path) -> None:
    server = OpenWandb(tmp_path)
    offline = small_run(tmp_path, logger={"kind": "wandb_offline"})
    at_start = small_run(tmp_path, chain=1, logger={"kind": "wandb"})
    in_middle = small_run(tmp_path, chain=2, logger={"kind": "wandb"})
    train_apart(offline)
    said = train_apart(at_start, PATIENCE="1", **server.environment)
    assert "`make sync` uploads it" in said
    server.start()
    known = without_wandb() | server.environment | {"PATIENCE": "1", "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "0.1"}
    with (tmp_path / "log.txt").open("w") as log:
        training = subprocess.Popen(program(HELD, in_middle, str(tmp_path)), env=known, stdout=log, stderr=log)
    try:
        while not server.points(in_middle.run_id) and training.poll() is None:
            time.sleep(0.1)
    finally:
        server.kill()
        for step in ("12", "24"):
            (tmp_path / step).touch()
        training.wait()
    assert training.returncode == 0, (tmp_path / "log.txt").read_text()
    assert "`make sync` uploads it" in (tmp_path / "log.txt").read_text()
    server.start()
    try:
        assert sync(tmp_path, **server.environment) == "3 of 3 uploaded"
        for run in (offline, at_start, in_middle):
            check_there(server, read(run))
        assert "nothing to upload" in sync(tmp_path, **server.environment)
    finally:
        server.kill()
