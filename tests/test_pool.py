"""What the pool does when runs fail, do not fit, or are told to stop; training itself is replaced."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

import crossover.training.run  # noqa: F401 - once, not in each process
from crossover.config import CrossoverError, RunConfig
from crossover.store import freeze, run_state
from crossover.sweep import pool
from crossover.sweep.job import explain, is_out_of_memory
from crossover.sweep.pool import Pool, Progress
from tests.worlds import small_run

Execute = Callable[[RunConfig, object], None]
Replace = Callable[[Execute], None]


@pytest.fixture
def replace_execute(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Return a function that sets what a run does; its processes are forked from this one."""
    monkeypatch.setattr(pool, "fork_server", lambda: multiprocessing.get_context("fork"))
    return lambda execute: monkeypatch.setattr("crossover.training.run.execute", execute)


def finish(run: RunConfig) -> None:
    (run.run_dir / "record.json").write_text("{}")


def planned(folder: Path, count: int) -> list[RunConfig]:
    runs = [small_run(folder, seed=seed) for seed in range(count)]
    freeze(runs)
    return runs


def slots(**per_gpu: int) -> list[dict[str, str]]:
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu, count in per_gpu.items() for _ in range(count)]


def test_out_of_memory_halves_the_runs_on_a_device_and_loses_none(tmp_path: Path, replace_execute: Replace) -> None:
    runs, fit = planned(tmp_path, 8), 2
    pool = Pool(runs, slots=slots(A=8), report=lambda _: None)

    def execute(run: RunConfig, stop: object) -> None:
        if pool.progress.slots > fit:  # as it was when this process was forked
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finish(run)

    replace_execute(execute)
    progress = pool.run()
    assert set(progress.states.values()) == {"done"}
    assert progress.notes == [
        "out of memory with 8 runs on GPU A: going on with 4",
        "out of memory with 4 runs on GPU A: going on with 2",
    ]
    assert progress.slots == 2
    assert not list((tmp_path / "outputs").rglob("error.txt"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),  # what torch.AcceleratorError is
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),  # cuDNN, for want of workspace
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_every_way_to_say_that_memory_is_short_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert "out of device memory" in explain(error)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert issubclass(torch.AcceleratorError, RuntimeError)
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(OSError("out of memory"))


