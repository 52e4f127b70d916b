"""Every bad input ends in its message, and changes nothing on disk."""

import io
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from crossover.analysis.runs import read_curves
from crossover.cli import one_line, resolved
from crossover.config import parse_run, validate
from crossover.data.cache import decode, open_dataset
from crossover.data.readers import cifar10, folder, tiny_imagenet
from crossover.fields import ImageData
from crossover.report.contents import read_predictions
from crossover.store import NEEDED, read_frozen, read_plan, read_record, read_sweep
from crossover.sweep.launch import SweepOptions
from crossover.sweep.plan import SweepConfig, named, plan_runs
from crossover.sweep.slurm import noted_tasks
from tests.worlds import small_run

CONF = str(Path(__file__).parents[1] / "conf")
Action = Callable[[Path], object]


@dataclass(frozen=True)
class Bad:
    """An action on a folder that must fail with a message; `files` are put there first."""

    name: str
    action: Action
    message: str
    files: tuple[tuple[str, str | bytes], ...] = ()


def train(*overrides: str) -> Action:
    def action(_: Path) -> object:
        with initialize_config_dir(CONF, version_base="1.3"):
            return parse_run(resolved(compose("train", list(overrides))))

    return action


def run_with(**changes: Any) -> Action:
    return lambda folder: small_run(folder, **changes)


def sweep(extra: tuple[str, ...] = (), **values: Any) -> Action:
    def action(folder: Path) -> object:
        parsed = named(validate(SweepConfig, {"name": "s"} | values, "sweep"), extra)
        with initialize_config_dir(CONF, version_base="1.3"):
            return plan_runs(parsed, extra=extra, outputs=str(folder))

    return action


def launcher(**values: Any) -> Action:
    sweep = {"name": "s", "axes": {"chain": [0]}}
    return lambda _: validate(SweepOptions, {"sweep": sweep, "launcher": values, "outputs": "o"}, "sweep")


def on(function: Callable[[Path], object], name: str) -> Action:
    return lambda folder: function(folder / name)


def unpack(folder: Path) -> object:
    with tempfile.TemporaryDirectory() as scratch:
        return cifar10.read(folder, None, Path(scratch))


