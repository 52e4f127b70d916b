import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossover.cli import one_line, run_app
from crossover.config import CrossoverError
from crossover.store import LONGEST_NAME, write_plan
from tests.conftest import Called

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sweep.py sweep=quack", "no sweep named 'quack'; there is ablate-augment"),
        ("sweep.py swep=quick", "unknown key swep (did you mean sweep?); there is"),
        ("sweep.py set=['data.alhpa=0']", "unknown key data.alhpa (did you mean alpha?); there is"),
        ("sweep.py set=['n_train=5']", "n_train is an axis of sweep quick"),
        (
            "train.py budget.epochs=2",
            "exactly one of budget.steps, epochs, examples, flops; got budget.steps=640, budget.epochs=2",
        ),
        ("train.py model=null", "a group, such as model or data, takes the name of a file in conf/GROUP"),
        ("sweep.py budget.steps=3", "budget is no setting of this command but of its runs: SET="),
        ("sweep.py data=cifar10", "data is no setting of this command but of its runs: SET="),
        ("sweep.py seed=5", "seed is no setting of this command but of its runs: SET="),
        (
            "sweep.py set=['machine.outputs=there']",
            "machine.outputs of a sweep is where the command writes: ARGS=outputs",
        ),
        ("train.py recipe.betas=[0.9,0.95]", "recipe.betas has no value in conf/ to replace; add it with a plus: +rec"),
        (
            "sweep.py sweep.axes.seed=[1]",
            "sweep.axes.seed has no value in conf/ to replace; add it with a plus: +sweep",
        ),
        ("train.py n_train=5", "n_train=5 is below the 10 classes of cues"),
        ("train.py data=folder data.name=pets data.root=nowhere", "nowhere"),
        ("report.py name=quack", "no sweep 'quack'"),
        ("report.py curves=nowhere.csv output=there", "nowhere.csv"),
    ],
)
def test_a_mistake_ends_with_one_line_status_2_and_nothing_written(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Called
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*command.split(" "))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mine\naxes:\n\tchain: [0]\n", "found character '\\t' that cannot start any token; in"),
        ("name: mine\naxes: {chain: [0]}\naxes: {chain: [1]}\n", "found duplicate key axes; in"),
        ("name: quick\naxes: {chain: [0]}\n", "mine.yaml says name: quick, and would replace the report of that sweep"),
        ("name: mine\naxes: {model: [no], chain: [0]}\n", "quote one such as 'no'"),
    ],
)
def test_a_mistake_in_a_sweep_of_ones_own_is_one_line(text: str, message: str, tmp_path: Path, call: Called) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    done = call("sweep.py", f"hydra.searchpath=['file://{tmp_path}']", "sweep=mine", "dry_run=true")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*\n", done.stderr)
    assert message in done.stderr


def test_a_mistake_is_all_that_the_process_of_a_command_says(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "n_train=5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .*n_train=5 is below the 10 classes of cues.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/record.json"),
            "a/record.json: the disk is full; free some",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "a: your disk quota is used up; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "outputs"), "outputs: the file system is read-only; choose"),
        (OSError(errno.EACCES, "Permission denied", "outputs"), "outputs: no permission to write there; choose"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: No such file or directory"),
        (CrossoverError("as it is"), "as it is"),
    ],
)
def test_errors_of_files_say_what_to_do(error: BaseException, message: str) -> None:
    assert one_line(error).startswith(message)


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_app(main)
    assert ended.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def keys(values: dict[str, Any]) -> set[str]:
    nested = {f"{name}.{key}" for name, value in values.items() if isinstance(value, dict) for key in keys(value)}
    return nested | {name for name, value in values.items() if not isinstance(value, dict)}


def test_help_says_what_every_value_of_a_run_means(call: Called) -> None:
    said = call("train.py", "--help").stdout
    shown, meanings = said.split("says what each is for)")[1].split("Fields of a run")
    values = yaml.safe_load(shown)
    args = values["model"].pop("args")
    assert "widths" in args
    explained = {line.split(": ")[0] for line in meanings.splitlines() if len(line.split(": ", 1)[-1]) > 7}
    assert len(keys(values)) > 50
    assert keys(values) - explained == set()
    assert "model: hybrid_075m, " in said


def test_make_lists_at_most_22_targets_by_group() -> None:
    said = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    targets = [line.split()[1] for line in said if line.startswith("  make ")]
    assert 15 < len(targets) <= 22
    assert {"sweep", "report", "publish", "reproduce", "test"} < set(targets)
    assert [line for line in said if not line.startswith("  ")] == ["Data and sweeps", "Studies", "Development"]


def test_names_are_completed_as_the_page_on_extending_says() -> None:
    line = "python scripts/train.py model=vit_t"
    known = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "scripts/train.py", "-sc", "query=bash"]
    done = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["model=vit_tiny"]


def test_status_prints_whole_names_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Called
) -> None:
    names = ["quick", "a" * LONGEST_NAME]
    for name in names:
        write_plan(tmp_path / "sweeps" / name, name, "make sweep", [])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    done = call("status.py", str(tmp_path))
    assert done.returncode == 0
    assert sorted(line.split()[0] for line in done.stdout.splitlines()[1:]) == sorted(names)
