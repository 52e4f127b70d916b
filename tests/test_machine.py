"""What a run computes on: the GPUs that are there, those that torch can use, and the packages that are installed."""

import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crossover.config import CrossoverError
from crossover.data.loader import resident_limit
from crossover.training import machine, ranks
from crossover.training.machine import package_versions, resolve_device
from crossover.training.ranks import visible_gpus
from tests.worlds import small_run


class NVMLError(Exception):
    pass


class Driver(SimpleNamespace):
    """Stands for NVML on a machine with GPUs of these UUIDs."""

    NVMLError = NVMLError

    def __init__(self, gpus: list[str]) -> None:
        super().__init__(gpus=gpus, open=False)

    def nvmlInit(self) -> None:
        if not self.gpus:
            raise NVMLError("Driver Not Loaded")
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        assert self.open
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, device: str) -> str:
        return device


def test_gpus_are_named_by_their_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(["GPU-a", "GPU-b"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert visible_gpus() == ["GPU-a", "GPU-b"]
    assert not driver.open


@pytest.mark.parametrize("driver", [None, Driver([])], ids=["no package", "no driver"])
def test_without_nvml_a_lone_device_file_is_cudas_first_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(ranks, "DEVICES", tmp_path)
    assert visible_gpus() == []
    for name in ("nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus() == ["0"]


def test_the_users_choice_of_gpus_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"2,GPU-abc": ["2", "GPU-abc"], "0, MIG-1": ["0", "MIG-1"]}
    for value, gpus in (chosen | {value: [] for value in ("", "-1", "NoDevFiles", "nonsense")}).items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == gpus


def without_cuda(monkeypatch: pytest.MonkeyPatch, gpus: list[str]) -> None:
    def unavailable() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old\nmore", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(machine, "installed_gpus", lambda: gpus)
    monkeypatch.setattr(machine, "visible_gpus", lambda: gpus)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    without_cuda(monkeypatch, ["GPU-a"])
    run = small_run(tmp_path, machine__device=device)
    with pytest.raises(
        CrossoverError, match=r"GPU-a.* cannot use.*driver on your system is too old.*device=cpu"
    ) as caught:
        resolve_device(run)
    assert "\n" not in str(caught.value)


def test_without_a_gpu_and_when_asked_for_a_run_is_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda(monkeypatch, [])
    assert resolve_device(small_run(tmp_path, machine__device="auto")).type == "cpu"
    without_cuda(monkeypatch, ["GPU-a"])
    assert resolve_device(small_run(tmp_path, machine__device="cpu")).type == "cpu"


@pytest.mark.parametrize("chosen", ["0", "nonsense"])
def test_a_choice_of_gpus_where_there_is_none_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    """It said that torch cannot use the GPU 0."""
    without_cuda(monkeypatch, [])
    monkeypatch.setattr(machine, "visible_gpus", visible_gpus)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert resolve_device(small_run(tmp_path, machine__device="auto")).type == "cpu"


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name in ("crossover", "hydra-core", "wandb"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(machine, "version", missing)
    assert set(package_versions()) == {"python", "torch", "torchvision", "timm", "pytorch-lightning", "numpy"}


@pytest.mark.parametrize(
    ("device", "asked", "limit"),
    [("cpu", None, 4e9), ("cpu", 1, 1e9), ("cpu", 1e3, 16e9), ("cuda", None, 16e9), ("cuda", 1, 1e9)],
)
def test_what_stays_in_memory_follows_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, asked: Any, limit: float
) -> None:
    monkeypatch.setattr("crossover.data.loader.free_bytes", lambda device: 64e9)
    assert resident_limit(asked, torch.device(device)) == limit
