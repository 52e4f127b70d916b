"""Collect the wheels that a machine without a network needs: python scripts/wheels.py --python 3.12 (make wheels).

The versions are those of requirements.lock, and each file is checked against the hashes there. A package without a
wheel is built.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

GPU_STACK = r"torch|torchvision|triton|cuda-.*|nvidia-(?!ml-py).*"
"""Torch, torchvision and their GPU packages."""


def locked() -> dict[str, str]:
    """Return the lines of the lock, with their hashes, by `name==version`."""
    blocks = re.split(r"\n(?=\S)", Path("requirements.lock").read_text().strip())
    return {re.split(r"[ ;\\]", block, maxsplit=1)[0]: block for block in blocks}


def needed(uv: str, python: str, platform: list[str], extras: str) -> list[str]:
    """Return `name==version` of the packages that the project with some extras needs on another machine."""
    number, machine = platform
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(block.partition(" \\")[0] for block in locked().values()))
        command = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--constraint", str(pins)]
        command += ["--python-version", python, "--python-platform", f"{machine}-manylinux_2_{number}"]
        command += [f"--extra={extra}" for extra in extras.split(",")]
        lines = subprocess.run([*command, "pyproject.toml"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [line.partition(" ")[0] for line in lines.splitlines() if "==" in line]


def there(listing: Path) -> set[str]:
    """Return the names in a `pip list --format=freeze` whose versions pyproject.toml allows."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    allowed = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    pairs = [line.strip().partition("==")[::2] for line in listing.read_text().splitlines() if line.strip()]
    names = {canonicalize_name(name): version for name, version in pairs}
    return {name for name, version in names.items() if not version or name not in allowed or version in allowed[name]}


def collect(pip: list[str], chosen: list[str], python: str, platform: list[str], folder: Path) -> None:
    """Download the wheels of `chosen` into a folder, or build them."""
    number, machine = platform
    tags = [f"manylinux_2_{n}_{machine}" for n in range(int(number), 4, -1)]
    tags += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
    blocks = locked()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        requirements = Path(place) / "requirements.txt"
        requirements.write_text("\n".join(re.sub(r" ;.*(?= \\)", "", blocks[pin]) for pin in chosen) + "\n")
        target = ["--python-version", python, "--implementation", "cp", *(f"--platform={tag}" for tag in tags)]
        shown = "on" if sys.stdout.isatty() else "off"
        command = [
            *pip,
            "download",
            "--no-deps",
            "--require-hashes",
            f"--progress-bar={shown}",
            "-r",
            str(requirements),
        ]
        large = os.environ | {"TMPDIR": place}  # torch alone has half a gigabyte
        subprocess.run([*command, *target, "--dest", str(folder)], check=True, env=large)
        for source in folder.glob("*.tar.gz"):
            command = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)]
            subprocess.run(command, check=True, env=large)
            source.unlink()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python (default: 3.12)")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="manylinux_2_N_x86_64 or …_aarch64")
    parser.add_argument("--folder", type=Path, default=Path("wheels"), help="where they go (default: wheels)")
    parser.add_argument(
        "--extras", default="tensorboard,test,wandb", help="groups of pyproject.toml (default: %(default)s)"
    )
    parser.add_argument("--system-torch", action="store_true", help="leave out torch and what it brings for a GPU")
    parser.add_argument("--have", type=Path, help="leave out what is in this `pip list --format=freeze` of the machine")
    given = parser.parse_args(arguments)
    match = re.fullmatch(r"manylinux_2_(\d+)_(x86_64|aarch64)", given.platform)
    if not match or not re.fullmatch(r"3\.1[123]", given.python):
        print(
            "error: --python is 3.11, 3.12 or 3.13, and --platform manylinux_2_N_x86_64 or …_aarch64", file=sys.stderr
        )
        return 2
    begun, target = given.folder / "collecting", given.folder / "target"
    old = list(given.folder.glob("*.whl"))
    if old and not (begun.is_file() or target.is_file()):
        print(
            f"error: {given.folder} holds wheels of others, such as {old[0].name}; name a new folder", file=sys.stderr
        )
        return 2
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if not uv:
        print("error: make wheels needs uv, which reads the lock for other machines: pip install uv", file=sys.stderr)
        return 2
    print("Finding out what is needed", flush=True)
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [uv, "tool", "run", "pip"]
    left_out = there(given.have) if given.have else set()
    chosen = [
        pin
        for pin in needed(uv, given.python, list(match.groups()), given.extras)
        if (name := pin.partition("==")[0]) not in left_out
        and not (given.system_torch and re.fullmatch(GPU_STACK, name))
    ]
    given.folder.mkdir(parents=True, exist_ok=True)
    begun.touch()
    for path in (*old, target):
        path.unlink(missing_ok=True)
    collect(pip, chosen, given.python, list(match.groups()), given.folder)
    target.write_text(f"python={given.python}\nplatform={given.platform}\nextras={given.extras}\n")
    begun.unlink()
    size = sum(file.stat().st_size for file in given.folder.glob("*.whl")) / 1e6
    print(f"{len(chosen)} wheels, {size:,.0f} MB, in {given.folder}; there: make setup WHEELS={given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
