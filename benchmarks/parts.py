"""The parts of a benchmark, each of which saves its measurements and table as they are made."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, get_args

import torch

from benchmarks.bench import Bench, link_images
from benchmarks.contenders import Way, matmul_peak
from benchmarks.race import Row, apart, in_turns, summarise
from benchmarks.table import page_table, race_table
from crossover.config import CrossoverError, RunConfig
from crossover.data.cache import open_dataset

ROOT = Path(__file__).parents[1]
SIZES, CHAINS = (100, 1_000, 10_000), (0, 1)
Save = Callable[[dict[str, Any]], None]


def harness(bench: Bench, save: Save) -> None:
    """Our loop against a plain loop of the same steps: the cost of Lightning and our own code."""
    races = {model: _race(bench, bench.run(model), ["ours", "plain"]) for model in bench.models}
    save({"races": races, "table": race_table("Cost of the harness, images per second", races, "plain")})


def steady(bench: Bench, save: Save) -> None:
    """Training alone, on one core or one GPU."""
    ways: list[Way] = ["ours", "plain", "idiomatic", "idiomatic_tuned", *(["timm"] if bench.script else [])]  # type: ignore[list-item]
    peak, races = _peak(bench), {}
    for model, pixels, policy in itertools.product(bench.models, bench.config.pixels, bench.config.policies):
        policies = [] if policy == "none" else [f"+augment.policy={policy}"]
        run = bench.run(model, f"data.name=bench_{pixels}", f"data.image_size={pixels}", *policies)
        race = _race(bench, run, ways)
        for way, values in race["images_per_second"].items():
            own = [row for row in race["rows"] if row["way"] == way]
            values["share_of_matmul"] = mean(row["flops_per_second"] for row in own) / peak
            values["peak_bytes"] = max(row["peak_bytes"] for row in own)
        races[f"{model} {pixels} px {'crop_flip' if policy == 'none' else policy}"] = race
        table = race_table("Training alone, images per second", races, "idiomatic")
        save({"matmul_flops_per_second": peak, "races": races, "table": table})


def _race(bench: Bench, run: RunConfig, ways: Sequence[Way]) -> dict[str, Any]:
    rows = in_turns(ways, bench.config.repeats, lambda way: bench.measure(run, way))  # type: ignore[arg-type]
    against = "idiomatic" if "idiomatic" in ways else "plain"
    return {"rows": rows, "images_per_second": summarise(rows, "images_per_second", against)}


def _peak(bench: Bench) -> float:
    dtype = torch.bfloat16 if bench.device == "cuda" else torch.float32
    return float(apart(matmul_peak, [(torch.device(bench.device), dtype)])[0])


def gpu(bench: Bench, save: Save) -> None:
    """Every engine and the other ways, 1, 2 and 4 runs at a time, without and with MPS; a failure is a row too."""
    deadline, peak, rows = time.monotonic() + bench.config.limit_seconds, _peak(bench), list[Row]()

    def add(model: str, batch: int, way: Way, count: int, mps: dict[str, str] | None) -> None:
        row: Row = {"model": model, "batch": batch, "way": way, "runs": count, "mps": mps is not None}
        try:
            if time.monotonic() > deadline:
                raise CrossoverError("not measured: the time was over")
            run = bench.run(model, f"recipe.batch_size={batch}")
            row |= bench.measure(run, way, count=count, profiled=count == 1 and mps is None, mps=mps)
            row["share_of_peak"] = row["flops_per_second"] / peak
        except CrossoverError as error:
            row["error"] = str(error)
        rows.append(row)
        save({"matmul_flops_per_second": peak, "rows": list(rows), "table": page_table(rows)})

    ways: list[Way] = [*(bench.config.ways or get_args(Way)[1:-1]), *(["timm"] if bench.script else [])]  # type: ignore[list-item]
    cases = list(itertools.product(bench.config.batches, bench.models))
    for (batch, model), way in itertools.product(cases, ways):
        if way != "compile":
            add(model, batch, way, 1, None)
    for (batch, model), count in itertools.product(cases, (2, 4)):
        add(model, batch, "ours", count, None)
    with mps_daemon() as environment:
        for (batch, model), count in itertools.product(cases if environment else [], (1, 2, 4)):
            add(model, batch, "ours", count, environment)
    for batch, model in cases if "compile" in ways else []:  # last: compiling takes a minute
        add(model, batch, "compile", 1, None)


@contextmanager
def mps_daemon() -> Iterator[dict[str, str] | None]:
    """Run CUDA's MPS daemon and yield the environment of its clients; None if it is not installed."""
    command = shutil.which("nvidia-cuda-mps-control")
    if command is None:
        print("MPS is left out: nvidia-cuda-mps-control is not installed", flush=True)
        yield None
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path must be short
        places = {"CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe", "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log"}
        for place in places.values():
            Path(place).mkdir()
        subprocess.run([command, "-d"], env=os.environ | places, check=True, timeout=30)
        try:
            yield places
        finally:
            subprocess.run([command], input="quit\n", text=True, env=os.environ | places, check=True, timeout=30)


