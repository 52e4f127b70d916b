import io
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset
from crossover.store import freeze, read_record, read_sweep, run_state, write_plan
from crossover.sweep import pool
from crossover.sweep.__main__ import main
from crossover.sweep.launch import check_data, repeat_command, slots_for
from crossover.sweep.pool import Pool, Progress
from crossover.training import run as running
from crossover.training.run import execute
from scripts.sweep import preload
from tests.worlds import VIT, results, small_run

SILENT = Console(quiet=True)


def quiet(progress: Progress) -> None:
    pass


def planned(tmp_path: Path, *runs: RunConfig) -> None:
    freeze(runs)
    write_plan(tmp_path / "outputs" / "sweeps" / "s", "s", "make sweep SWEEP=s", runs)


def test_pool_does_every_run_once_and_a_second_call_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small_run(tmp_path, seed=seed, n_train=n) for seed in (0, 1) for n in (50, 100)]
    check_data(runs, SILENT)
    planned(tmp_path, *runs)
    seen: list[int] = []
    progress = Pool(runs, slots=[{}, {}], report=lambda p: seen.append(p.count("running"))).run()
    assert set(progress.states.values()) == {"done"}
    assert max(seen) == 2
    before = {run.run_id: (run.run_dir / "record.json").stat().st_mtime_ns for run in runs}
    monkeypatch.setattr(pool, "fork_server", lambda: pytest.fail("a finished sweep started a process"))
    Pool(runs, slots=[{}], report=quiet).run()
    assert before == {run.run_id: (run.run_dir / "record.json").stat().st_mtime_ns for run in runs}
    sweep = read_sweep(tmp_path / "outputs", "s")
    assert [r["run_id"] for r in sweep.records] == [run.run_id for run in runs]
    assert len(sweep.predictions) == 4


def test_failed_run_leaves_its_error_the_others_go_on_and_it_is_tried_again(tmp_path: Path) -> None:
    good, bad = small_run(tmp_path), small_run(tmp_path, recipe__lr=1e20, recipe__optimizer="sgd")
    planned(tmp_path, bad, good)
    for _ in range(2):
        progress = Pool([bad, good], slots=[{}], report=quiet).run()
        assert progress.states == {bad.run_id: "failed", good.run_id: "done"}
    assert "training diverged" in read_sweep(tmp_path / "outputs", "s").errors[bad.run_id]


