"""The command that a page shows plans the runs of the page, whatever was typed, through make and the shell."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from crossover.cli import quoted, run_hydra
from crossover.store import LONGEST_NAME
from crossover.sweep.plan import SweepConfig, make_command, named
from tests.conftest import Called

ROOT = Path(__file__).parents[1]
PLAIN = SweepConfig(name="quick", axes={"chain": [0]})


Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Called) -> Make:
    """Return a function that runs a target through make and the shell, and its script in the process of the tests."""
    python, given = tmp_path / "python", tmp_path / "given"
    python.write_text(f"#!/bin/sh\nprintf '%s\\0' \"$CROSSOVER_SET\" \"$@\" > '{given}'\n")
    python.chmod(0o755)

    def run(target: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "--no-print-directory", target, f"PYTHON={python}", *words]
        subprocess.run(command, cwd=ROOT, check=True)
        changes, script, *arguments = given.read_text().removesuffix("\0").split("\0")
        monkeypatch.setenv("CROSSOVER_SET", changes)
        return call(Path(script).name, *arguments)

    return run


def dry_run(make: Make, *words: str) -> list[str]:
    """Return the run ids that a `make sweep` command plans, and the command that it says to repeat."""
    variables = dict(word.split("=", 1) for word in words)
    variables["ARGS"] = f"{variables.get('ARGS', '')} dry_run=true"
    done = make("sweep", *(f"{name}={value}" for name, value in variables.items()))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[1:]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (['SET=budget.steps=5 data.root="/my data (2)/it\'s, ü & #1~"', "SWEEP=tiny-imagenet-cpu"], 60),
        (["ARGS='sweep.axes.n_train=[256,512]' sweep.name=mine 'sweep.axes.chain=[0, 4]'"], 8),
        (["SET=budget.steps=10", "ARGS='sweep.axes.n_train=[256,512]' 'outputs=/a b/$$c'"], 12),
    ],
    ids=["SET", "ARGS", "both"],
)
def test_the_command_of_a_page_plans_its_runs(words: list[str], expected: int, make: Make) -> None:
    *ids, said = dry_run(make, *words)
    assert len(ids) == expected
    again = shlex.split(said.removeprefix("repeat: "))
    assert again[:2] == ["make", "sweep"]
    assert dry_run(make, *again[2:]) == [*ids, said]


def test_a_command_has_what_decides_its_runs_and_not_how_they_were_done() -> None:
    how = ["launcher=local", "launcher.parallel=2", "dry_run=true"]
    command = make_command("quick", ["a=1"], ["sweep=quick", "set=[a=1]", "sweep.axes.chain=[0]", *how])
    assert command == """make sweep SWEEP=quick SET="a=1" ARGS="'sweep.axes.chain=[0]'\""""
    assert make_command("quick", [], ["sweep=quick"]) == "make sweep SWEEP=quick"


@pytest.mark.parametrize(
    "path", ["/my images", "a=b", "a&b", "a#b", "it's", "x (2)", "one,two", "bücher", "${oc.env:HOME}/x", "'/images'"]
)
def test_a_path_is_typed_as_it_is(path: str) -> None:
    (override,) = OverridesParser.create().parse_overrides(quoted([f"machine.data_dir={path}"]))
    assert not override.is_sweep_override()
    assert str(override.value()) == path.strip("'")


def test_a_tilde_is_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert quoted(["data.root=~/pets"]) == ["data.root='/home/ada/pets'"]
    assert quoted(["data.root=~nobody-of-that-name/x"]) == ["data.root='~nobody-of-that-name/x'"]
    assert quoted(["n_train=~3", "data.root=null"]) == ["n_train=~3", "data.root=null"]


def test_names_of_changed_sweeps_are_short_safe_and_their_own() -> None:
    many = [f"recipe.option_number_{i}={i}" for i in range(10)]
    changes = [many, ["data.alpha=0"], ["data.alpha=-0"], ["data.root=/a/b"], ["data.root=/a_b"], ["+x=1"], ["x=1"]]
    names = [named(PLAIN, items).name for items in changes]
    assert names[1] == "quick--data.alpha-0"
    assert len(set(names)) == len(names)
    assert all(len(name) <= LONGEST_NAME + 7 and set("+=~/").isdisjoint(name) for name in names)
    assert named(PLAIN, ["machine.device=cpu"]) == PLAIN


@pytest.mark.parametrize(
    ("changes", "argument", "said"),
    [
        ("data.root=it's", "sweep=quick", "SET cannot be read (No closing quotation)"),
        ("budget.steps=3", "set=[data.alpha=0]", "SET and set=[...] of ARGS are the same setting: give all changes in"),
    ],
)
def test_changes_that_cannot_be_read_or_would_be_lost_are_one_line(
    changes: str, argument: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CROSSOVER_SET", changes)
    monkeypatch.setattr(sys, "argv", ["sweep.py", argument])
    with pytest.raises(SystemExit):
        run_hydra(lambda: pytest.fail("it went on"))
    assert said in capsys.readouterr().err


def test_make_data_with_a_sweep_builds_the_caches_of_its_runs_alone(tmp_path: Path, make: Make) -> None:
    small = "data.n_pool=600 data.n_val=20 data.n_test=20 data.image_size=12"
    axes = "'sweep.axes.n_train=[64]'"
    given = [
        "SWEEP=quick",
        f"SET={small} machine.data_dir={tmp_path / 'data'}",
        f"ARGS={axes} outputs={tmp_path / 'out'}",
    ]
    done = make("data", *given)
    assert done.returncode == 0, done.stderr
    assert "cues: 600 training images to draw from" in done.stdout
    assert [path.name[:9] for path in (tmp_path / "data" / "cache").glob("[!.]*")] == ["cues-12px"]
    assert not (tmp_path / "out").exists()
