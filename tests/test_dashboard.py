"""W&B beyond a single run: aggregates, view, report, upload and terminal, against a stub on 127.0.0.1."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from crossover.cli import resolved
from crossover.config import parse_run
from crossover.record import ACCURACY, CONFIG, CONFUSION_TABLE, GPU_SECONDS, HISTORY, N_TRAIN, SAMPLES, SUMMARY
from crossover.report.wandb import CURVE, EQUIVALENCE, GAP, VERDICT
from crossover.store import read_sweep
from tests.logged import merged, records_of
from tests.reported import crossing_records
from tests.wandb_stub import KEY, WandbStub, wandb_stub
from tests.worlds import small_run

LOGGED = {
    *(metric for names in (HISTORY, SUMMARY, CURVE, GAP, EQUIVALENCE) for metric in names.values()),
    *(ACCURACY, GPU_SECONDS, N_TRAIN, SAMPLES, CONFUSION_TABLE, *VERDICT),
}
ROOT = Path(__file__).parents[1]
REPORT = """
import sys
from pathlib import Path
from crossover.report.build import write_report
from crossover.report.wandb import mirror_report
from crossover.store import read_sweep
outputs = Path(sys.argv[1])
for _ in range(2):  # the second time there is nothing to do
    sweep = read_sweep(outputs, "quick")
    report = write_report(sweep, outputs / "sweeps" / "quick")
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


def panels(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every panel of a spec."""
    if isinstance(value, dict):
        if "viewType" in value:
            yield value["config"]
        for inner in value.values():
            yield from panels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from panels(inner)


def read_names(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the section (metric or config) and name of everything that a panel reads."""
    accessors = [config[key] for key in ("xAxis", "yAxis", "zAxis") if config.get(key)]
    accessors += [column["accessor"] for column in config.get("columns", [])]
    accessors += [f"summary:{name}" for name in config.get("metrics", []) + config.get("mediaKeys", [])]
    if "groupBy" in config:
        accessors.append(f"config:{config['groupBy']}")
    for accessor in accessors:
        section, _, name = accessor.rpartition(":")
        yield ("config", name.removesuffix(".value")) if section == "config" else ("metric", name)


def test_every_name_that_a_panel_reads_is_one_that_runs_log(outputs: Path, home: str) -> None:
    made = python("scripts/dashboard.py", "quick", "--offline", "--outputs", str(outputs), HOME=home)
    assert made.returncode == 0, made.stderr
    paths = [Path(line) for line in made.stdout.splitlines()]
    assert [path.name for path in paths] == ["wandb-workspace.json", "wandb-report.json"]
    logged = {"metric": LOGGED, "config": set(CONFIG)}
    for path in paths:
        spec = json.loads(path.read_text())
        read = {name for config in panels(spec) for name in read_names(config)}
        assert ("metric", CURVE["error_mean"]) in read
        assert ("config", "cell") in read
        assert {(s, name) for s, name in read if name not in logged[s]} == set()
        assert "cues-vit-missing" in path.read_text()  # what is not done is said
        curve = next(config for config in panels(spec) if CURVE["error_mean"] in config.get("metrics", []))
        assert (curve["xAxis"], curve["xLogScale"]) == (N_TRAIN, True)
    columns = json.loads(paths[0].read_text())["section"]["runSets"][0]["runFeed"]["columnOrder"]
    names = {tuple(column.split(":")) for column in columns}
    assert {name for section, name in names if section == "config"} <= set(CONFIG)
    assert {name for section, name in names if section == "summary"} <= LOGGED


@pytest.mark.slow
def test_view_and_report_are_saved_once_and_updated_after_that(outputs: Path, home: str, stub: WandbStub) -> None:
    for _ in range(2):
        saved = python("scripts/dashboard.py", "quick", "--outputs", str(outputs), HOME=home, **stub.environment)
        assert saved.returncode == 0, saved.stderr
    assert sorted(view["type"] for view in stub.views.values()) == ["project-view", "runs"]
    assert {view["entityName"] for view in stub.views.values()} == {"someone"}
    operations = [name for name, _ in stub.asked if name.lower().startswith("upsertview")]
    assert len(operations) == 4
    assert stub.unknown == []


@pytest.mark.parametrize("name", ["quick-recipe.lr=3e-3+augment.flip=true-0123ab", "été 😀 €|<a>", "x" * 150])
def test_specs_take_the_name_of_any_sweep_and_tell_sweeps_apart(outputs: Path, tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # of W&B's own package, on its import
        from crossover.report.dashboard import read_dashboard, write_specs
    sweep, directory = read_sweep(outputs, "quick"), outputs / "sweeps" / "quick"
    shown = read_dashboard(replace(sweep, name=name), directory, entity="me", project="crossover")
    other = read_dashboard(replace(sweep, name=f"{name}+"), directory, entity="me", project="crossover")
    for path in write_specs(shown, tmp_path):
        wanted = json.dumps(name[:128])  # in the filter of its runs
        assert f'"value": {wanted}' in json.dumps(json.loads(path.read_text()))
    assert len(shown.title) <= 128
    assert shown.title != other.title


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "said"), [("key", "wandb login"), ("server", "when the server answers")])
@pytest.mark.parametrize("command", ["dashboard", "sync"])
def test_without_login_or_server_one_line_says_what_to_do(
    outputs: Path, home: str, tmp_path: Path, setting: str, said: str, command: str
) -> None:
    known = {"HOME": home, "NETRC": os.devnull}
    if setting == "server":
        known |= {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:1"}
    what = "quick" if command == "dashboard" else "--sync"
    shutil.copytree(outputs, tmp_path / "outputs")
    refused = python("scripts/dashboard.py", what, "--outputs", str(tmp_path / "outputs"), **known)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert ("login" in refused.stderr) == (setting == "key")
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.slow
def test_what_the_server_refuses_is_one_line(outputs: Path, home: str, stub: WandbStub) -> None:
    stub.refused = "upsertview2"
    refused = python("scripts/dashboard.py", "quick", "--outputs", str(outputs), HOME=home, **stub.environment)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert refused.stderr.startswith("error: W&B: ")


@pytest.mark.slow
def test_sync_uploads_what_is_not_there_yet(outputs: Path, home: str, stub: WandbStub, tmp_path: Path) -> None:
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy)
    done = python("scripts/dashboard.py", "--sync", "--outputs", str(copy), HOME=home, **stub.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 uploaded" in done.stdout
    assert len(done.stdout.splitlines()) <= 6
    assert len(stub.runs) == 4
    curve = next(rows for name, rows in stub.rows.items() if name.startswith("curve-quick-vit"))
    assert [row[N_TRAIN] for row in curve] == [256, 1024, 4096, 16384, 65536]
    again = python("scripts/dashboard.py", "--sync", "--outputs", str(copy), HOME=home, **stub.environment)
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


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_terminal_dashboard_opens_the_folder_of_a_sweep(outputs: Path, home: str) -> None:
    server = f"crossover-{uuid.uuid4().hex[:8]}"
    tmux = ["tmux", "-L", server, "-f", os.devnull]
    opened = f"{sys.executable} scripts/dashboard.py quick --terminal --outputs {outputs}"
    command = f"HOME={home} PYTHONPATH={ROOT / 'src'} {opened}"
    subprocess.run([*tmux, "new-session", "-d", "-x", "160", "-y", "50", "-c", str(ROOT), command], check=True)
    try:
        seen, deadline = "", time.monotonic() + 300
        while "[x: n_train]" not in seen and time.monotonic() < deadline:
            time.sleep(0.3)
            seen = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True)
    assert "[x: n_train]" in seen, seen


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
