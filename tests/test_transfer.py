"""Claims about pre-training and transfer: what is read, what is planned, what becomes of it."""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir

from crossover.cli import composed
from crossover.config import CrossoverError, RunConfig, validate
from crossover.data.cache import open_dataset
from crossover.report.build import write_report
from crossover.report.contents import ReportInput
from crossover.studies.target import Reading, fit_reader, read_backbone
from crossover.studies.transfer import (
    Backbone,
    TransferConfig,
    best_rows,
    inputs_hash,
    plan_backbones,
    plan_readings,
    reading_row,
    transfer_runs,
    tuning_row,
)
from crossover.sweep.plan import plan_runs, read_preset
from crossover.training import run as running
from crossover.training.run import execute
from tests.logged import records_of, without_wandb
from tests.worlds import small_run

CONF = str(Path(__file__).parents[1] / "conf")
ORIGIN = {"data__q": 1.0, "data__beta": 2.0, "data__alpha": 0.5}


@functools.cache
def shipped() -> tuple[TransferConfig, list[RunConfig], list[Any], list[Any]]:
    """Return the shipped study with all that it plans."""
    with initialize_config_dir(CONF, version_base="1.3"):
        transfer = parse_transfer(composed("transfer", ["transfer=cues"])["transfer"])
        source = plan_runs(read_preset(transfer.source), outputs="outputs")
        return transfer, source, plan_readings(transfer, source), plan_backbones(transfer, source, transfer.finetune)


def parse_transfer(values: object) -> TransferConfig:
    return validate(TransferConfig, values, "transfer")


def test_the_shipped_study_moves_every_backbone_and_the_untrained_ones() -> None:
    transfer, source, readings, tunings = shipped()
    sizes = {run.n_train for run in source}
    assert min(sizes) == 256
    assert max(sizes) >= 262_144
    assert {n for _, n, *_ in readings} == sizes | {0}
    assert len(readings) == len(transfer.targets) * (len(source) + 6)
    ids = {run.run_id for run in source}
    for _, n, _, run in readings:
        assert (run.init_from in ids) == (n > 0)
        assert run.data not in {other.data for other in source}
    assert transfer.finetune is not None
    assert len({run.run_id for *_, run in tunings}) == len(tunings)
    rates = {(factor, run.model.name): run.recipe.lr for _, _, factor, run in tunings}
    assert rates[0.1, "vit_tiny"] == pytest.approx(0.1 * rates[1.0, "vit_tiny"])
    assert {run.budget.steps for *_, run in tunings} == {transfer.finetune.set["budget.steps"]}


def test_no_image_is_in_source_and_target() -> None:
    transfer, source, readings, _ = shipped()
    streams = {(run.data.world_seed, run.data.image_seed) for run in source}  # type: ignore[union-attr]
    moved = {(run.data.world_seed, run.data.image_seed) for *_, run in readings}
    assert len(moved) == len(transfer.targets)
    assert not streams & moved


def test_unknown_target_of_finetuning_is_named() -> None:
    values: dict[str, Any] = {"name": "t", "source": "s", "targets": {"a": {}}, "probe_images": 100, "shots": [5]}
    values |= {"draws": 2, "finetune": {"targets": ["b"], "n_train": [10], "lr_factors": [1.0]}}
    with pytest.raises(CrossoverError, match=r"finetune\.targets has b; there is a"):
        parse_transfer(values)
    with pytest.raises(CrossoverError, match=r"bad transfer: draws: .*\(got '0'\)|bad transfer: draws"):
        parse_transfer(values | {"draws": 0, "finetune": None})