def minisweep(bench: Bench, save: Save) -> None:
    """Wall time of 12 runs: as one sweep of ours, and as one process per run of the idiomatic way and of timm's script.

    Their processes run one after the other on all cores; timm's also two at once on half of them.
    """
    steps, log, turn = bench.config.mini_steps, bench.place / "minisweep.log", itertools.count()
    sizes = [n for n in SIZES if n <= 0.8 * (bench.config.images or max(SIZES) * 2)]
    runs = [
        bench.run(model, f"budget.steps={steps}", "budget.evaluations=2", f"n_train={n}", f"chain={chain}")
        for model, n, chain in itertools.product(bench.models, sizes, CHAINS)
    ]
    apart(open_dataset, [(runs[0].data, Path(runs[0].machine.data_dir))])  # decoding is not timed
    ways: dict[str, Callable[[], Row]] = {
        "ours": lambda: _sweep(bench, sizes, bench.place / f"sweep-{next(turn)}", log),
        "idiomatic": lambda: _processes("benchmarks.idiomatic", [], runs, 1, log),
    }
    if bench.script is not None:
        theirs = [_with_own_folder(run, bench.images, bench.place / run.run_id) for run in runs]
        for way, at_once in (("timm", 1), ("timm_two_at_once", 2)):
            ways[way] = partial(_processes, "benchmarks.timm_script", [str(bench.script)], theirs, at_once, log)
    rows = in_turns(list(ways), bench.config.repeats, lambda way: ways[way]())
    part = {"runs": len(runs), "steps": steps, "rows": rows, "wall_seconds": summarise(rows, "wall_seconds", "ours")}
    title = f"Sweep of {len(runs)} runs of {steps} steps, seconds"
    save(part | {"table": race_table(title, {"mini-sweep": part}, "ours", "wall_seconds")})


def _with_own_folder(run: RunConfig, images: Path, folder: Path) -> RunConfig:
    """Return the run on a folder with only the images it trains on, as timm's script does not support subsets."""
    link_images(images / "train", folder / "train", run.n_train, run.chain)
    (folder / "test").symlink_to(images / "test", target_is_directory=True)
    return run.model_copy(update={"data": run.data.model_copy(update={"root": str(folder)})})


def _sweep(bench: Bench, sizes: Sequence[int], outputs: Path, log: Path) -> Row:
    fixed = [*bench.fixed, f"budget.steps={bench.config.mini_steps}", "budget.evaluations=2"]
    axes = {"model": bench.models, "n_train": sizes, "chain": CHAINS}
    lists = [f"{key}:[{','.join(map(str, values))}]" for key, values in axes.items()]
    command = [
        "scripts/sweep.py",
        f"outputs={outputs}",
        "sweep.name=bench",
        f"++sweep.fixed={{{','.join(text.replace('=', ':', 1) for text in fixed)}}}",
        f"sweep.axes={{{','.join(lists)}}}",
    ]
    return {"wall_seconds": _seconds(lambda: _call(command, log, {}))}


def _processes(module: str, given: list[str], runs: Sequence[RunConfig], at_once: int, log: Path) -> Row:
    """Train each run in its own process, `at_once` in parallel sharing the cores."""
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // at_once))}

    def one(run: RunConfig) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(run.model_dump_json())
            file.flush()
            _call(["-m", module, file.name, *given], log, threads)

    with ThreadPoolExecutor(at_once) as pool:
        return {"wall_seconds": _seconds(lambda: list(pool.map(one, runs)))}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _call(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run Python to its end, with its output in `log`; raise CrossoverError when it fails."""
    with log.open("ab") as file:
        command = [sys.executable, *arguments]
        code = subprocess.run(command, stdout=file, stderr=file, env=os.environ | environment, cwd=ROOT).returncode
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise CrossoverError(f"{' '.join(arguments[:3])} failed with exit status {code}: {' '.join(last)}")


PARTS = {"harness": harness, "steady": steady, "minisweep": minisweep, "gpu": gpu}
