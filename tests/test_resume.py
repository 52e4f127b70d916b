"""Claims about a run that was stopped, killed or damaged: it goes on as if nothing had happened, or begins again."""

import resource
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossover.config import CrossoverError
from crossover.data.cache import open_dataset
from crossover.training.epochs import ResumePoint, StoppedError, whole
from crossover.training.module import Chunk, Classifier
from crossover.training.run import execute
from tests.stopped import KilledError, stop_after, stopped
from tests.worlds import VIT, results, small_run

pytestmark = pytest.mark.usefixtures("untuned")
Unstopped = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory: pytest.TempPathFactory) -> Unstopped:
    """Return a function that gives the results of a run that nothing stopped; each is trained once."""
    folder, known = tmp_path_factory.mktemp("unstopped"), dict[str, dict[str, Any]]()

    def results_of(**changes: Any) -> dict[str, Any]:
        run = small_run(folder, **changes)
        if run.run_id not in known:
            known[run.run_id] = results(execute(run))
        return known[run.run_id]

    return results_of


@pytest.mark.parametrize("leg", [0, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"budget": {"steps": 25, "evaluations": 4}, "recipe__ema_decay": 0.9},
        {"model": VIT | {"args": VIT["args"] | {"drop_path_rate": 0.2}}},
    ],
)
def test_resumed_run_is_equal_to_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unstopped: Unstopped, leg: int, changes: dict[str, Any]
) -> None:
    run = small_run(tmp_path, **changes)
    with monkeypatch.context() as patch:
        stop_after(patch, leg)
        with pytest.raises(KilledError):
            execute(run)
    assert (run.run_dir / "last.ckpt").exists()
    assert results(execute(run)) == unstopped(**changes)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse what a file has beyond a size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["last.ckpt", "weights.safetensors"])
def test_a_disk_that_fills_up_is_an_error_of_a_named_file_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unstopped: Unstopped, name: str
) -> None:
    """torch and safetensors write by themselves, with errors of their own that do not say what happened."""
    run = small_run(tmp_path)
    open_dataset(run.data, tmp_path / "data")
    with monkeypatch.context() as patch, files_of_at_most(4_000):
        if name != "last.ckpt":
            patch.setattr(ResumePoint, "_save", lambda *_: None)
        with pytest.raises(OSError, match="File too large") as caught:
            execute(run)
    assert caught.value.filename == str(run.run_dir / name)
    assert [path.name for path in run.run_dir.iterdir() if path.name.endswith((".tmp", name))] == []
    assert results(execute(run)) == unstopped()


class StopAt(threading.Event):
    """Is set once the module has done `step` steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        super().__init__()
        train = Classifier.training_step

        def train_then_tell(module: Classifier, chunk: Chunk) -> None:
            train(module, chunk)
            if module.step >= step:
                self.set()

        monkeypatch.setattr(Classifier, "training_step", train_then_tell)


@pytest.mark.parametrize(("step", "stopped"), [(4, 4), (12, 12), (21, 22), (36, 36)])
def test_a_run_asked_to_stop_saves_within_a_chunk_and_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unstopped: Unstopped, step: int, stopped: int
) -> None:
    changes: dict[str, Any] = {"budget": {"steps": 36, "evaluations": 3}, "recipe__ema_decay": 0.9}
    run, expected = small_run(tmp_path, **changes), unstopped(**changes)
    monkeypatch.setattr("crossover.training.epochs.CHUNK", 5 if step == 21 else 4)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        execute(run, StopAt(patch, step))
    saved = torch.load(run.run_dir / "last.ckpt", weights_only=True)["crossover"]
    assert saved["step"] == stopped
    assert not (run.run_dir / "record.json").exists()
    assert results(execute(run)) == expected


def test_a_run_stopped_twice_in_one_leg_keeps_its_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unstopped: Unstopped
) -> None:
    changes: dict[str, Any] = {"budget": {"steps": 24, "evaluations": 1}}
    run, expected = small_run(tmp_path, **changes), unstopped(**changes)
    monkeypatch.setattr("crossover.training.epochs.CHUNK", 3)
    for step in (3, 15):
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            execute(run, StopAt(patch, step))
    record = execute(run)
    assert len(record["history"]) == 1
    assert results(record) == expected


def test_a_run_goes_on_with_another_engine_than_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unstopped: Unstopped
) -> None:
    run = small_run(tmp_path)
    checkpoint = stopped(run, monkeypatch)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        group |= {"capturable": True, "lr": torch.tensor(0.123)}  # as a run on CUDA graphs saves it
    torch.save(checkpoint, run.run_dir / "last.ckpt")
    assert results(execute(run)) == unstopped()


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path)
    checkpoint = stopped(run, monkeypatch)
    torch.save(checkpoint | {"dataset_hash": "of others"}, run.run_dir / "last.ckpt")
    with pytest.raises(CrossoverError, match="began with other images"):
        execute(run)


def test_processes_of_a_run_ask_each_other_every_ten_steps_alone(tmp_path: Path) -> None:
    asked: list[int] = []
    module: Any = SimpleNamespace(step=0)

    def reduce_boolean_decision(stop: bool, **_: bool) -> bool:
        asked.append(module.step)
        return stop

    strategy = SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision)
    point = ResumePoint(tmp_path / "last.ckpt", [0, 20, 50], threading.Event(), {})
    trainer: Any = SimpleNamespace(world_size=2, strategy=strategy)
    for module.step in range(1, 41):
        point.on_train_batch_end(trainer, module)
    assert asked == [10, 21, 31]  # at step 20 comes a validation


def test_a_torn_checkpoint_starts_the_run_again(tmp_path: Path, unstopped: Unstopped) -> None:
    run = small_run(tmp_path)
    run.run_dir.mkdir(parents=True)
    (run.run_dir / "last.ckpt").write_bytes(b"PK\x03\x04 half a checkpoint")
    assert results(execute(run)) == unstopped()


def test_ranks_that_meet_a_torn_checkpoint_together_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, both, read = tmp_path / "last.ckpt", threading.Barrier(2), zipfile.ZipFile

    def together(path: Path) -> zipfile.ZipFile:
        try:
            return read(path)
        finally:
            both.wait(10)  # both have seen the damage before either removes the file

    monkeypatch.setattr(zipfile, "ZipFile", together)
    for content in (b"", b"PK\x03\x04 and no more"):
        checkpoint.write_bytes(content)
        with ThreadPoolExecutor(2) as ranks:
            assert list(ranks.map(whole, [checkpoint] * 2)) == [None, None]
        assert not checkpoint.exists()


def test_a_rank_that_comes_after_the_removal_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, read = tmp_path / "last.ckpt", zipfile.ZipFile

    def late(path: Path) -> zipfile.ZipFile:
        path.unlink()
        return read(path)

    monkeypatch.setattr(zipfile, "ZipFile", late)
    checkpoint.write_bytes(b"torn")
    assert whole(checkpoint) is None
    assert whole(checkpoint) is None


def test_a_checkpoint_with_one_flipped_byte_starts_the_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unstopped: Unstopped
) -> None:
    run = small_run(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KilledError):
            execute(run)
    content = bytearray((run.run_dir / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (run.run_dir / "last.ckpt").write_bytes(bytes(content))
    assert results(execute(run)) == unstopped()
    assert "is damaged" in capsys.readouterr().out
