import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from crossover.training.loggers import SUMMARY
from crossover.training.run import execute
from tests.worlds import small_run

RUN = """
import json, sys
from crossover.config import parse_run
from crossover.training.run import execute
execute(parse_run(json.loads(sys.argv[1])))
"""


def test_offline_wandb_keeps_config_and_final_numbers(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "wandb_offline", "group": "sweep"})
    subprocess.run([sys.executable, "-c", RUN, run.model_dump_json()], check=True)  # W&B starts a service: not in here
    record = json.loads((run.run_dir / "record.json").read_text())
    (folder,) = run.run_dir.glob("wandb/offline-run-*")
    inspect = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--summary", "--json", str(folder)]
    told = json.loads(subprocess.run(inspect, check=True, capture_output=True, text=True).stdout)
    text = json.dumps(told)
    for key, field in SUMMARY.items():
        assert key in text, f"{key} is missing"
        assert str(record[field])[:8] in text
    assert next(folder.glob("run-*.wandb")).name == f"run-{run.run_id}.wandb"


def test_csv_logger_writes_each_validation(tmp_path: Path) -> None:
    run = small_run(tmp_path, logger={"kind": "csv"})
    record = execute(run)
    text = (run.run_dir / "csv" / "metrics.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    errors = [float(row["val_error"]) for row in rows if row["val_error"]]
    assert errors == pytest.approx([row["val_error"] for row in record["history"]])