def test_a_run_that_does_not_fit_alone_fails_with_advice(tmp_path: Path, replace_execute: Replace) -> None:
    (run,) = planned(tmp_path, 1)

    def execute(run: RunConfig, stop: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    replace_execute(execute)
    assert Pool([run], slots=slots(A=1), report=lambda _: None).run().states == {run.run_id: "failed"}
    last = (run.run_dir / "error.txt").read_text().splitlines()[-1]
    assert last.startswith("out of device memory (CUDA out of memory); lower recipe.batch_size")


def test_slots_differ_and_the_log_says_where_a_run_was(tmp_path: Path, replace_execute: Replace) -> None:
    runs, both = planned(tmp_path, 4), multiprocessing.get_context("fork").Barrier(2)

    def execute(run: RunConfig, stop: object) -> None:
        both.wait(60)  # for the one on the other device
        finish(run)

    replace_execute(execute)
    Pool(runs, slots=slots(A=1, B=1), report=lambda _: None).run()
    logs = [(run.run_dir / "log.txt").read_text() for run in runs]
    assert sorted(log.split("CUDA_VISIBLE_DEVICES=")[1].split()[0] for log in logs) == ["A", "A", "B", "B"]
    assert all(log.startswith("started 20") and "host=" in log for log in logs)


def test_a_run_is_no_rank_of_the_slurm_job_around_it(
    tmp_path: Path, replace_execute: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = planned(tmp_path, 1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_PROCID", "3")

    def execute(run: RunConfig, stop: object) -> None:
        left = [name for name in os.environ if name.startswith("SLURM")]
        (run.run_dir / "record.json").write_text(json.dumps(left))

    replace_execute(execute)
    Pool([run], slots=[{}], report=lambda _: None).run()
    assert json.loads((run.run_dir / "record.json").read_text()) == []
    assert " job=7" in (run.run_dir / "log.txt").read_text()


def test_stopped_pool_lets_its_runs_save_and_kills_those_that_do_not(
    tmp_path: Path, replace_execute: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, deaf = planned(tmp_path, 2)
    join = BaseProcess.join

    def join_at_once(process: BaseProcess, timeout: float | None = None) -> None:
        """Wait for the deaf one as if its time were over."""
        join(process, 0 if timeout is not None and process.name == deaf.run_id else timeout)

    monkeypatch.setattr(BaseProcess, "join", join_at_once)

    def execute(run: RunConfig, stop: object) -> None:
        from crossover.training.epochs import StoppedError

        (run.run_dir / "started").touch()
        if run.run_id == deaf.run_id:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()
        assert stop.wait(30)  # type: ignore[attr-defined]
        (run.run_dir / "last.ckpt").touch()
        raise StoppedError

    def interrupt(progress: Progress) -> None:
        if all((run.run_dir / "started").exists() for run in (saving, deaf)):
            raise KeyboardInterrupt

    replace_execute(execute)
    with pytest.raises(KeyboardInterrupt):
        Pool([saving, deaf], slots=[{}, {}], report=interrupt).run()
    assert run_state(saving.run_dir) == "resumable"
    assert run_state(deaf.run_dir) == "missing"
    assert multiprocessing.active_children() == []


def test_a_pool_without_patience_leaves_to_others_what_they_hold(tmp_path: Path, replace_execute: Replace) -> None:
    mine, theirs = planned(tmp_path, 2)
    (theirs.run_dir / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
    replace_execute(lambda run, stop: finish(run))
    progress = Pool([theirs, mine], slots=[{}], report=lambda _: None, patience=0.1).run()
    assert progress.states == {theirs.run_id: "running", mine.run_id: "done"}


def test_a_full_disk_is_told_and_the_others_go_on(
    tmp_path: Path, replace_execute: Replace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = planned(tmp_path, 2)

    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    def execute(run: RunConfig, stop: object) -> None:
        if run.run_id == bad.run_id:
            os._exit(9)
        finish(run)

    monkeypatch.setattr(pool, "write_text", refuse)
    replace_execute(execute)
    progress = Pool([bad, good], slots=[{}], report=lambda _: None).run()
    assert progress.states == {bad.run_id: "failed", good.run_id: "done"}
    assert progress.notes[0].startswith(f"{bad.run_id} ended with exit status 9; ")
    assert progress.notes[0].endswith("free some space and repeat the command: what is done is kept")


def test_an_error_of_a_file_says_what_to_do(tmp_path: Path, replace_execute: Replace) -> None:
    (run,) = planned(tmp_path, 1)

    def execute(run: RunConfig, stop: object) -> None:
        raise OSError(28, "No space left on device", "last.ckpt")

    replace_execute(execute)
    Pool([run], slots=[{}], report=lambda _: None).run()
    assert (run.run_dir / "error.txt").read_text().splitlines()[-1].startswith("last.ckpt: the disk is full")


def test_what_was_torn_beside_a_run_does_not_stop_the_pool(tmp_path: Path, replace_execute: Replace) -> None:
    torn, good = planned(tmp_path, 2)
    (torn.run_dir / "config.yaml").write_text("{")
    replace_execute(lambda run, stop: finish(run))
    progress = Pool([torn, good], slots=[{}], report=lambda _: None).run()
    assert progress.states == {torn.run_id: "failed", good.run_id: "done"}
    last = (torn.run_dir / "error.txt").read_text().splitlines()[-1]
    assert last.endswith("repeat the sweep")
    assert "config.yaml cannot be read (Expecting" in last


def test_a_missing_log_folder_is_one_line(tmp_path: Path) -> None:
    from crossover.sweep.job import run_process

    process = multiprocessing.get_context("fork").Process(target=run_process, args=(tmp_path / "nowhere", {}))
    process.start()
    process.join(30)
    assert process.exitcode == 1


def test_divergence_is_kept_as_one_line(tmp_path: Path, replace_execute: Replace) -> None:
    (run,) = planned(tmp_path, 1)

    def execute(run: RunConfig, stop: object) -> None:
        raise CrossoverError("training diverged")

    replace_execute(execute)
    Pool([run], slots=[{}], report=lambda _: None).run()
    assert (run.run_dir / "error.txt").read_text() == "training diverged\n"


def test_what_was_half_written_by_one_that_lost_its_lock_is_gone(tmp_path: Path, replace_execute: Replace) -> None:
    def execute(run: RunConfig, stop: object) -> None:
        finish(run)  # the one that took over
        (run.run_dir / ".last.ckpt.host.1.tmp").write_text("half")
        os._exit(75)  # the one that lost, at its next heartbeat

    replace_execute(execute)
    (run,) = planned(tmp_path, 1)
    assert Pool([run], slots=[{}], report=lambda _: None).run().count("done") == 1
    assert not list(run.run_dir.glob(".*.tmp"))


def test_one_that_lost_its_lock_fails_no_run_that_is_done(tmp_path: Path, replace_execute: Replace) -> None:
    def execute(run: RunConfig, stop: object) -> None:
        finish(run)
        raise FileNotFoundError("its temporary file is gone")

    replace_execute(execute)
    (run,) = planned(tmp_path, 1)
    assert Pool([run], slots=[{}], report=lambda _: None).run().count("done") == 1
    assert not (run.run_dir / "error.txt").exists()
