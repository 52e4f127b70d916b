"""W&B beyond a single run: the runs that stand for a sweep, and their upload, against a stub on 127.0.0.1."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from crossover.cli import resolved
from crossover.config import parse_run
from crossover.record import HISTORY, N_TRAIN
from crossover.report.wandb import CURVE, EQUIVALENCE, GAP, VERDICT
from tests.logged import merged, records_of
from tests.reported import crossing_records
from tests.wandb_stub import KEY, WandbStub, wandb_stub
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]
REPORT = """
import sys
from pathlib import Path
from crossover.report.build import sweep_input, write_report
from crossover.report.wandb import mirror_report
from crossover.store import read_sweep
outputs = Path(sys.argv[1])
for _ in range(2):  # the second time there is nothing to do
    sweep = read_sweep(outputs, "quick")
    report = write_report(sweep_input(sweep), outputs / "sweeps" / "quick")
    mirror_report(report, sweep)
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=known | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, home: str) -> Path:
    """Return the outputs of a finished sweep with its report in offline W&B."""
    folder = tmp_path_factory.mktemp("outputs")
    records = crossing_records()
    config = small_run(folder, logger={"kind": "wandb_offline"}).model_dump(mode="json")
    for record in records:
        path = folder / "runs" / record["run_id"] / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record | {"config": config}))
    plan = {"name": "quick", "command": "make sweep", "runs": [*(r["run_id"] for r in records), "cues-vit-missing"]}
    (folder / "sweeps" / "quick").mkdir(parents=True)
    (folder / "sweeps" / "quick" / "plan.json").write_text(json.dumps(plan))
    done = python("-c", REPORT, str(folder), HOME=home)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def stub() -> Iterator[WandbStub]:
    with wandb_stub() as server:
        yield server


def aggregates(outputs: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of each aggregate run by job type and name."""
    found = {}
    for folder in sorted(outputs.glob("sweeps/quick/wandb/offline-run-*")):
        records = records_of(folder)
        (run,) = (r["run"] for r in records if r["type"] == "run")
        assert run["run_group"] == "quick"
        found[f"{run['job_type']}: {run['display_name']}"] = records
    return found


def test_report_logs_a_curve_per_model_a_pair_and_a_summary_once(outputs: Path) -> None:
    found = aggregates(outputs)
    assert len(found) == 4
    curves = pd.read_csv(outputs / "sweeps" / "quick" / "curves.csv")
    for model in ("resnet_tiny", "vit_tiny"):
        rows = [r["history"]["item"] for r in found[f"curve: {model} on cues"] if r["type"] == "history"]
        expected = curves[curves["model"] == model]
        assert [row[N_TRAIN] for row in rows] == list(expected[N_TRAIN])
        for column, metric in CURVE.items():
            assert [row[metric] for row in rows] == pytest.approx(list(expected[column]), rel=1e-5)
    (pair,) = (records for name, records in found.items() if name.startswith("pair"))
    names = {name for r in pair if r["type"] == "history" for name in r["history"]["item"]}
    assert set(GAP.values()) | set(EQUIVALENCE.values()) <= names
    summary = merged(pair, "summary")
    assert set(VERDICT) <= set(summary)
    assert summary["verdict"] == "crossover"
    summary_run = merged(found["report: report of quick"], "summary")
    for name in ("learning_curves", "figures/learning-curves", "verdicts"):
        assert any(key.startswith(name) for key in summary_run), name
    artifacts = [r["artifact"]["type"] for r in found["report: report of quick"] if r["type"] == "artifact"]
    assert "report" in artifacts
    (report,) = (
        r["artifact"]
        for r in found["report: report of quick"]
        if r["type"] == "artifact" and r["artifact"]["type"] == "report"
    )
    contents = {entry["path"] for entry in report["manifest"]["contents"]}
    assert {"crossover.json", "runs.csv", "report.html", "report.md"} <= contents
    points = {r["metric"]["name"] for r in pair if r["type"] == "metric" and r["metric"].get("step_metric") == N_TRAIN}
    assert points == set(GAP.values()) | set(EQUIVALENCE.values())


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "said"), [("key", "wandb login"), ("server", "when the server answers")])
def test_without_login_or_server_one_line_says_what_to_do(
    outputs: Path, home: str, tmp_path: Path, setting: str, said: str
) -> None:
    known = {"HOME": home, "NETRC": os.devnull}
    if setting == "server":
        known |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:1"}
    shutil.copytree(outputs, tmp_path / "outputs")
    refused = python("scripts/status.py", "--sync", str(tmp_path / "outputs"), **known)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert ("login" in refused.stderr) == (setting == "key")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_sync_uploads_what_is_not_there_yet(outputs: Path, home: str, stub: WandbStub, tmp_path: Path) -> None:
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy)
    done = python("scripts/status.py", "--sync", str(copy), HOME=home, **stub.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 uploaded" in done.stdout
    assert len(done.stdout.splitlines()) <= 6
    assert len(stub.runs) == 4
    curve = next(rows for name, rows in stub.rows.items() if name.startswith("curve-quick-vit"))
    assert [row[N_TRAIN] for row in curve] == [256, 1024, 4096, 16384, 65536]
    again = python("scripts/status.py", "--sync", str(copy), HOME=home, **stub.environment)
    assert "nothing to upload" in again.stdout


@pytest.mark.slow
def test_a_report_of_an_online_sweep_is_uploaded_and_an_outage_leaves_it_for_sync(
    outputs: Path, home: str, tmp_path: Path, stub: WandbStub
) -> None:
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy, ignore=shutil.ignore_patterns("wandb"))
    for path in copy.glob("runs/*/record.json"):
        path.write_text(path.read_text().replace("wandb_offline", "wandb"))
    code = REPORT.replace(
        "outputs =", "import crossover.report.wandb as wb\nwb.UPLOAD_SECONDS = float(sys.argv[2])\noutputs ="
    )
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:1", "WANDB_API_KEY": KEY}
    done = python("-c", code.replace("range(2)", "range(1)"), str(copy), "2", HOME=home, **nowhere)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"W&B has not got 1 of \d+ runs of the sweep yet; `make sync` uploads them\n", done.stdout)
    assert len(aggregates(copy)) == 4
    done = python("-c", code, str(copy), "120", HOME=home, **stub.environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    assert len(stub.runs) == 4


def test_wandb_sweep_searches_on_validation_with_keys_that_compose() -> None:
    sweep: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "wandb-sweep.yaml"), resolve=False)
    assert sweep["metric"] == {"name": HISTORY["val_error"], "goal": "minimize"}
    assert (ROOT / sweep["program"]).exists()
    for pick in (min, max):
        chosen = {}
        for key, given in sweep["parameters"].items():
            values = given.get("values") or [given.get("value", given.get("min")), given.get("value", given.get("max"))]
            chosen[key] = pick(values)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            run = parse_run(resolved(compose("train", [f"{key}={value}" for key, value in chosen.items()])))
        assert run.recipe.lr == chosen["recipe.lr"]
        assert run.logger.kind == "wandb"
