"""Data goes one way: the imports hold that, and planning and analysis work without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "crossover"
ALLOWED = {
    "config": set(),
    "files": {"config"},
    "lock": set(),
    "vocabulary": set(),
    "wandb_runs": set(),
    "analysis": set(),
    "data": {"config", "files", "lock"},
    "training": {"config", "files", "data", "vocabulary", "wandb_runs"},
    "probes": {"config", "files", "data", "training"},
    "probes/load": {"config", "files", "data", "training", "sweep"},
    "ledger": {"config", "analysis", "probes", "sweep"},
    "sweep": {"config", "files", "lock", "sweep"},
    "sweep/launch": {"config", "sweep", "data"},
    "sweep/local": {"config", "sweep"},
    "sweep/job": {"config", "files", "lock", "cli", "sweep", "training"},
    "sweep/slots": {"config", "sweep", "bench"},
    "sweep/pool": {"config", "files", "cli", "sweep"},
    "sweep/__main__": {"config", "lock", "sweep"},
    "faults": {"config", "files", "sweep"},
    "report": {"config", "files", "analysis", "sweep", "vocabulary", "wandb_runs"},
    "study": {"config", "files", "data", "analysis", "report", "sweep"},
    "bench": {"config", "files", "data", "training"},
    "bench/thousands": {"config", "sweep", "training"},
    "cli": {"config"},
}


def imported(path: Path) -> set[str]:
    """Return the parts of crossover that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("crossover.")}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(SOURCE).with_suffix("")
    if part.name == "__init__":
        return
    folder = part.parts[0]
    allowed = ALLOWED.get(str(part), ALLOWED[folder]) | {folder}
    assert imported(path) <= allowed


@pytest.mark.parametrize(
    "modules",
    [
        "crossover.config, crossover.sweep.plan, crossover.sweep.records, crossover.lock",
        "crossover.analysis.crossover, crossover.analysis.curves, crossover.analysis.calibration",
        "crossover.report.build, crossover.report.page, crossover.report.figures, crossover.study",
        "crossover.analysis.claims, crossover.report.claims",
        "crossover.sweep.launch, crossover.sweep.pool, crossover.sweep.progress, crossover.sweep.__main__",
        "crossover.sweep.slurm, crossover.sweep.jobs, crossover.sweep.groups, crossover.sweep.failures",
    ],
)
def test_planning_analysis_and_report_need_no_torch(modules: str) -> None:
    code = f"import sys; import {modules}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
    assert len(files) > 100
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
