"""Several processes train one run as one process does."""

import json
import multiprocessing
import operator
import os
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from crossover.config import CrossoverError, TrainerConfig
from crossover.training.ranks import ALONE, Rank, companions, this_rank
from crossover.training.run import execute, share_batch_norm
from tests.worlds import VIT, small_run


def test_one_device_is_alone_even_under_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert this_rank(TrainerConfig()) == ALONE


def test_tasks_of_srun_are_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEP_NUM_TASKS": "4", "PROCID": "3", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert this_rank(TrainerConfig(devices=2, num_nodes=2)) == Rank(3, 4, 1, by_slurm=True)
    with pytest.raises(CrossoverError, match="srun --nodes=3 --ntasks-per-node=2"):
        this_rank(TrainerConfig(devices=2, num_nodes=3))


def test_ranks_share_a_batch_without_overlap() -> None:
    rows = [index for rank in range(3) for index in range(12)[Rank(rank, 3).rows(12)]]
    assert rows == list(range(12))


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match="batch_size=16 cannot be split among 3 devices"):
        small_run(tmp_path, trainer={"devices": 3})
    with pytest.raises(CrossoverError, match="engine=graph is for one device"):
        small_run(tmp_path, trainer={"devices": 2}, machine__engine="graph")


def test_devices_are_part_of_the_identity_and_one_is_neutral(tmp_path: Path) -> None:
    one, explicit, two = (small_run(tmp_path, trainer=t).run_id for t in ({}, {"devices": 1}, {"devices": 2}))
    assert one == explicit != two


def test_shared_batch_norm_keeps_the_activation_and_needs_a_gpu() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8))
    with pytest.raises(CrossoverError, match="batch norm needs CUDA"):
        share_batch_norm(network, torch.device("cpu"))
    shared: Any = share_batch_norm(network, torch.device("cuda"))
    assert isinstance(shared[1], SyncBatchNormAct)
    assert isinstance(shared[1].act, nn.ReLU)


def test_no_process_is_left_when_its_end_is_noticed_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waitpid = os.waitpid

    def slow(pid: int, options: int) -> tuple[int, int]:
        found = waitpid(pid, options)
        if found[0] and threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)  # the process is gone, and only this thread knows
        return found

    monkeypatch.setattr(os, "waitpid", slow)
    with companions(small_run(tmp_path, trainer={"devices": 2}), Rank(0, 2), operator.attrgetter("run_id")):
        (other,) = multiprocessing.active_children()
        wait([other.sentinel])
        time.sleep(0.2)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"model": VIT, "recipe__ema_decay": 0.9, "recipe__grad_clip": 1.0}
    changes["augment"] = {"name": "a", "crop": 2, "flip": True, "mixup": 0.8, "cutmix": 1.0}
    one = execute(small_run(tmp_path, **changes))
    run = small_run(tmp_path, trainer={"devices": 2}, **changes)
    two = execute(run)
    assert two == json.loads((run.run_dir / "record.json").read_text())
    assert sorted(path.name for path in run.run_dir.iterdir()) == [
        "predictions.npz",
        "record.json",
        "weights.safetensors",
    ]
    assert [row["step"] for row in two["history"]] == [row["step"] for row in one["history"]]
    for row, other in zip(one["history"], two["history"], strict=True):
        for name in ("train_loss", "val_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-4)
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_run_on_two_processes_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match="training diverged"):
        execute(small_run(tmp_path, model=VIT, trainer={"devices": 2}, recipe__lr=1e20, recipe__optimizer="sgd"))
