import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import peer, thousands
from benchmarks.parts import PARTS
from benchmarks.race import in_turns, summarise
from benchmarks.table import BEGIN, END, performance_block, sections
from benchmarks.worlds import with_fields
from crossover.config import CrossoverError
from crossover.store import with_block
from crossover.training.run import execute
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]


def test_contenders_are_measured_in_turns() -> None:
    rows = in_turns(["ours", "theirs"], 2, lambda way: {"seconds": float(len(way))})
    assert [(row["way"], row["repeat"]) for row in rows] == [("ours", 0), ("theirs", 0), ("ours", 1), ("theirs", 1)]


def test_ratio_is_that_of_medians_and_its_range_that_of_neighbours_in_time() -> None:
    rates = {"ours": (20.0, 30.0, 90.0), "theirs": (10.0, 20.0, 15.0)}
    rows = [{"way": way, "rate": rate} for way, values in rates.items() for rate in values]
    found = summarise(rows, "rate", "theirs")["ours"]
    assert found == {"median": 30.0, "min": 20.0, "max": 90.0, "ratio": 2.0, "ratio_min": 1.5, "ratio_max": 6.0}


def test_docs_show_the_published_measurements() -> None:
    docs = ROOT / "docs" / "performance.md"
    assert docs.read_text() == with_block(docs, BEGIN, END, performance_block(ROOT / "results" / "bench"))


def make_images(root: Path, train: int, test: int) -> None:
    """Write random images as the folder of CIFAR-10 that the mini-sweep reads, ten classes each."""
    rng = np.random.default_rng(0)
    for part, count in {"train": train, "test": test}.items():
        for number in range(count):
            folder = root / part / f"class{number % 10}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def test_invented_records_have_the_fields_of_real_ones(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    real, invented = execute(run), thousands.invent_record(run, 0.5, [0.5] * 10)
    assert set(real) == {*invented, "versions"}
    assert [set(row) for row in real["history"]] == [set(row) for row in invented["history"]]


def test_a_peer_trains_on_as_many_images_for_our_steps_to_the_nearest_epoch(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 300, 20)
    run = small_run(tmp_path, n_train=100, recipe__batch_size=32)
    folders = [peer.subset(with_fields(run, chain=chain), tmp_path / "images", tmp_path / "own") for chain in (0, 1)]
    names = [{file.name for file in (folder / "train").glob("*/*.png")} for folder in folders]
    assert [len(found) for found in names] == [100, 100]
    assert not names[0] & names[1]
    assert len(list((folders[0] / "test").glob("*/*.png"))) == 20
    given = peer.options(run, folders[0], 20, tmp_path, 2)
    assert given[given.index("--epochs") + 1] == "7"  # of 3 whole batches


def test_a_peer_is_run_once_for_each_run_with_its_options(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 120, 20)
    (tmp_path / "train.py").write_text("import sys; from timm import create_model; create_model('crossover_model')\n"
                                       "print('trained', *sys.argv[1:])\n")  # fmt: skip
    run = small_run(tmp_path, n_train=100)
    runs = [(run, peer.subset(run, tmp_path / "images", tmp_path / "own"))] * 2
    found = peer.sweep(peer.script(tmp_path), runs, 20, 2, tmp_path / "log")
    assert found["wall_seconds"] > 0
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("trained --data-dir")]
    assert len(said) == 2
    with pytest.raises(CrossoverError, match=r"train\.py is not there"):
        peer.script(tmp_path / "images")


@pytest.mark.slow
def test_commands_are_timed_on_a_sweep_with_invented_records(tmp_path: Path) -> None:
    rows = thousands.measure(tmp_path, tmp_path / "data", 1, tmp_path / "log")
    assert [row["way"] for row in rows] == list(thousands.COMMANDS)
    assert all(row["cpu_seconds"] > 0 and row["wall_seconds"] > 0 for row in rows)
    said = (tmp_path / "log").read_text()
    assert "sweep thousands: 40 runs, 40 to do" in said
    assert "vit_tiny" in said.split("report.html")[0]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_every_part_but_the_peer_measures_something(tmp_path: Path) -> None:
    make_images(tmp_path / "data" / "cifar10", 12_000, 100)
    output, parts = tmp_path / "bench.json", sorted(set(PARTS) - {"peer"})
    settings = [
        f"only=[{','.join(parts)}]",
        "quick=true",
        "mini_steps=2",
        "parity_steps=2",
        "parity_seeds=[0,1]",
        "planned=40",
    ]
    command = [sys.executable, "scripts/bench.py", *settings, f"output={output}", f"data_dir={tmp_path / 'data'}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    found = json.loads(output.read_text())
    assert sorted(found) == parts
    rates = found["harness"]["resnet_tiny"]["images_per_second"]
    assert rates["ours"]["median"] > 0
    assert rates["plain"]["ratio"] == 1.0
    assert all(section.rows for section in sections(found))
