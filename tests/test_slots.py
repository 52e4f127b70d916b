"""How many runs go on at a time follows from the devices, or from what a probe measured."""

from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.sweep import slots
from crossover.sweep.launch import parse_launcher
from crossover.sweep.slots import LIMIT, best_density, slots_for
from tests.worlds import VIT, small_run


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({1: 100, 2: 90}, 1),
        ({1: 100, 2: 190, 4: 300, 8: 310}, 4),
        ({1: 100, 2: 190, 4: None}, 2),  # four do not fit
        ({k: 100 * k for k in (1, 2, 4, 8, 16)}, LIMIT),
    ],
)
def test_the_probe_doubles_the_runs_while_they_gain(rates: dict[int, float | None], best: int) -> None:
    asked = []

    def measure(count: int) -> float:
        asked.append(count)
        rate = rates[count]
        if rate is None:
            raise CrossoverError("out of memory")
        return rate

    assert best_density(measure) == best
    assert asked == list(rates)


def test_auto_takes_the_answer_of_the_model_that_wants_fewest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runs = [small_run(tmp_path), small_run(tmp_path, model=VIT)]
    answers = iter([4, 2])
    monkeypatch.setattr(slots, "best_density", lambda measure: next(answers))
    assert len(slots_for(runs, None, "auto")) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_for(runs, None, "auto") == slots_for(runs, None, 1)


def test_a_run_on_several_devices_has_them_in_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    runs = [small_run(tmp_path, model=VIT, trainer={"devices": 2})]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots_for(runs, None, 1)] == ["0,1", "2,3"]
    with pytest.raises(CrossoverError, match=r"trainer\.devices=8 is more than the 5 GPUs"):
        slots_for([small_run(tmp_path, model=VIT, trainer={"devices": 8})], None, 1)


def test_launchers_accept_a_number_or_auto() -> None:
    assert parse_launcher({"kind": "local", "runs_per_gpu": "auto"}).runs_per_gpu == "auto"
    with pytest.raises(CrossoverError, match="runs_per_gpu"):
        parse_launcher({"kind": "local", "runs_per_gpu": "many"})
