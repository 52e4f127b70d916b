"""Data goes one way: the imports hold that, and planning and analysis work without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crossover"
CORE = {
    *("cli", "config", "data", "fields", "lock", "record", "report", "store", "sweep", "text", "training"),
    *("sweep_report", "wandb_runs"),
}
ALLOWED = {
    "fields": set(),
    "config": {"fields"},
    "record": {"config"},
    "store": {"config", "lock", "record"},
    "lock": set(),
    "text": set(),
    "wandb_runs": {"config", "lock", "record"},
    "analysis": {"config", "record", "text"},
    "data": {"config", "fields", "store", "lock", "text"},
    "training": {"config", "fields", "store", "record", "data", "text", "wandb_runs"},
    "sweep": {"cli", "config", "fields", "store", "lock", "text", "record"},
    "sweep/launch": {"cli", "config", "data", "fields", "lock", "store", "text", "training"},
    "sweep/job": {"config", "store", "lock", "cli", "training"},
    "sweep/pool": {"config", "store", "cli"},
    "sweep/slurm": {"config", "store", "text", "training"},
    "sweep/__main__": {"cli", "store"},
    "report": {"config", "fields", "store", "text", "record", "analysis", "wandb_runs"},
    "sweep_report": {"config", "fields", "record", "store", "data", "analysis", "report", "sweep", "text"},
    "studies": {"analysis", *CORE},
    "cli": {"config"},
}
"""What each part, a folder or a file of the package, may import besides itself."""


def imported(path: Path) -> set[str]:
    """Return the modules of crossover that a file imports, at its top or inside a function, as paths."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {module for name in names if (module := as_module(name))}


def as_module(name: str) -> str | None:
    """Return the path in the package of the module that a dotted name is, or is defined in."""
    parts = name.split(".")
    if parts[0] != "crossover":
        return None
    for end in range(len(parts), 1, -1):
        path = "/".join(parts[1:end])
        if (SOURCE / f"{path}.py").exists() or (SOURCE / path).is_dir():
            return path
    return None


MODULES = {
    str(path.relative_to(SOURCE).with_suffix("")): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.name != "__init__.py"
}


@pytest.mark.parametrize("part", MODULES)
def test_imports_go_one_way(part: str) -> None:
    folder = part.split("/")[0]
    allowed = ALLOWED.get(part, ALLOWED[folder]) | {folder}
    assert {module.split("/")[0] for module in imported(MODULES[part])} <= allowed


def test_no_file_imports_itself_through_others() -> None:
    """Type-checking imports count too: who needs another's types to be read cannot be read first."""
    arrows = {part: imported(path) & set(MODULES) for part, path in MODULES.items()}
    circles = [part for part in arrows if part in reachable(part, arrows)]
    assert set(circles) <= KNOWN_CIRCLES


KNOWN_CIRCLES: set[str] = set()
"""Files in a circle that are still there: to be removed, never added to."""


def reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """Return the modules that `start` imports, directly or through others."""
    seen: set[str] = set()
    left = list(arrows[start])
    while left:
        part = left.pop()
        if part not in seen:
            seen.add(part)
            left += arrows[part]
    return seen


def test_the_package_knows_no_benchmarks_and_no_tests() -> None:
    outside = ("benchmarks", "tests")
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in outside, path
            elif isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names}.isdisjoint(outside), path


WITHOUT_TORCH = (
    *("config", "sweep.plan", "store", "lock", "analysis.verdict", "analysis.laws", "analysis.robustness"),
    *("report.build", "report.page", "report.figures", "sweep_report", "studies.claims.rules", "studies.claims.page"),
    *("sweep.launch", "sweep.pool", "sweep.progress", "sweep.__main__", "sweep.slurm", "sweep.job"),
)
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"crossover.{name}")
    if "torch" in sys.modules:
        sys.exit(f"crossover.{name} imports torch")
"""


def test_planning_analysis_and_report_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT, *WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


FORBIDDEN = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
CODE_RUNS = {"unsafe_load", "extractall", "unpack_archive", "load_from_checkpoint"}
BUILT_IN = {"eval", "exec", "os.system", "os.popen"}
SCRIPTS = SOURCE.parents[1] / "scripts"


def loads(path: Path) -> list[str]:
    """Return the calls of a file by which what others wrote could run code here."""
    found = []
    for node in (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)):
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, name = called.rpartition(".")
        unsafe = (
            name in CODE_RUNS
            or called in BUILT_IN
            or (module in FORBIDDEN and name in ("load", "loads", "Unpickler"))
            or (called == "torch.load" and given.get("weights_only") != "True")
            or ("ckpt_path" in given and given.get("weights_only") != "True")
            or ("allow_pickle" in given and given["allow_pickle"] != "False")
            or given.get("shell") == "True"
        )
        found += [f"{path.name}: {ast.unparse(node)}"] if unsafe else []
    return found


def test_no_file_that_others_can_write_runs_code() -> None:
    files = [*SOURCE.rglob("*.py"), *SCRIPTS.glob("*.py")]
    assert len(files) > 50
    assert [call for path in files for call in loads(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "pickle.load(f)",
        "numpy.load(p, allow_pickle=True)",
        "trainer.fit(m, d, ckpt_path=p)",
        "tar.extractall(p)",
        "yaml.unsafe_load(t)",
        "subprocess.run(c, shell=True)",
    ],
)
def test_a_call_that_would_run_it_is_seen(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(line)
    assert len(loads(tmp_path / "x.py")) == 1


def test_hydra_entry_points_are_only_in_scripts() -> None:
    assert [p for p in SOURCE.rglob("*.py") if "hydra.main" in p.read_text()] == []
