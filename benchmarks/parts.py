"""What is measured? Each part returns what goes into its section of the file."""

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks import minisweep, peer, thousands
from benchmarks.race import in_turns, side_by_side, steady, summarise
from benchmarks.settings import AUGMENTS, NATIVE, Bench
from benchmarks.steady import Way, matmul_peak
from benchmarks.worlds import Task, folder_data, image_folder, with_fields
from crossover.config import CrossoverError, RunConfig

SIZES, CHAINS = (100, 1_000, 10_000), (0, 1)
RACE = ["ours", "idiomatic"]
PEER = {"timm": 1, "timm_two_at_once": 2}
"""Runs side by side with timm's train.py."""
SETTLING = 5
"""Repeats, at least, of the harness cost: a few per cent must show."""


def harness(bench: Bench) -> dict[str, Any]:
    """Our loop against a plain loop of the same steps, on the runs of the embedded sweep (or the GPU's models)."""
    ways: list[Way] = ["ours", "plain"]
    repeats = bench.repeats if bench.config.quick else max(SETTLING, bench.repeats)
    result = {}
    for model in bench.models:
        recipe = ["recipe=cues_vit"] if model == "vit_tiny" else []
        task = Task(bench.run(f"model={model}", *recipe, "n_train=4096"), synthetic=False)
        if bench.device.type == "cuda":
            task = bench.images(f"model={model}", "augment=crop_flip")
        rows = steady(bench.apart, task, ways, steps=4 * bench.steps, repeats=repeats, core=bench.core, workers=0)
        result[model] = {"rows": rows, "images_per_second": summarise(rows, "images_per_second", "plain")}
    return result


def steady_rates(bench: Bench) -> dict[str, Any]:
    """Training alone, on one core (or one GPU): ours, a plain loop, the idiomatic way as shipped and tuned."""
    dtype = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    peak = bench.apart.call(matmul_peak, bench.device, dtype, 1)
    engines: list[Way] = ["graph", "compile"] if bench.device.type == "cuda" else []
    ways = bench.config.ways or ["ours", *engines, "plain", "idiomatic", "idiomatic_tuned"]
    if "idiomatic" not in ways:
        raise CrossoverError(f"ways={list(ways)} lacks idiomatic, to which the others are compared")
    result: dict[str, Any] = {"matmul_flops_per_second": peak, "workers": bench.workers, "races": {}}
    for model in bench.models:
        for pixels, name in itertools.product(bench.pixels, bench.config.augments):
            size = [] if pixels == NATIVE else [f"data.image_size={pixels}", f"data.name=cifar10_{pixels}"]
            task = bench.images(f"model={model}", *size, *AUGMENTS[name])
            rows = steady(
                bench.apart,
                task,
                ways,
                steps=bench.steps,
                repeats=bench.repeats,
                core=bench.core,
                workers=bench.workers,
            )
            summary = summarise(rows, "images_per_second", "idiomatic")
            for way, values in summary.items():
                own = [row for row in rows if row["way"] == way]
                values["share_of_matmul"] = mean(row["flops_per_second"] for row in own) / peak
                values["peak_bytes"] = max(row["peak_bytes"] for row in own)
            result["races"][f"{model} {pixels} px {name}"] = {"rows": rows, "images_per_second": summary}
            result["images"] = "random" if task.synthetic else "CIFAR-10"
    return result