def arrays(**values: list[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)  # type: ignore[arg-type]
    return buffer.getvalue()


def predictions(folder: Path) -> object:
    return read_predictions({"run": folder / "p.npz"})


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG = picture("PNG"), picture("JPEG")
PETS = ImageData(kind="folder", name="pets", root="pets", image_size=16, val_fraction=0.2)
PLAN_OF_NUMBERS = '{"name": "s", "command": "make", "runs": [1]}'
RECORD_OF_TEXT = json.dumps({"schema": 1} | dict.fromkeys(NEEDED, "x"))
OF_TEXT = arrays(labels=["a"], predictions=["b"])
CURVE = "model,n_train,error\n"
KINDS = "data.kind=lmdb has no reader; allowed: cues, cifar10, cifar5m, folder, tiny_imagenet"

CONFIGS = [
    Bad("unknown model", train("model=resnet_9000"), "no model named 'resnet_9000'; there is"),
    Bad("unknown data", train("data=mnist"), "no data named 'mnist'; there is"),
    Bad("unknown recipe", train("recipe=adam"), "no recipe named 'adam'; there is"),
    Bad("unknown augmentation", train("augment=mild"), "no augment named 'mild'; there is"),
    Bad("unknown budget", train("budget=hours"), "no budget named 'hours'; there is"),
    Bad("unknown logger", train("logger=mlflow"), "no logger named 'mlflow'; there is"),
    Bad("misspelt key", train("n_trian=5"), "unknown key n_trian (did you mean n_train?)"),
    Bad("misspelt nested key", train("data.alhpa=1"), "unknown key data.alhpa (did you mean alpha?)"),
    Bad("not Hydra's grammar", train("n_train=[1"), "is not KEY=VALUE as Hydra reads it; put quotes around"),
    Bad("folder without root", train("data=folder", "data.name=pets"), "data.root has no value; give it"),
    Bad("two durations", train("budget.epochs=2"), "exactly one of budget.steps, epochs, examples, flops"),
    Bad("no duration", train("budget.steps=null"), "exactly one of budget.steps, epochs, examples, flops; got none"),
    Bad("zero steps", train("budget.steps=0"), "budget.steps: Input should be greater than or equal to 1 (got '0')"),
    Bad("negative images", train("n_train=-4"), "n_train: Input should be greater than or equal to 1"),
    Bad("fewer images than classes", train("n_train=5"), "n_train=5 is below the 10 classes of cues"),
    Bad("more images than the pool", run_with(n_train=1201), "n_train=1201 is over the pool of 1200"),
    Bad("text for a number", train("n_train=many"), "n_train: Input should be a valid integer"),
    Bad("negative rate", run_with(recipe__lr=-1), "recipe.lr: Input should be greater than 0"),
    Bad("zero rate", run_with(recipe__lr=0), "recipe.lr: Input should be greater than 0"),
    Bad("endless rate", run_with(recipe__lr=math.inf), "recipe.lr: Input should be a finite number"),
    Bad("endless budget", run_with(budget={"epochs": math.inf}), "budget.epochs: Input should be a finite number"),
    Bad("endless argument", run_with(model__args={"mlp_ratio": math.inf}), "model.args: Out of range float values"),
    Bad("averages over nothing", run_with(recipe={"betas": [2, 3]}), "recipe.betas.0: Input should be less than 1"),
    Bad("mixtures without end", run_with(augment={"mixup": 1e300}), "augment.mixup: Input should be less than"),
    Bad("seed of 77 bits", run_with(seed=10**23), "seed: Input should be less than 9223372036854775808"),
    Bad("chain of 77 bits", run_with(chain=10**23), "chain: Input should be less than 9223372036854775808"),
    Bad("no name of a model", train("model="), "no model named ''; there is"),
    Bad("batch of one", run_with(recipe__batch_size=1), "recipe.batch_size: Input should be greater"),
    Bad("unknown optimiser", run_with(recipe__optimizer="lion"), "recipe.optimizer: Input should be 'adamw' or 'sgd'"),
    Bad("warm-up over all", run_with(recipe__warmup=1.5), "recipe.warmup: Input should be less than 1"),
    Bad("smoothing of one", run_with(recipe__label_smoothing=1), "recipe.label_smoothing: Input should be less"),
    Bad("average of one", run_with(recipe__ema_decay=1), "recipe.ema_decay: Input should be less than 1"),
    Bad("unknown selection", run_with(recipe__select="best_test"), "recipe.select: Input should be 'best_val' or"),
    Bad("unknown policy", run_with(augment__policy="auto"), "augment.policy: Input should be 'none'"),
    Bad("magnitude of 31", run_with(augment__policy_magnitude=31), "augment.policy_magnitude: Input should be less"),
    Bad("negative mixup", run_with(augment__mixup=-1), "augment.mixup: Input should be greater"),
    Bad(
        "family unknown",
        run_with(model__name="mlp"),
        "model.name=mlp does not begin with its family",
    ),
    Bad("script in a name", run_with(model__name="vit<script>"), "model.name: String should match pattern"),
    Bad("path in the name of data", run_with(data__name="../x"), "data.name: String should match pattern"),
    Bad("script in the name of data", run_with(data__name="<script>"), "data.name: String should match pattern"),
    Bad("path in a recipe", run_with(recipe__name="a/b"), "recipe.name: String should match pattern"),
    Bad("path in an augmentation", run_with(augment={"name": "../x"}), "augment.name: String should match pattern"),
    Bad("unknown device", run_with(machine__device="tpu"), "machine.device: Input should be 'auto', 'cpu' or 'cuda'"),
    Bad("no threads", run_with(machine__threads=0), "machine.threads: Input should be greater"),
    Bad("key in a model", run_with(model__depth=3), "model.depth: Extra inputs are not permitted"),
    Bad("unknown kind of data", train("data.kind=lmdb"), f"bad configuration: data: {KINDS}"),
    Bad("unknown kind of images", train("data=cifar10", "data.kind=lmdb"), f"bad configuration: data: {KINDS}"),
    Bad("no kind of data", run_with(data={"name": "x"}), "data.kind=None has no reader; allowed: cues"),
    Bad("list for data", run_with(data=["cues"]), "data: Input should be a valid dictionary"),
    Bad("name of a kilobyte", run_with(data__name="x" * 1000), "data.name: String should have at most 100 characters"),
    Bad("probability of two", run_with(data__q=2), "data.q: Input should be less than or equal to 1"),
    Bad("unequal shares", run_with(trainer={"devices": 3}), "batch_size=16 cannot be split among 3 devices"),
    Bad("no evaluations", run_with(budget={"steps": 5, "evaluations": 0}), "budget.evaluations: Input should be"),
]
SWEEPS = [
    Bad("no axes", sweep(axes={}), "sweep s has no runs: give values to axes"),
    Bad("empty axis", sweep(axes={"n_train": []}), "give values to n_train"),
    Bad("misspelt axes", sweep(axis={"n_train": [1]}), "axis: Extra inputs are not permitted"),
    Bad("path in a name", sweep(name="../x", axes={"chain": [0]}), "name: String should match pattern"),
    Bad("axis given twice", sweep(("n_train=5",), axes={"n_train": [100]}), "n_train is an axis of sweep s"),
    Bad("axis of a scalar", sweep(axes={"n_train": 100}), "axes.n_train: Input should be a valid list"),
    Bad("unknown choice", sweep(axes={"model": ["cnn"], "n_train": [100]}), "no model named 'cnn'; there is"),
    Bad("a run beyond the pool", sweep(axes={"n_train": [100, 10**7]}), "n_train=10000000 is over the pool"),
]
LAUNCHERS = [
    Bad("unknown launcher", launcher(kind="ray"), "'ray'"),
    Bad("no kind", launcher(parallel=2), "bad sweep: launcher"),
    Bad("no slots", launcher(kind="local", parallel=0), "launcher.parallel: Input should be greater"),
    Bad("misspelt setting", launcher(kind="slurm", partitions="gpu"), "partitions: Extra inputs are not permitted"),
    Bad("Slurm's settings at home", launcher(kind="local", partition="gpu"), "partition: Extra inputs"),
    Bad("no time", launcher(kind="slurm", timeout_min=0), "timeout_min: Input should be greater"),
    Bad("one text for lines", launcher(kind="slurm", setup="module load"), "setup: Input should be a valid list"),
    Bad("empty jobs", launcher(kind="slurm", runs_per_job=0), "runs_per_job: Input should be greater"),
]
IMAGES = [
    Bad(
        "text as PNG",
        on(lambda p: decode(p, 16), "x.png"),
        "(not an image): replace it with",
        (("x.png", "hi"),),
    ),
    Bad("empty PNG", on(lambda p: decode(p, 16), "x.png"), "(not an image)", (("x.png", b""),)),
    Bad("cut PNG", on(lambda p: decode(p, 16), "x.png"), "images are never skipped", (("x.png", PNG[:50]),)),
    Bad("cut JPEG", on(lambda p: decode(p, 16), "x.jpg"), "images are never skipped", (("x.jpg", JPEG[:300]),)),
    Bad("no folder", on(folder.read, "nowhere"), "does not exist: put the images there as"),
    Bad("no test images", on(folder.read, "p"), "lacks a train folder beside", (("p/train/a/1.png", PNG),)),
    Bad(
        "one class",
        on(folder.read, "p"),
        "has 1 class folders: it needs two",
        (("p/train/a/1.png", PNG), ("p/test/a/1.png", PNG)),
    ),
    Bad(
        "a stray file",
        on(folder.read, "p"),
        "photo.heic is not an image of the allowed types",
        (("p/train/a/photo.heic", "x"), ("p/train/b/1.png", PNG), ("p/test/a/1.png", PNG), ("p/test/b/1.png", PNG)),
    ),
    Bad(
        "a class that is not tested",
        on(folder.read, "p"),
        "must have the same class folders; only one of them has b",
        (("p/train/a/1.png", PNG), ("p/train/b/1.png", PNG), ("p/test/a/1.png", PNG), ("p/test/c/1.png", PNG)),
    ),
    Bad("no data", lambda p: open_dataset(PETS, p), "pets does not exist: put the images there"),
    Bad("no Tiny-ImageNet", on(tiny_imagenet.read, "t"), "wnids.txt does not exist: unpack the public archive"),
]
ARCHIVES = [
    Bad(
        "text as archive",
        unpack,
        "is damaged: a checksum is not that",
        (("cifar-10-python.tar.gz", "hello"),),
    ),
    Bad("empty archive", unpack, "is damaged: a checksum is not that", (("cifar-10-python.tar.gz", b""),)),
    Bad("other pickles", unpack, "is damaged", (("cifar-10-batches-py/data_batch_1", b"\x80\x04."),)),
]
RECORDS = [
    Bad("torn record", on(read_record, "r"), "is not a whole record", (("r", '{"schema": 1, "ru'),)),
    Bad("empty record", on(read_record, "r"), "is not a whole record", (("r", ""),)),
    Bad("record of a later version", on(read_record, "r"), "has schema 99", (("r", '{"schema": 99}'),)),
    Bad("a list as record", on(read_record, "r"), "has schema None", (("r", "[]"),)),
    Bad("torn plan", on(read_plan, "p"), "is not a whole plan", (("p", '{"name"'),)),
    Bad("plan of a list", on(read_plan, "p"), "is not a whole plan (Input should be a valid dict", (("p", "[]"),)),
    Bad("plan of numbers", on(read_plan, "p"), "runs.0: Input should be a valid string", (("p", PLAN_OF_NUMBERS),)),
    Bad("record of nothing", on(read_record, "r"), "lacks run_id, dataset, model", (("r", '{"schema": 1}'),)),
    Bad("deep record", on(read_record, "r"), "is not a whole record (maximum rec", (("r", "[" * 100_000),)),
    Bad("record of text", on(read_record, "r"), "git: Input should be a valid dict", (("r", RECORD_OF_TEXT),)),
    Bad("empty predictions", predictions, "p.npz cannot be read (No data left in file); move", (("p.npz", b""),)),
    Bad("text as predictions", predictions, "p.npz cannot be read (", (("p.npz", "hello"),)),
    Bad("cut predictions", predictions, "p.npz cannot be read (File is not a zip", (("p.npz", b"PK\x03\x04"),)),
    Bad("predictions of text", predictions, "p.npz cannot be read (no lists of classes)", (("p.npz", OF_TEXT),)),
    Bad("torn frozen config", read_frozen, "config.yaml cannot be read", (("config.yaml", "{"),)),
    Bad("no frozen config", read_frozen, "config.yaml cannot be read"),
    Bad("frozen config of nothing", read_frozen, "config.yaml", (("config.yaml", '{"machine": {}}'),)),
    Bad("unknown sweep", lambda p: read_sweep(p, "quack"), "no sweep 'quack' in"),
    Bad("torn jobs", noted_tasks, "5.json is damaged; move it away", (("jobs/5.json", "{"),)),
]
CURVES = [
    Bad("no curves", on(read_curves, "c.csv"), "c.csv"),
    Bad("empty curves", on(read_curves, "c.csv"), "c.csv", (("c.csv", ""),)),
    Bad("missing column", on(read_curves, "c.csv"), "error", (("c.csv", "model,n_train\na,1\n"),)),
    Bad("text for an error", on(read_curves, "c.csv"), "error", (("c.csv", CURVE + "a,10,low\n"),)),
    Bad("percent for a fraction", on(read_curves, "c.csv"), "error", (("c.csv", CURVE + "a,10,43\n"),)),
    Bad(
        "curves in UTF-16",
        on(read_curves, "c.csv"),
        "cannot be read as CSV (not text); needed: model, n_train, error, with commas between them, in UTF-8",
        (("c.csv", CURVE.encode("utf-16")),),
    ),
    Bad(
        "a decimal comma",
        on(read_curves, "c.csv"),
        "got 0,4; write it with digits",
        (("c.csv", CURVE + 'a,10,"0,4"\n'),),
    ),
    Bad("1k images", on(read_curves, "c.csv"), "n_train must be a number; got 1k", (("c.csv", CURVE + "a,1k,0.4\n"),)),
    Bad("no end of images", on(read_curves, "c.csv"), "got inf", (("c.csv", CURVE + "a,1e400,0.4\na,9,0.4\n"),)),
    Bad("a longer row", on(read_curves, "c.csv"), "saw 6); needed", (("c.csv", CURVE + "a,10,0.4\na,20,0.3,1,2,3\n"),)),
    Bad(
        "longer rows",
        on(read_curves, "c.csv"),
        "rows with more fields than its header",
        (("c.csv", CURVE + "a,10,0.4,7\n"),),
    ),
    Bad(
        "tests without images",
        on(read_curves, "c.csv"),
        "n_test must be a number of images, at least 1; got 0",
        (("c.csv", "model,n_train,error,n_test\na,10,0.4,0\n"),),
    ),
    Bad(
        "names that look alike",
        on(read_curves, "c.csv"),
        "2 rows are duplicates, such as model=vit",
        (("c.csv", CURVE + "vit,10,0.4\nv\u200bit,10,0.3\n"),),
    ),
    Bad("negative size", on(read_curves, "c.csv"), "n_train", (("c.csv", CURVE + "a,-10,0.4\n"),)),
]
ALL = CONFIGS + SWEEPS + LAUNCHERS + IMAGES + ARCHIVES + RECORDS + CURVES


def snapshot(folder: Path) -> dict[str, bytes | None]:
    found = {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return {name: content for name, content in found.items() if content is not None}


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.name)
def test_bad_input_ends_in_its_message_and_changes_nothing(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in bad.files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    before = snapshot(tmp_path)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the message is what counts
        bad.action(tmp_path)
    line = one_line(caught.value)
    assert bad.message in line
    assert "\n" not in line
    assert snapshot(tmp_path) == before


def test_there_are_sixty_of_them() -> None:
    assert len({bad.name for bad in ALL}) == len(ALL) >= 60
