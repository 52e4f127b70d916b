"""No step makes a device wait for Python: nothing is read back from it until the next validation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crossover.data import augment
from crossover.training import run as running
from crossover.training.module import Chunk, Classifier
from crossover.training.run import execute
from tests.worlds import VIT, small_run

READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "bincount")
"""Operations whose result, or its shape, Python has to know; `.item()` and `bool()` are the first of them."""
FLIP = {"name": "a", "crop": 2, "flip": True}


class NothingIsRead(TorchDispatchMode):
    """Fails where Python asks for a value."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        )
        filled = by_mask and name != "index" and args[2].numel() == 1  # a masked fill, which needs no positions
        if name in READING or (by_mask and not filled):
            raise AssertionError(f"{name} reads from the device")
        return func(*args, **(kwargs or {}))


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every training step fail that reads a value; return the list of the steps done."""
    train, steps = Classifier.training_step, []

    def watched(module: Classifier, chunk: Chunk) -> None:
        def refuse(tensor: torch.Tensor) -> None:
            raise AssertionError("a tensor becomes a list")

        with NothingIsRead(), monkeypatch.context() as patch:  # type: ignore[no-untyped-call]
            patch.setattr(torch.Tensor, "tolist", refuse)
            train(module, chunk)
        steps.append(module.step)

    monkeypatch.setattr(Classifier, "training_step", watched)
    monkeypatch.setattr(running, "tune_allocator", lambda: None)
    monkeypatch.setattr(augment, "picks", lambda x: False)  # as on a GPU
    return steps


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": VIT | {"args": VIT["args"] | {"drop_path_rate": 0.2}}, "recipe__ema_decay": 0.9},
        {"recipe__optimizer": "sgd", "recipe__grad_clip": 1.0, "augment": FLIP},
        {"augment": FLIP | {"policy": "randaugment", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0}},
        {"augment": {"name": "a", "min_area": 0.08, "policy": "trivialaugment", "cutmix": 1.0}},
        {"machine__resident_gb": 0, "data__permute": {"kind": "patches"}},
    ],
    ids=["plain", "average", "sgd", "randaugment", "trivialaugment", "streamed"],
)
def test_no_training_step_reads_from_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    steps = forbid_reading(monkeypatch)
    execute(small_run(tmp_path, **changes))
    assert steps[-1] == 24


def test_a_step_that_reads_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Classifier.training_step

    def reading(module: Classifier, chunk: Chunk) -> None:
        train(module, chunk)
        assert module._train.sum() > 0

    monkeypatch.setattr(Classifier, "training_step", reading)
    forbid_reading(monkeypatch)
    with pytest.raises(AssertionError, match="_local_scalar_dense reads from the device"):
        execute(small_run(tmp_path))
