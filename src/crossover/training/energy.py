"""How much energy did a run take? By the counter of its device, where there is one and the run had the device alone."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

import pynvml
import torch

POWERCAP = Path("/sys/class/powercap")
LEAST_SHARE = 0.9
"""Of the machine's busy CPU time that must be a run's own; else the energy of the CPU is not that of the run."""
SECONDS = 60.0
"""Between readings: a counter of a CPU goes through its range in some minutes."""

UNREADABLE = (OSError, pynvml.NVMLError)


class Counter(Protocol):
    """Counts the joules of a device since it was made."""

    def joules(self) -> float:
        """Raise one of UNREADABLE when the counter cannot be read."""
        ...

    def alone(self) -> bool:
        """Return whether the energy was for this process."""
        ...


class Gpu:
    """NVML's counter of a whole GPU and its memory, in millijoules since the driver was loaded (Volta and later).

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption. Alone is who is the only process with a context on
    the GPU, at every reading; in a container that sees no process nothing is known.
    """

    def __init__(self, uuid: str) -> None:
        pynvml.nvmlInit()
        self._device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._start = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._device)
        self._shared = self._others()

    def joules(self) -> float:
        self._shared |= self._others()
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._device) - self._start) / 1e3

    def alone(self) -> bool:
        return not self._shared

    def _others(self) -> bool:
        return len(pynvml.nvmlDeviceGetComputeRunningProcesses(self._device)) != 1


def _busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have taken (proc(5): /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Cpu:
    """RAPL's counters of all CPU packages of the machine: microjoules that begin again at `max_energy_range_uj`.

    Source: Documentation/power/powercap in the Linux kernel. Linux lets only root read them, unless told otherwise.
    """

    def __init__(self, powercap: Path, busy: Callable[[], float] = _busy_seconds) -> None:
        zones = sorted(powercap.glob("intel-rapl:*"))  # AMD's as well
        self._zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not self._zones:
            raise OSError(f"{powercap} has no CPU package")
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = self._now()
        self._total = 0
        self._busy = busy
        self._started = (time.process_time(), self._busy())

    def joules(self) -> float:
        now = self._now()
        self._total += sum((n - last) % span for n, last, span in zip(now, self._last, self._ranges, strict=True))
        self._last = now
        return self._total / 1e6

    def alone(self) -> bool:
        own, everyone = time.process_time() - self._started[0], self._busy() - self._started[1]
        return own >= LEAST_SHARE * everyone

    def _now(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


def _number(path: Path) -> int:
    return int(path.read_text())


class Meter:
    """Reads a counter, if there is one, until it is stopped or its `with` block ends."""

    def __init__(self, counter: Counter | None) -> None:
        self._counter = counter
        self._joules: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> float | None:
        """Return the joules since the start; None when others used the device, or its counter could not be read."""
        self._end.set()
        self._thread.join()
        return self._joules

    def _watch(self) -> None:
        if self._counter is None:
            return
        with contextlib.suppress(*UNREADABLE):
            while not self._end.wait(SECONDS):
                self._counter.joules()
            joules = self._counter.joules()
            self._joules = joules if self._counter.alone() else None


def counter_of(device: torch.device) -> Counter | None:
    """Return the counter of a device that has one which this process may read."""
    try:
        if device.type == "cuda":
            return Gpu(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return Cpu(POWERCAP)
    except UNREADABLE:  # no such library, function, file or right
        return None
