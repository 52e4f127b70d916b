"""Claims about one run: what it measures and records, and that equal seeds give equal numbers."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.data.loader import Batch
from crossover.training import machine
from crossover.training.epochs import AHEAD, CHUNK, leg_bounds, read_ahead
from crossover.training.machine import forget_peaks
from crossover.training.models import build_model
from crossover.training.module import _follow, label_smoothing_floor
from crossover.training.run import Evaluation, error_by_class, execute
from tests.worlds import VIT, results, small_run

pytestmark = pytest.mark.usefixtures("untuned")


def test_record_holds_what_the_run_was_and_measured(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    record = execute(run)
    assert record == json.loads((run.run_dir / "record.json").read_text())
    assert record["steps"] == 24
    assert record["images_seen"] == 24 * 16
    assert record["flops"] == 3 * record["forward_flops"] * 24 * 16
    assert [row["step"] for row in record["history"]] == [6, 12, 18, 24]
    assert record["config"] == run.model_dump(mode="json")
    saved = np.load(run.run_dir / "predictions.npz")
    assert record["test_error"] == np.mean(saved["labels"] != saved["predictions"])
    np.testing.assert_array_equal(saved["labels"], open_dataset(run.data, tmp_path / "data").test_labels)
    assert record["test_error"] == pytest.approx(
        np.average(np.array(record["test_error_by_class"], float), weights=np.bincount(saved["labels"]))
    )
    assert not (run.run_dir / "last.ckpt").exists()


def test_a_class_without_test_images_leaves_the_others_in_their_places() -> None:
    labels, predictions = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    assert error_by_class(Evaluation(0.5, 0.4, labels, predictions), 4) == [0.5, None, pytest.approx(1 / 3), None]


def test_saved_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    run = small_run(tmp_path, recipe__lr=0.03)
    record = execute(run)
    best = min(record["history"], key=lambda row: row["val_error"])
    assert (record["best_step"], record["val_error"]) == (best["step"], best["val_error"])
    network = build_model(run.model, image_size=16, classes=10)
    network.load_state_dict(load_file(run.run_dir / "weights.safetensors"))


def test_select_last_tests_the_last_weights(tmp_path: Path) -> None:
    record = execute(small_run(tmp_path, recipe__select="last"))
    assert record["best_step"] == 24
    assert record["val_error"] == record["history"][-1]["val_error"]


@pytest.mark.parametrize("changes", [{}, {"model": VIT}, {"recipe__optimizer": "sgd"}])
def test_same_seed_same_numbers(tmp_path: Path, changes: dict[str, Any]) -> None:
    first, second = (execute(small_run(tmp_path / name, **changes)) for name in ("a", "b"))
    assert results(first) == results(second)


def test_another_seed_gives_other_numbers_on_the_same_images(tmp_path: Path) -> None:
    first, second = (execute(small_run(tmp_path, seed=seed)) for seed in (0, 1))
    assert first["subset_hash"] == second["subset_hash"]
    assert first["history"] != second["history"]


def test_the_moving_average_is_that_of_torch() -> None:
    network: Any = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    average = copy.deepcopy(network)
    expected = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for step in range(4):
        network(torch.randn(5, 3))
        with torch.no_grad():
            network[0].weight += step
        _follow(average, network, 0.0 if step == 0 else 0.9)
        expected.update_parameters(network)
    for ours, theirs in zip(average.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert torch.equal(average[1].running_mean, expected.module.get_buffer("1.running_mean"))


def test_divergence_ends_the_run_with_its_cause(tmp_path: Path) -> None:
    run = small_run(tmp_path, recipe__lr=1e20, recipe__optimizer="sgd")
    with pytest.raises(CrossoverError, match=r"training diverged: .* at step .* of 24; lower recipe.lr"):
        execute(run)
    assert not (run.run_dir / "record.json").exists()


def test_cuda_that_is_not_there_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CrossoverError, match=r"use machine.device=cpu"):
        execute(small_run(tmp_path, machine__device="cuda"))


def test_n_train_beyond_the_pool_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match="n_train=1201 is over the pool of 1200"):
        small_run(tmp_path, n_train=1201)


@pytest.mark.parametrize(("total", "evaluations"), [(24, 4), (25, 4), (7, 10), (1, 1), (1000, 10)])
def test_legs_cover_every_step_once(total: int, evaluations: int) -> None:
    bounds = leg_bounds(total, evaluations)
    assert (bounds[0], bounds[-1]) == (0, total)
    assert len(bounds) - 1 == min(total, evaluations)
    assert min(np.diff(bounds)) >= 1


def test_chunks_do_not_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = execute(small_run(tmp_path / "a"))
    assert CHUNK != 4
    monkeypatch.setattr("crossover.training.epochs.CHUNK", 4)
    assert results(execute(small_run(tmp_path / "b"))) == results(plain)


def test_images_that_stream_give_the_numbers_of_resident_ones(tmp_path: Path) -> None:
    resident = execute(small_run(tmp_path / "a"))
    assert results(execute(small_run(tmp_path / "b", machine__resident_gb=0))) == results(resident)


def test_reading_ahead_keeps_the_order_and_stays_a_few_steps_ahead() -> None:
    read: list[int] = []

    def take(step: int) -> Batch:
        read.append(step)
        return torch.full((1,), step), torch.zeros(1)

    for expected, (batch, _) in enumerate(read_ahead(take, range(20))):
        assert batch.item() == expected
        assert len(read) <= expected + 1 + AHEAD
    assert read == list(range(20))


def test_an_error_while_reading_ahead_is_raised_where_the_batch_is_used() -> None:
    def take(step: int) -> Batch:
        if step == 5:
            raise OSError("the disk is gone")
        return torch.zeros(1), torch.zeros(1)

    steps = read_ahead(take, range(20))
    for _ in range(5):
        next(steps)
    with pytest.raises(OSError, match="the disk is gone"):
        next(steps)


def test_peak_memory_is_that_of_the_run(tmp_path: Path) -> None:
    ballast = bytearray(300_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    high = machine.peak_rss_bytes()
    del ballast
    record = execute(small_run(tmp_path))
    assert 5e7 < record["peak_rss_bytes"] < high - 1e8


def test_a_sandbox_that_tells_no_peak_fails_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "VmRSS: 1 kB")
    assert machine.peak_rss_bytes() > 5e7


def test_label_smoothing_floor_is_the_loss_of_the_smoothed_target_itself() -> None:
    target = torch.full((10,), 0.1 / 10)
    target[0] += 0.9
    loss = torch.nn.functional.cross_entropy(target.log()[None], torch.tensor([0]), label_smoothing=0.1)
    assert label_smoothing_floor(0.1, 10) == pytest.approx(float(loss), abs=1e-6)
    assert label_smoothing_floor(0.0, 10) == 0.0
    assert math.isclose(label_smoothing_floor(1.0, 10), math.log(10))


def test_cuda_is_started_before_its_peaks_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("torch.cuda.init", lambda: called.append("init"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: called.append("reset"))
    forget_peaks(torch.device("cuda", 0))
    assert called == ["init", "reset"]