def growth(bench: Bench) -> dict[str, Any]:
    """How our images per second change with each of four things, on random images."""
    cores = [None] if bench.core is None else sorted(os.sched_getaffinity(0))
    steps = max(5, bench.steps // 2)
    result: dict[str, Any] = {}
    for model in bench.models:
        base = bench.run("data=cifar10_folder", "augment=crop_flip", f"model={model}", "n_train=1000")

        def rate(run: RunConfig, count: int = 1) -> float:
            return side_by_side(bench.apart, Task(run, synthetic=True), count, steps=steps, cores=cores)

        result[model] = {
            "n_train": {n: rate(with_fields(base, n_train=n)) for n in (100, 1_000, 10_000, 45_000)},
            "image_size": {px: rate(with_fields(base, data__image_size=px)) for px in (16, 32, 64)},
            "batch_size": {b: rate(with_fields(base, recipe__batch_size=b)) for b in (16, 48, 128, 512)},
            "runs": {k: rate(base, k) for k in (1, 2, 4)},
        }
    return result


def _mini_settings(bench: Bench, root: Path, axes: str, steps: int) -> list[str]:
    fixed = {
        "data": "folder",
        "data.name": "cifar10_bench",
        "data.root": root.resolve(),
        "data.image_size": 32,
        "augment": "crop_flip",
        "budget": "steps",
        "budget.steps": steps,
        "budget.evaluations": 2,
    }
    pairs = ",".join(f"{key}:{value}" for key, value in fixed.items())
    return [
        "sweep.name=bench",
        f"++sweep.fixed={{{pairs}}}",
        f"sweep.axes={{{axes}}}",
        f'set=["machine.data_dir={bench.config.data_dir.resolve()}"]',
    ]


def _mini_runs(bench: Bench, root: Path, sizes: Sequence[int], chains: Sequence[int], steps: int) -> list[RunConfig]:
    runs = []
    for model in bench.models:
        base = bench.run(f"model={model}", "augment=crop_flip", f"budget.steps={steps}", "budget.evaluations=2")
        for n in sizes:
            for c in chains:
                runs.append(with_fields(base, data=folder_data(root).model_dump(), n_train=n, chain=c, seed=c))
    return runs


def _mini(
    bench: Bench, ways: Sequence[str], sizes: Sequence[int], chains: Sequence[int], steps: int, repeats: int
) -> list[dict[str, Any]]:
    train = peer.script(bench.config.peer) if set(ways) & set(PEER) else None
    axes = (
        f"model:[{','.join(bench.models)}],n_train:[{','.join(map(str, sizes))}],chain:[{','.join(map(str, chains))}]"
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        root = image_folder(bench.config.data_dir, place / "images")
        settings = _mini_settings(bench, root, axes, steps)
        runs = _mini_runs(bench, root, sizes, chains, steps)
        log, turn = _log(), iter(range(10**6))
        contenders: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": lambda: minisweep.ours(settings, place / f"outputs-{next(turn)}", log),
            "idiomatic": lambda: minisweep.idiomatic(runs, log),
        }
        if train:
            theirs = [(run, peer.subset(run, root, place / run.run_id)) for run in runs]
            for way, at_once in PEER.items():
                contenders[way] = partial(peer.sweep, train, theirs, steps, at_once, log)
        bench.apart.call(minisweep.warm_cache, runs[0])
        return in_turns(ways, repeats, lambda way: contenders[way]())


def mini_sweep(bench: Bench) -> dict[str, Any]:
    """Wall time of 12 runs: sizes 100, 1,000 and 10,000, two models, two chains."""
    rows = _mini(bench, RACE, SIZES, CHAINS, bench.config.mini_steps, bench.repeats)
    wall = summarise(rows, "wall_seconds", "ours")
    inside = [row["fit_seconds"] for row in rows if row["way"] == "idiomatic"]
    return {
        "runs": len(rows[0]["runs"]),
        "steps": bench.config.mini_steps,
        "rows": rows,
        "wall_seconds": wall,
        "ratio_without_imports_of_the_idiomatic": mean(inside) / wall["ours"]["median"],
    }


def parity(bench: Bench) -> dict[str, Any]:
    """Test error of both ways after the same number of steps, over seeds: do they agree within their spread?"""
    seeds = bench.config.parity_seeds
    ours, theirs = _mini(bench, RACE, (10_000,), seeds, bench.config.parity_steps, 1)
    result: dict[str, Any] = {"steps": bench.config.parity_steps, "n_train": 10_000, "seeds": seeds}
    for model in bench.models:
        errors = [[row["runs"][f"{model} n10000 c{seed}"] for seed in seeds] for row in (ours, theirs)]
        spread = (stdev(errors[0]) ** 2 / len(seeds) + stdev(errors[1]) ** 2 / len(seeds)) ** 0.5
        difference = mean(errors[0]) - mean(errors[1])
        result[model] = {
            "ours": errors[0],
            "idiomatic": errors[1],
            "difference": difference,
            "standard_error": spread,
            "standard_errors_apart": difference / spread if spread else None,  # all seeds alike
        }
    return result


def many_runs(bench: Bench) -> dict[str, Any]:
    """Wall and CPU time of planning, status and report on a sweep of thousands of runs."""
    chains = max(1, bench.config.planned // (2 * len(thousands.SIZES)))
    data = ["data=cues", f"data.n_pool={thousands.POOL}", f"data.n_test={thousands.TEST}"]
    bench.apart.call(minisweep.warm_cache, bench.run("model=resnet_tiny", *data, "n_train=64"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(bench.repeats):
            found = thousands.measure(Path(folder), bench.config.data_dir, chains, _log())
            rows += [{"repeat": repeat} | row for row in found]
    result: dict[str, Any] = {"runs": 2 * len(thousands.SIZES) * chains, "rows": rows}
    for field in ("wall_seconds", "cpu_seconds"):
        result[field] = summarise(rows, field, thousands.COMMANDS[0])
    return result


def _log() -> Path:
    log = Path("outputs/bench.log")
    log.parent.mkdir(exist_ok=True)
    return log


def against_peer(bench: Bench) -> dict[str, Any]:
    """Wall time of the mini-sweep beside timm's train.py: one run at a time on all cores, and two at once."""
    if bench.device.type != "cpu":
        raise CrossoverError("part peer races on a CPU: hide the GPU (CUDA_VISIBLE_DEVICES=) or leave peer out")
    sizes = SIZES[:1] if bench.config.quick else SIZES
    batch = bench.run(f"model={bench.models[0]}").recipe.batch_size
    steps = max(sizes) // batch  # an epoch of the largest size: timm's smallest unit
    rows = _mini(bench, ["ours", *PEER], sizes, CHAINS, steps, bench.repeats)
    return {
        "runs": len(rows[0]["runs"]),
        "steps": steps,
        "rows": rows,
        "wall_seconds": summarise(rows, "wall_seconds", "ours"),
    }


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "harness": harness,
    "steady": steady_rates,
    "growth": growth,
    "minisweep": mini_sweep,
    "parity": parity,
    "thousands": many_runs,
    "peer": against_peer,
}
