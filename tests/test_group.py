"""What a pod or a batch job does: python -m crossover.sweep RUN_ID..."""

import shlex
from pathlib import Path

import pytest

from crossover.store import freeze, run_state
from crossover.sweep.__main__ import main
from crossover.sweep.launch import repeat_command
from tests.worlds import small_run


def test_a_group_is_done_once_and_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_run_that_was_never_planned_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--outputs", str(tmp_path), "nothing"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "repeat the sweep" in said
    assert len(said.splitlines()) == 1