def ring(count: int, rng: np.random.Generator, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return three classes at the corners of a triangle, in 8 dimensions of which six say nothing."""
    labels = rng.integers(3, size=count)
    x = noise * rng.standard_normal((count, 8))
    x[:, :2] += np.stack([np.cos(2 * np.pi * labels / 3), np.sin(2 * np.pi * labels / 3)], 1)
    return torch.from_numpy(x), torch.from_numpy(labels)


def test_reader_is_the_ridge_regression_of_its_penalty() -> None:
    rng = np.random.default_rng(0)
    train, val, test = ring(60, rng, 0.6), ring(400, rng, 0.6), ring(400, rng, 0.6)
    error, val_error, penalty, predicted = fit_reader(train, val, test)
    assert error == float((predicted != test[1]).double().mean())
    mean, scale = train[0].mean(0), train[0].std(0)
    x, other = ((part[0] - mean) / scale for part in (train, test))
    one_hot = torch.nn.functional.one_hot(train[1], 3).double()
    weights = torch.linalg.solve(x.T @ x + penalty * 60 * torch.eye(8), x.T @ (one_hot - one_hot.mean(0)))
    expected = ((other @ weights + one_hot.mean(0)).argmax(1) != test[1]).double().mean()
    assert error == pytest.approx(float(expected))
    assert abs(error - val_error) < 0.1


def test_penalty_is_chosen_on_validation_never_on_test() -> None:
    rng = np.random.default_rng(1)
    train, val = ring(12, rng, 0.8), ring(500, rng, 0.8)
    chosen = {fit_reader(train, val, ring(n, rng, 0.8))[1:3] for n in (50, 300)}
    assert len(chosen) == 1
    shuffled = (val[0], val[1][torch.randperm(500)])
    assert fit_reader(train, shuffled, val)[1] > 0.5  # nothing to choose by: chance


def test_features_of_a_trained_backbone_serve_a_task_with_the_same_cue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "tune_allocator", lambda: None)
    source = small_run(tmp_path, n_train=1000, budget__steps=160, recipe__lr=0.02, **ORIGIN)
    assert execute(source)["test_error"] < 0.5
    target = small_run(tmp_path, data__image_seed=1, data__name="other", **ORIGIN)
    (moved, (labels, predicted)), (untrained, _) = (
        read_backbone(run, probe_images=300, shots=(5,), draws=4)
        for run in (target.model_copy(update={"init_from": source.run_id}), target)
    )
    assert [(r.protocol, r.n_target, r.draws) for r in moved] == [("probe", 300, 1), ("5shot", 50, 4)]
    for with_it, without in zip(moved, untrained, strict=True):
        assert with_it.test_error < without.test_error - 0.15
    assert moved[0].test_error == float((labels != predicted).double().mean())
    again, _ = read_backbone(target, probe_images=300, shots=(5,), draws=4)
    assert again == untrained


def test_a_reading_belongs_to_its_weights_and_images(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    run = small_run(tmp_path, init_from=str(path))
    first = inputs_hash(run)
    assert inputs_hash(run) == first
    path.write_bytes(b"others")
    assert inputs_hash(run) != first
    path.write_bytes(b"weights")
    meta = open_dataset(run.data, tmp_path / "data").folder / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"hash": "of others"}))
    assert inputs_hash(run) != first


def row(n: int, model: str, chain: int, error: float) -> dict[str, Any]:
    run = small_run(Path("nowhere"), n_train=100, chain=chain, model__name=model)
    moved = run.model_copy(update={"init_from": f"{model}-{n}-{chain}" if n else None})
    reading = Reading("probe", n_target=100, draws=1, test_error=error, val_error=error, penalty=0.1)
    return reading_row(Backbone("new", n, 1.0, moved), reading)


def test_table_of_readings_gives_the_verdict_over_n_pretrain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    records: list[Any] = []
    setting: dict[str, Any] = {"budget": "x", "recipe": "x", "augment": "none"}
    for n in (0, 256, 1024, 4096, 16384):
        for model, slope in (("resnet_a", 0.1), ("vit_a", 0.3)):
            for chain in range(3):
                error = 0.5 * (max(n, 64) / 2048) ** -slope * float(np.exp(0.01 * rng.standard_normal()))
                rows.append(row(n, model, chain, error))
                facts = {"run_id": f"{model}-{n}-{chain}", "dataset": "old", "model": model, "n_train": n}
                records += [facts | {"chain": chain, "seed": chain, "test_error": 0.9} | setting] if n else []
    runs = transfer_runs(pd.DataFrame(rows), records, n_test={"new": 500})
    assert set(runs["n_test"]) == {500}
    assert set(runs["dataset"]) == {"new-probe"}
    assert runs["n_train"].min() == 256
    assert sorted(runs["test_error"]) == sorted(r["test_error"] for r in rows if r["n_pretrain"])
    report = write_report(ReportInput("t", "make transfer STUDY=t", runs), tmp_path)
    pair = report.result["studies"][0]["pairs"][0]
    assert pair["verdict"] == "crossover"
    assert 1500 < (pair["n_star"] or 0) < 2800
    assert "| pre-training images |" in (tmp_path / "report.md").read_text()


SWEEP = """
name: small
fixed: {data: cues, data.n_pool: 1200, data.n_val: 100, data.n_test: 200, budget: steps, budget.steps: 4}
axes: {model: [resnet_tiny, vit_tiny], n_train: [64, 256], chain: [0, 1]}
"""
TRANSFER = """
name: moved
source: small
targets:
  other: {data: cues, data.name: other, data.world_seed: 1, data.n_pool: 1200, data.n_val: 100, data.n_test: 200}
probe_images: 200
shots: [5]
draws: 2
finetune: null
"""


@pytest.mark.slow
def test_transfer_trains_reads_reports_and_is_logged(tmp_path: Path) -> None:
    for kind, text in (("sweep", SWEEP), ("transfer", TRANSFER)):
        (tmp_path / "conf" / kind).mkdir(parents=True)
        (tmp_path / "conf" / kind / "small.yaml").write_text(text)
    command = [sys.executable, "scripts/study.py", "transfer", "--config-dir", str(tmp_path / "conf"), "transfer=small"]
    command += [f"outputs={tmp_path}", f'set=["machine.data_dir={tmp_path / "data"}"]']
    known = without_wandb() | {"HOME": str(tmp_path / "home")}
    for _ in range(2):  # the second time there is nothing to do
        done = subprocess.run(command, cwd=Path(CONF).parent, env=known, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "sweeps" / "moved"
    assert command[-1] in json.loads((folder / "plan.json").read_text())["command"]  # what repeats it
    assert len(pd.read_csv(folder / "transfer.csv")) == 2 * (8 + 4)  # probe and 5shot of each backbone
    logged = [records_of(path) for path in folder.glob("wandb/offline-run-*")]
    jobs = sorted(r["run"]["job_type"] for records in logged for r in records if r["type"] == "run")
    assert jobs == ["curve"] * 4 + ["pair"] * 2 + ["report"]
    artifacts = [r["artifact"] for records in logged for r in records if r["type"] == "artifact"]
    (report,) = (artifact for artifact in artifacts if artifact["type"] == "report")
    assert "transfer.csv" in {entry["path"] for entry in report["manifest"]["contents"]}


def test_rate_of_finetuning_is_the_one_with_the_lowest_validation_error() -> None:
    run = small_run(Path("nowhere"), n_train=100, init_from="a")
    records: list[Any] = [{"val_error": val, "test_error": test} for val, test in ((0.4, 0.3), (0.3, 0.5), (0.35, 0.1))]
    done = [
        tuning_row(Backbone("new", 256, factor, run), record)
        for factor, record in zip((0.1, 1.0, 3.0), records, strict=True)
    ]
    (found,) = best_rows(pd.DataFrame(done)).to_dict("records")
    assert (found["choice"], found["test_error"], found["protocol"]) == (1.0, 0.5, "finetune100")


def test_published_table_follows_from_the_published_readings() -> None:
    results = Path(CONF).parent / "results"
    studies = [pd.read_csv(results / f"{name}-transfer" / "transfer.csv") for name in ("cues", "tiny-imagenet")]
    runs = pd.read_csv(results / "tiny-imagenet-cpu" / "runs.csv")
    twins = runs["run_id"][runs["steps"] < runs["steps"].max()]
    readings = pd.concat(studies).loc[lambda found: ~found["init_from"].isin(twins)]
    means = readings.groupby(["target", "protocol", "model", "n_pretrain"])["test_error"].mean()
    rows = [
        line
        for line in (results / "README.md").read_text().splitlines()
        if line.startswith(("| cues-q0,", "| cues-n", "| cifar10,"))
    ]
    assert len(rows) == 14
    for line in rows:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        target, protocol, model = name.split(", ")
        expected = means[target, protocol, model]
        assert cells == [f"{100 * value:.1f} %" for value in expected]


def test_published_table_of_the_longer_training_follows_from_its_readings() -> None:
    results = Path(CONF).parent / "results"
    readings = pd.read_csv(results / "tiny-imagenet-long-transfer" / "transfer.csv")
    means = readings.groupby(["target", "protocol", "model", "n_pretrain"])["test_error"].mean()
    rows = [line for line in (results / "README.md").read_text().splitlines() if line.startswith("| long: cifar10,")]
    assert len(rows) == 6
    for line in rows:
        name, *cells = (cell.strip() for cell in line.removeprefix("| long:").strip("|").split("|"))
        assert cells == [f"{100 * value:.1f} %" for value in means[tuple(name.split(", "))]]
