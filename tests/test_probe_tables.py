"""From the folder of images that a user has to the table of probes by number of training images."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from crossover.report.build import publish
from crossover.report.section import markdown_part, read_sections
from crossover.store import freeze, read_sweep, write_plan
from crossover.studies.probes.study import MIXED, PROBED, probe_section
from crossover.sweep_report import present_sweep
from crossover.training.run import execute
from tests.conftest import Called
from tests.worlds import VIT, small_run


def rows(model: str, n: int, *values: float, probe: str = "linear_probe", layer: str = "stages.0") -> pd.DataFrame:
    """Return the probes of the runs of one cell, a chain each; the untrained network has 0.2 and guessing 0.1."""
    facts = {"world": "w", "augment": "none", "model": model, "n_train": n, "probe": probe, "layer": layer}
    numbers = {"untrained": 0.2, "analytic": 0.1}
    made = [facts | numbers | {"run_id": f"{model}{n}{i}", "chain": i, "value": v} for i, v in enumerate(values)]
    return pd.DataFrame(made)[list(PROBED)]


def test_cells_are_means_and_deviations_over_chains_by_size() -> None:
    parts = [rows("vit", 1000, 0.5, 0.7), rows("vit", 100, 0.3), rows("resnet", 100, 0.25, 0.35, probe="consistency")]
    (found,) = probe_section(pd.concat(parts)).parts
    assert found.tables[0].header[3:] == ["untrained", "without learning", "100", "1,000"]
    assert found.tables[0].cells == [
        ["accuracy of a linear probe", "vit", "stages.0", "0.2", "0.1", "0.3", "0.6 ± 0.14"],
        ["same answer for two shifts", "resnet", "stages.0", "0.2", "0.1", "0.3 ± 0.071", "–"],
    ]
    assert MIXED not in found.sentences


def test_worlds_have_tables_of_their_own_and_mixed_runs_are_told() -> None:
    table = pd.concat([rows("vit", 100, 0.3), rows("vit", 100, 0.3), rows("vit", 100, 0.3).assign(world="other")])
    first, second = probe_section(table).parts
    assert (first.title, second.title) == ("w, augmentation none", "other, augmentation none")
    assert MIXED in first.sentences
    assert MIXED not in second.sentences
    unknown = rows("vit", 100, 0.3).assign(untrained=np.nan)
    assert "| accuracy of a linear probe | vit | stages.0 | – | 0.1 | 0.3 |" in markdown_part(probe_section(unknown))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep over two models and two sizes, on a folder of 96 pictures in two classes."""
    folder = tmp_path_factory.mktemp("swept")
    rng = np.random.default_rng(0)
    for part, count in (("train", 32), ("test", 16)):
        for label, name in enumerate(("cat", "dog")):
            (folder / "pets" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 200, (16, 16, 3)).astype(np.uint8)
                pixels[..., 2] += 55 * label
                Image.fromarray(pixels).save(folder / "pets" / part / name / f"{i}.png")
    data = {"kind": "folder", "name": "pets", "root": str(folder / "pets"), "image_size": 16, "val_fraction": 0.25}
    models: list[dict[str, Any]] = [{}, {"model": VIT}]
    runs = [
        small_run(folder, data=data, budget={"steps": 4, "evaluations": 1}, n_train=n, **model)
        for model in models
        for n in (16, 48)
    ]
    write_plan(folder / "outputs" / "sweeps" / "pets", "pets", "make sweep SWEEP=pets", runs)
    freeze(runs)
    for run in runs:
        execute(run)
    return folder


def test_the_probes_of_a_sweep_go_from_its_folder_of_images_to_the_published_study(swept: Path, call: Called) -> None:
    outputs = swept / "outputs"
    done = call("study.py", "probe", "name=pets", f"outputs={outputs}")
    assert done.returncode == 0, done.stderr
    present_sweep(read_sweep(outputs, "pets"), outputs / "sweeps" / "pets", Console())
    publish(outputs / "sweeps" / "pets", swept / "results" / "pets")
    assert (swept / "results" / "pets" / "probes.csv").exists()
    (section,) = read_sections(swept / "results" / "pets")
    (found,) = section.parts
    assert found.title == "pets, augmentation none"
    (shown,) = found.tables
    assert shown.header[5:] == ["16", "48"]
    assert {row[1] for row in shown.cells} == {"resnet_test", "vit_test"}
    pixels = next(row for row in shown.cells if row[0] == "accuracy of a linear probe" and row[2] == "pixels")
    assert pixels[3] == pixels[5] == pixels[6] == "1", "the reader of the pixels sees the blue of the dogs"
    assert pixels[4] != "1", "and guessing does not"
    assert "| accuracy | vit_test |  | – | – |" in (swept / "results" / "pets" / "report.md").read_text()
    page = (outputs / "sweeps" / "pets" / "report.html").read_text()
    assert "What the networks have learned" in page
    assert 'download="probes.csv"' in page
