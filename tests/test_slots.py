"""How many runs go on at a time follows from the devices, the cores or the launcher."""

from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.sweep.slots import slots_for
from tests.worlds import VIT, small_run


def test_a_run_on_several_devices_has_them_in_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    runs = [small_run(tmp_path, model=VIT, trainer={"devices": 2})]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_for(runs, None, 1)] == ["0,1", "2,3"]
    with pytest.raises(CrossoverError, match=r"trainer\.devices=8 is more than the 5 GPUs"):
        slots_for([small_run(tmp_path, model=VIT, trainer={"devices": 8})], None, 1)
