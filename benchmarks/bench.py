"""The settings and the parts of a benchmark; each part saves its measurements and table as they are made."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from pydantic import DirectoryPath, Field

from benchmarks.contenders import Way, matmul_peak, measure
from benchmarks.race import Row, apart, in_turns, page_table, race_table, summarise
from crossover.cli import composed
from crossover.config import CrossoverError, RunConfig, parse_run
from crossover.data.cache import open_dataset
from crossover.fields import Frozen
from crossover.sweep.plan import override
from crossover.training.machine import device_name, git_state, package_versions

Save = Callable[[Row], None]


class Bench(Frozen):
    """The settings of conf/bench.yaml, which documents them, and a folder for images, caches and runs."""

    only: list[Literal["harness", "steady", "minisweep", "gpu"]]
    device: Literal["auto", "cpu", "cuda"]
    repeats: int = Field(ge=1)
    steps: int = Field(ge=1)
    mini_steps: int = Field(ge=2)
    models: list[str] | None
    pixels: list[int]
    batches: list[int]
    policies: list[Literal["none", "randaugment"]]
    ways: list[Way] | None
    limit_seconds: float
    images: int = Field(ge=20)
    timm: DirectoryPath | None
    output: Path | None
    data_dir: Path
    place: Path

    @property
    def torch_device(self) -> torch.device:
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)

    @property
    def networks(self) -> list[str]:
        usual = ["resnet_tiny", "vit_tiny"] if self.torch_device.type == "cpu" else ["resnet18", "vit_256x6"]
        return self.models or usual

    def prepare(self) -> str:
        """Make the image folder {train,test}/<class>/*, from CIFAR-10 if it is there; return which images were used."""
        source = self.data_dir / "cifar10"
        for part, count in {"train": self.images, "test": max(10, self.images // 11)}.items():
            target = self.place / "images" / part
            if source.is_dir():
                link_images(source / part, target, count)
                continue
            for label in range(10):
                (target / str(label)).mkdir(parents=True)
                noise = np.random.default_rng(label).integers(256, size=(count // 10, 32, 32, 3), dtype=np.uint8)
                for number, pixels in enumerate(noise):
                    Image.fromarray(pixels).save(target / str(label) / f"{number}.png")
        return "CIFAR-10" if source.is_dir() else "random"

    @property
    def fixed(self) -> list[str]:
        """Overrides shared by all runs of the benchmark."""
        return [
            *("data=folder", "data.name=bench", f"data.root={self.place / 'images'}", "data.image_size=32"),
            *("augment=crop_flip", "budget=steps", "logger=none"),
            *(f"machine.device={self.torch_device.type}", f"machine.data_dir={self.place / 'data'}"),
        ]

    def run(self, model: str, *overrides: str) -> RunConfig:
        own = [f"model={model}", f"n_train={self.images * 8 // 10}", f"machine.outputs={self.place / 'outputs'}"]
        return parse_run(composed("train", [*self.fixed, *own, *overrides]))

    def measure(
        self, run: RunConfig, way: Way, *, count: int = 1, profiled: bool = False, mps: dict[str, str] | None = None
    ) -> Row:
        """Return one row with the measurement of `count` concurrent processes that train in one way."""
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        bound = self.torch_device.type == "cpu"  # to one core each; DataLoader workers would only add their own cost
        shutil.rmtree(self.place / "outputs", ignore_errors=True)
        calls = []
        for i in range(count):
            machine = run.machine.model_copy(update={"outputs": str(self.place / "outputs" / str(i))})
            core, workers = (cores[i % len(cores)], 0) if bound else (None, len(cores))
            own = run.model_copy(update={"machine": machine})
            calls.append((own, way, self.steps, core, workers, profiled, self.timm))
        rows = apart(measure, calls, mps)
        rate = sum(row["seconds"] * row["images_per_second"] for row in rows) / max(row["seconds"] for row in rows)
        return rows[0] | {
            "images_per_second": rate,
            "flops_per_second": rows[0]["flops_per_image"] * rate,
            "peak_bytes": sum(row["peak_bytes"] for row in rows),
        }

    def conditions(self) -> Row:
        return {
            "device": device_name(self.torch_device),
            "cores": len(os.sched_getaffinity(0)),
            "threads": 1,
            "torch_device": self.torch_device.type,
            "load_average_before": os.getloadavg()[0],
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "repeats": self.repeats,
            "versions": package_versions(),
            "git": git_state(),
        }


def link_images(source: Path, target: Path, count: int, turn: int = 0) -> None:
    """Link `count` images of a folder, as many per class; with `turn` 1, 2, … the following ones, cyclically."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    each = count // len(classes)
    for folder in classes:
        (target / folder.name).mkdir(parents=True)
        files = deque(sorted(folder.iterdir()))
        files.rotate(-turn * each)
        for file in itertools.islice(files, each):
            (target / folder.name / file.name).symlink_to(file.resolve())


def harness(bench: Bench, save: Save) -> None:
    """Our loop against a plain loop of the same steps: the cost of Lightning and our own code."""
    _races(bench, save, "Cost of the harness, images per second", ["ours", "plain"], "plain", [(32, "none")])


def steady(bench: Bench, save: Save) -> None:
    """Training alone, on one core or one GPU."""
    ways = ["ours", "plain", "idiomatic", "idiomatic_tuned", *(["timm"] if bench.timm else [])]
    cases = list(itertools.product(bench.pixels, bench.policies))
    _races(bench, save, "Training alone, images per second", ways, "idiomatic", cases)


def _races(
    bench: Bench, save: Save, title: str, ways: Sequence[str], against: str, cases: Sequence[tuple[int, str]]
) -> None:
    peak, races = apart(matmul_peak, [(bench.torch_device,)])[0], {}
    for model, (pixels, policy) in itertools.product(bench.networks, cases):
        policies = [] if policy == "none" else [f"+augment.policy={policy}"]
        run = bench.run(model, f"data.name=bench_{pixels}", f"data.image_size={pixels}", *policies)
        rows = in_turns(ways, bench.repeats, partial(bench.measure, run))
        summary = summarise(rows, "images_per_second", against)
        for way, values in summary.items():
            own = [row for row in rows if row["way"] == way]
            values["share_of_matmul"] = mean(row["flops_per_second"] for row in own) / peak
            values["peak_bytes"] = max(row["peak_bytes"] for row in own)
        race = f"{model} {pixels} px {'crop_flip' if policy == 'none' else policy}"
        races[race] = {"rows": rows, "images_per_second": summary}
        save({"matmul_flops_per_second": peak, "races": races, "table": race_table(title, races, against)})


def gpu(bench: Bench, save: Save) -> None:
    """Every engine and the other ways, 1, 2 and 4 runs at a time, without and with MPS; a failure is a row too."""
    deadline, peak, rows = (
        time.monotonic() + bench.limit_seconds,
        apart(matmul_peak, [(bench.torch_device,)])[0],
        list[Row](),
    )
    cases = list(itertools.product(bench.batches, bench.networks))

    def add(ways: Sequence[Way], counts: Sequence[int] = (1,), mps: dict[str, str] | None = None) -> None:
        for (batch, model), way, count in itertools.product(cases, ways, counts):
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

    ways = [*(bench.ways or get_args(Way)[1:-1]), *(["timm"] if bench.timm else [])]
    add([way for way in ways if way != "compile"])
    add(["ours"], (2, 4))
    with mps_daemon() as environment:
        if environment is not None:
            add(["ours"], (1, 2, 4), environment)
    add([way for way in ways if way == "compile"])  # last: compiling takes a minute


@contextmanager
def mps_daemon() -> Iterator[dict[str, str] | None]:
    """Run CUDA's MPS daemon and yield the environment of its clients; None if it does not start."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path must be short
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        control = partial(subprocess.run, env=os.environ | places, stdout=subprocess.DEVNULL, timeout=30)
        try:  # its output is not ours: the daemon would keep it open
            control(["nvidia-cuda-mps-control", "-d"], stderr=subprocess.DEVNULL, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"MPS is left out: {error}", flush=True)
            yield None
            return
        try:
            yield places
        finally:
            with suppress(subprocess.SubprocessError):
                control(["nvidia-cuda-mps-control"], input="quit\n", text=True)


def minisweep(bench: Bench, save: Save) -> None:
    """Wall time of 12 runs: as one sweep of ours, and as one process per run of the idiomatic way and of timm's script.

    Their processes run one after the other on all cores; timm's also two at once on half of them.
    """
    log, images, turn = bench.place / "minisweep.log", bench.place / "images", itertools.count()
    sizes = [n for n in (100, 1_000, 10_000) if n <= 0.8 * bench.images]
    fixed = [f"budget.steps={bench.mini_steps}", "budget.evaluations=2"]
    axes: dict[str, Any] = {"model": bench.networks, "n_train": sizes, "chain": [0, 1]}
    runs = [bench.run(m, *fixed, f"n_train={n}", f"chain={c}") for m, n, c in itertools.product(*axes.values())]
    apart(open_dataset, [(runs[0].data, Path(runs[0].machine.data_dir))])  # decoding is not timed

    def ours() -> None:
        given = [override("sweep.axes", axes), "sweep.name=bench", f"set={json.dumps(bench.fixed + fixed)}"]
        _call(["scripts/sweep.py", f"outputs={bench.place}/sweep-{next(turn)}", *given], log)

    def theirs(module: str, *given: str, at_once: int = 1) -> None:
        threads = str(max(1, len(os.sched_getaffinity(0)) // at_once))
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda run: _call(["-m", module, *given], log, run.model_dump_json(), threads), runs))

    def timed(way: str) -> Row:
        started = time.perf_counter()
        ways[way]()
        return {"wall_seconds": time.perf_counter() - started}

    ways: dict[str, Callable[..., None]] = {"ours": ours, "idiomatic": partial(theirs, "benchmarks.idiomatic")}
    if bench.timm is not None:
        for run in runs:  # timm's script trains on all images of a folder
            link_images(images / "train", bench.place / run.run_id / "train", run.n_train, run.chain)
            (bench.place / run.run_id / "test").symlink_to(images / "test", target_is_directory=True)
        ways["timm"] = partial(theirs, "benchmarks.timm_script", str(bench.timm), str(bench.place))
        ways["timm_two_at_once"] = partial(ways["timm"], at_once=2)
    rows = in_turns(list(ways), bench.repeats, timed)
    wall = summarise(rows, "wall_seconds", "ours")
    part = {"runs": len(runs), "steps": bench.mini_steps, "rows": rows, "wall_seconds": wall}
    title = f"Sweep of {len(runs)} runs of {bench.mini_steps} steps, seconds"
    save(part | {"table": race_table(title, {"mini-sweep": part}, "ours", "wall_seconds")})


def _call(arguments: list[str], log: Path, said: str = "", threads: str | None = None) -> None:
    """Run Python to its end, with its output in `log`; raise CrossoverError when it fails."""
    env = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": threads})
    with log.open("ab") as file:
        done = subprocess.run([sys.executable, *arguments], stdout=file, stderr=file, env=env, input=said, text=True)
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise CrossoverError(f"{' '.join(arguments[:3])} failed with exit status {done.returncode}: {' '.join(last)}")


PARTS = {"harness": harness, "steady": steady, "minisweep": minisweep, "gpu": gpu}
