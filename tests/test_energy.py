import time
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

from crossover.training import energy
from crossover.training.energy import Cpu, Gpu, Meter, counter_of
from crossover.training.run import execute
from crossover.vocabulary import ENERGY, run_summary
from tests.worlds import small_run


class Nvml:
    """NVML of one GPU with `processes` on it and a counter of its own, in millijoules."""

    def __init__(self, *, counts: bool = True) -> None:
        self.millijoules, self.processes, self.counts, self.asked = 5_000_000, 1, counts, ""

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked = uuid
        return "the handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        assert device == "the handle"
        if not self.counts:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, device: str) -> list[object]:
        return [object()] * self.processes


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml()
    monkeypatch.setattr(energy, "pynvml", fake)
    return fake


class Powercap:
    """Two CPU packages; what is inside the first, and all of the board, are not counted again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for zone, name in (("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")):
            (folder / f"intel-rapl:{zone}").mkdir()
            (folder / f"intel-rapl:{zone}" / "name").write_text(f"{name}\n")
            (folder / f"intel-rapl:{zone}" / "max_energy_range_uj").write_text("1000000000\n")
            self.set(zone, 0)

    def set(self, zone: str, joules: int) -> None:
        (self.folder / f"intel-rapl:{zone}" / "energy_uj").write_text(f"{joules * 1_000_000}\n")


def test_gpu_counts_joules_from_its_start(nvml: Nvml) -> None:
    gpu = Gpu("GPU-1234")
    nvml.millijoules += 2_500_000
    assert gpu.joules() == 2500.0
    assert gpu.alone()
    assert nvml.asked == "GPU-1234"


@pytest.mark.parametrize("seen", [0, 2])
def test_gpu_with_other_processes_or_unknown_ones_has_no_number(nvml: Nvml, seen: int) -> None:
    gpu = Gpu("GPU-1234")
    nvml.processes = seen
    gpu.joules()
    nvml.processes = 1  # gone again
    gpu.joules()
    assert not gpu.alone()


def test_gpu_without_a_counter_is_none(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    assert counter_of(torch.device("cuda")) is not None
    assert nvml.asked == "GPU-1234"
    nvml.counts = False
    assert counter_of(torch.device("cuda")) is None


def test_cpu_adds_its_packages_and_goes_on_where_a_counter_begins_again(tmp_path: Path) -> None:
    powercap = Powercap(tmp_path)
    powercap.set("0", 900)
    cpu = Cpu(tmp_path)
    for zone, joules in (("0", 950), ("0:0", 30), ("1", 20), ("2", 400)):
        powercap.set(zone, joules)
    assert cpu.joules() == 70.0
    powercap.set("0", 100)  # after 1,000
    assert cpu.joules() == 220.0


@pytest.mark.parametrize(("of_all", "alone"), [(1.05, True), (2.0, False)])
def test_cpu_is_alone_when_the_machine_does_nothing_else(tmp_path: Path, of_all: float, alone: bool) -> None:
    Powercap(tmp_path)
    cpu = Cpu(tmp_path, busy=lambda: of_all * time.process_time())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert cpu.alone() == alone


def test_meter_says_nothing_without_a_counter_or_when_it_breaks(tmp_path: Path) -> None:
    with Meter(None) as meter:
        pass
    assert meter.stop() is None
    powercap = Powercap(tmp_path)
    with Meter(Cpu(tmp_path)) as meter:
        (powercap.folder / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.stop() is None


def test_record_and_summary_have_the_energy_of_a_whole_run(
    nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counter(device: torch.device) -> Gpu:
        gpu = Gpu("GPU-1234")
        nvml.millijoules += 1_500_000
        return gpu

    monkeypatch.setattr("crossover.training.run.counter_of", counter)
    record = execute(small_run(tmp_path))
    assert record["energy_joules"] == 1500.0
    assert run_summary(record, gpus=1)[ENERGY] == 1500.0
    assert ENERGY not in run_summary(record | {"energy_joules": None}, gpus=1)


def test_machine_without_counters_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    assert counter_of(torch.device("cpu")) is None
