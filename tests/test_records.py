import json
from pathlib import Path

import pytest

from crossover.config import CrossoverError
from crossover.record import COLUMNS, RECORD_SCHEMA, runs_table
from crossover.store import (
    freeze,
    read_frozen,
    read_record,
    read_sweep,
    run_state,
    write_atomically,
    write_json,
    write_plan,
)
from tests.worlds import small_run


def test_state_is_read_from_files_alone(tmp_path: Path) -> None:
    states = [run_state(tmp_path)]
    for name in ("last.ckpt", "error.txt", "record.json"):
        (tmp_path / name).write_text("{}")
        states.append(run_state(tmp_path))
    assert states == ["missing", "resumable", "failed", "done"]


@pytest.mark.parametrize("text", ["", '{"schema": 1, "run', "\0\0\0"])
def test_a_torn_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    assert run_state(tmp_path) == "missing"


def test_frozen_config_comes_back_equal_and_a_done_run_keeps_its_own(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    freeze([run])
    assert read_frozen(run.run_dir) == run
    (run.run_dir / "record.json").write_text("{}")
    freeze([small_run(tmp_path, machine={"outputs": run.machine.outputs, "threads": 7})])
    assert read_frozen(run.run_dir).machine.threads == 1


def test_a_torn_config_is_written_again(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    freeze([run])
    path = run.run_dir / "config.yaml"
    path.write_text(path.read_text()[:-20])
    freeze([run])
    assert read_frozen(run.run_dir) == run


def test_torn_config_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text('{"data": ')
    with pytest.raises(CrossoverError, match="repeat the sweep"):
        read_frozen(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "run', "not a whole record"),
        (
            json.dumps({"schema": RECORD_SCHEMA + 1}),
            f"has schema {RECORD_SCHEMA + 1}, this version .* reads {RECORD_SCHEMA}",
        ),
        ("[]", "has schema None"),
    ],
)
def test_records_torn_or_of_another_version_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(CrossoverError, match=message):
        read_record(path)


def test_unknown_sweep_names_those_that_exist(tmp_path: Path) -> None:
    write_plan(tmp_path / "sweeps" / "quick", "quick", "make sweep", [])
    with pytest.raises(CrossoverError, match=r"no sweep 'quack' .* there is quick; make sweep SWEEP=quack"):
        read_sweep(tmp_path, "quack")


def test_table_has_the_contracts_columns() -> None:
    table = runs_table([{"run_id": "a", "test_error": 0.5, "config": {}}])
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert table.loc[0, "test_error"] == 0.5
    assert runs_table([]).empty


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="nan"):
        write_json(path, float("nan"))

    def fill_the_disk(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fill_the_disk)
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]
