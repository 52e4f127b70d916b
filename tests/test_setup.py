"""The environment belongs to its checkout, and says what to do where there is no network."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WHEELS = runpy.run_path(str(ROOT / "scripts" / "wheels.py"))


def checkout(folder: Path) -> Path:
    """Make a folder with what set-up reads and a package that says where it is."""
    (folder / "scripts").mkdir(parents=True)
    (folder / "src" / "crossover").mkdir(parents=True)
    (folder / "src" / "crossover" / "__init__.py").touch()
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "README.md", "LICENSE", "scripts/setup.sh"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def set_up(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `make setup` as on a machine without a network."""
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHON", "WHEELS", "SYSTEM_TORCH")}
    env["TMPDIR"] = "/nowhere/" + 25 * "long"  # as on a node whose scratch folder is not there
    env |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1", "UV_NO_CACHE": "1"} | environment
    env.pop("PIP_FIND_LINKS", None)
    command = ["make", "--no-print-directory", *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def environment_of(folder: Path) -> None:
    """Give a checkout an environment as set-up makes it, but without packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    site = next((folder / ".venv" / "lib").glob("python*/site-packages"))
    (site / "_editable_impl_crossover.pth").write_text(f"{folder}/src\n")
    command = folder / ".venv" / "bin" / "tool"
    command.write_text(f"#!{folder}/.venv/bin/python\nimport crossover; print(crossover.__file__)\n")
    command.chmod(0o755)
    files = [(folder / name).read_bytes() for name in ("requirements.lock", "pyproject.toml")]
    sums = subprocess.run(["cksum"], input=b"".join(files), check=True, capture_output=True).stdout.decode().strip()
    (folder / ".venv" / "ready").write_text(f"{folder}\n{sums}\n\n")


def code_of(folder: Path) -> str:
    return subprocess.run([folder / ".venv/bin/tool"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_a_copied_or_moved_environment_is_tied_to_its_new_checkout(tmp_path: Path, how: str) -> None:
    old, new = checkout(tmp_path / "old"), tmp_path / "new & other"
    environment_of(old)
    assert code_of(old) == f"{old}/src/crossover/__init__.py"
    assert set_up(old, "setup").stdout == ""
    (shutil.copytree(old, new, symlinks=True) if how == "copied" else old.rename(new))
    done = set_up(new, "setup")
    assert done.stdout == f"The environment in .venv was that of {old}; now it is tied to this checkout\n"
    shutil.rmtree(old, ignore_errors=True)
    python = [str(new / ".venv/bin/python"), "-c", "import crossover; print(crossover.__file__)"]
    assert subprocess.run(python, check=True, capture_output=True, text=True).stdout.strip().startswith(str(new))
    assert set_up(new, "setup").stdout == ""


def test_a_linked_environment_of_another_checkout_is_refused(tmp_path: Path) -> None:
    (checkout(tmp_path) / ".venv").symlink_to(ROOT)
    done = set_up(tmp_path, "setup")
    assert "error: .venv is a link to another checkout's environment" in done.stderr
    assert done.returncode == 2


@pytest.mark.slow  # pip comes into a new environment
def test_without_a_network_it_is_said_what_to_do(tmp_path: Path) -> None:
    done = set_up(checkout(tmp_path), "test", PYTHON=sys.executable)
    assert done.returncode == 2
    assert "`make wheels PYTHON_VERSION=3.12`" in done.stderr
    assert "`make test PYTHON=/path/to/python`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_packages_of_the_machine_are_used_and_a_change_of_the_lock_is_refused(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    done = set_up(folder, "setup", "SYSTEM_TORCH=1", "EXTRAS=test", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    code = "import crossover, hydra, importlib.util as u; print(crossover.__file__, u.find_spec('torch').origin)"
    found = subprocess.run([folder / ".venv/bin/python", "-c", code], check=True, capture_output=True, text=True).stdout
    ours, torch = found.split()
    assert ours == f"{folder}/src/crossover/__init__.py"
    assert not torch.startswith(str(folder))
    (folder / "requirements.lock").write_text("rich==1\n")
    assert "repeat: make setup SYSTEM_TORCH=1" in set_up(folder, "test").stderr


def test_an_interpreter_without_torch_is_named_in_one_line(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    done = set_up(checkout(tmp_path), "setup", "SYSTEM_TORCH=1", f"PYTHON={tmp_path}/empty/bin/python")
    assert done.returncode == 2
    assert f"error: SYSTEM_TORCH=1: {tmp_path}/empty/bin/python has no torch and torchvision" in done.stderr
    assert "Traceback" not in done.stderr


def test_wheels_for_another_python_are_refused_by_name(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "wheels").mkdir()
    assert "has no file named target" in set_up(folder, "setup", "WHEELS=wheels").stderr
    (folder / "wheels" / "target").write_text("python=3.99\nextras=test\n")
    done = set_up(folder, "setup", "WHEELS=wheels")
    assert "error: Python 3.99 is needed for the wheels in wheels, found Python 3" in done.stderr


def test_a_named_interpreter_runs_without_an_environment(tmp_path: Path) -> None:
    lean = tmp_path / "lean" / "python"
    lean.parent.mkdir()
    lean.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    lean.chmod(0o755)
    done = set_up(ROOT, "status", f"PYTHON={lean}", "ARGS=/nowhere")
    assert f"error: PYTHON={lean} lacks hydra" in done.stderr
    done = set_up(ROOT, "status", f"PYTHON={sys.executable}", "ARGS=/nowhere")
    assert done.stdout == "no sweep in /nowhere; `make sweep` starts one\n"


def test_wheels_are_those_of_the_lock_and_checked_against_its_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    commands: list[list[str]] = []
    locks: list[str] = []

    def recorded(command: tuple[str | Path, ...], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(list(map(str, command)))
        (lock,) = (word.partition("=")[2] for word in commands[-1] if word.startswith(("--output", "--requirement")))
        locks.append(Path(lock).read_text())
        return subprocess.CompletedProcess(commands[-1], 0)

    monkeypatch.setattr(subprocess, "run", recorded)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: "uv")  # it need not be installed: nothing is run
    WHEELS["main"](["--folder", str(tmp_path), "--system-torch", "--extras", "test"])
    resolve, download = commands
    assert locks == 2 * [Path("requirements.lock").read_text()]  # uv keeps what it finds in its output
    assert {"--generate-hashes", "--extra=test", "--no-emit-package=torch"} <= set(resolve)
    assert {"--no-emit-package=nvidia-ml-py", "--no-emit-package=timm"}.isdisjoint(resolve)
    assert {"--require-hashes", "--no-deps", "--platform=manylinux_2_28_x86_64"} <= set(download)
    assert (tmp_path / "target").read_text().splitlines()[0] == "python=3.12"


def test_what_a_machine_has_is_left_out_unless_it_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "have.txt").write_text("Jinja2==3.1.6\npandas==2.2.0\ntyping_extensions==4.0\nscipy\n")
    assert WHEELS["there"](tmp_path / "have.txt") == {"jinja2", "typing-extensions", "scipy"}


def test_wheels_of_others_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs-1.0-py3-none-any.whl").write_text("theirs")
    with pytest.raises(SystemExit):
        WHEELS["main"](["--folder", str(tmp_path)])
    assert "holds wheels of others, such as theirs-1.0" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["theirs-1.0-py3-none-any.whl"]