def test_killed_run_fails_alone_and_resumes(tmp_path: Path) -> None:
    whole = small_run(tmp_path / "whole", budget={"steps": 400, "evaluations": 20})
    planned(tmp_path / "whole", whole)
    Pool([whole], slots=[{}], report=quiet).run()
    run = small_run(tmp_path, budget={"steps": 400, "evaluations": 20})
    planned(tmp_path, run)

    def kill_when_half_way(progress: Progress) -> None:
        deadline = time.monotonic() + 60
        while not (run.run_dir / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        owner = (run.run_dir / "lock").read_text()
        os.kill(int(owner.split('"pid": ')[1].split(",")[0]), signal.SIGKILL)

    killed = False

    def kill_once(progress: Progress) -> None:
        nonlocal killed
        if not killed and progress.count("running"):
            killed = True
            kill_when_half_way(progress)

    progress = Pool([run], slots=[{}], report=kill_once).run()
    assert progress.states == {run.run_id: "failed"}
    assert "signal 9" in (run.run_dir / "error.txt").read_text()
    assert (run.run_dir / "last.ckpt").exists()
    Pool([run], slots=[{}], report=quiet).run()
    assert results(read_record(run.run_dir / "record.json")) == results(read_record(whole.run_dir / "record.json"))
    assert run_state(run.run_dir) == "done"


def test_missing_or_small_data_is_refused_before_any_run_starts(tmp_path: Path) -> None:
    folder = {"kind": "folder", "name": "pets", "root": "pets", "image_size": 16, "val_fraction": 0.1}
    with pytest.raises(CrossoverError, match="pets"):
        check_data([small_run(tmp_path, data=folder)], SILENT)


def write_pets(root: Path, first: int) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(6):
                shade = Image.new("RGB", (16, 16), (first + i, 100 * label, 0))
                shade.save(root / part / name / f"{i}.png")


def test_finished_runs_are_not_taken_for_those_of_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders under one name, a changed folder, and one that was made anew."""
    monkeypatch.setattr(running, "tune_allocator", lambda: None)  # it is for the whole process
    pets = {"kind": "folder", "name": "pets", "root": str(tmp_path / "pets"), "image_size": 16, "val_fraction": 0.2}
    write_pets(tmp_path / "pets", 0)
    write_pets(tmp_path / "other", 50)
    first, same = (
        small_run(tmp_path, data=pets | {"root": str(tmp_path / name)}, n_train=8) for name in ("pets", "other")
    )
    assert first.run_id == same.run_id
    execute(first)
    check_data([first], SILENT)
    with pytest.raises(CrossoverError, match=r"1 finished runs, such as .*other images .*data.name=NAME"):
        check_data([same], SILENT)
    (tmp_path / "pets/train/cat/0.png").rename(tmp_path / "pets/train/dog/new.png")
    with pytest.raises(CrossoverError, match=r"have changed since .*rebuild=true"):
        check_data([first], SILENT)
    open_dataset(first.data, tmp_path / "data", rebuild=True)
    with pytest.raises(CrossoverError, match="were done with other images"):
        check_data([first], SILENT)
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / "pets")
    check_data([first], SILENT)  # done, and nothing is left that could differ


def test_one_slot_per_core_without_gpus_and_runs_per_gpu_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_for([], None, 3) == [{}] * len(os.sched_getaffinity(0))
    assert slots_for([], 5, 1) == [{}] * 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_for([], None, 2)] == ["2", "GPU-abc", "2", "GPU-abc"]


def test_a_logger_that_is_not_installed_is_named_before_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(CrossoverError, match="logger=wandb_offline needs the package wandb"):
        check_data([small_run(tmp_path, logger={"kind": "wandb_offline"})], SILENT)
    console = Console(file=io.StringIO(), width=200)
    check_data([small_run(tmp_path)], console)
    assert console.file.getvalue().count("training images to draw from") == 1  # type: ignore[attr-defined]


def test_a_sweep_that_logs_nothing_needs_no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    preload()


def test_a_run_on_several_devices_has_them_in_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    runs = [small_run(tmp_path, model=VIT, trainer={"devices": 2})]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_for(runs, None, 1)] == ["0,1", "2,3"]
    with pytest.raises(CrossoverError, match=r"trainer\.devices=8 is more than the 5 GPUs"):
        slots_for([small_run(tmp_path, model=VIT, trainer={"devices": 8})], None, 1)


def test_a_group_is_done_once_and_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a pod or a batch job does: python -m crossover.sweep RUN_ID..."""
    outputs = tmp_path / "outputs"
    good, other = small_run(tmp_path), small_run(tmp_path, seed=1)
    bad = small_run(tmp_path, recipe__lr=1e20, recipe__optimizer="sgd")
    freeze([good, other, bad])
    *_, command = shlex.split(repeat_command(outputs, [good.run_id, other.run_id]))[:3]
    assert command == "crossover.sweep"
    arguments = shlex.split(repeat_command(outputs, [good.run_id, other.run_id]))[3:]
    assert main([*arguments, "--parallel", "2"]) == 0
    record = good.run_dir / "record.json"
    before = record.stat().st_mtime_ns
    assert main(["--outputs", str(outputs), good.run_id, bad.run_id]) == 1
    assert record.stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert f"failed: {bad.run_id}: " in said
    assert "training diverged" in said
    assert f"repeat: {repeat_command(outputs, [bad.run_id])}" in said
    assert [run_state(run.run_dir) for run in (good, other, bad)] == ["done", "done", "failed"]


def test_a_run_that_was_never_planned_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossoverError, match=r"nothing/config\.yaml cannot be read .*repeat the sweep"):
        main(["--outputs", str(tmp_path), "nothing"])
