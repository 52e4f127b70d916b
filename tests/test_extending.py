"""The how-tos of docs/extending.md: each is done as the page says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from crossover import fields
from crossover.config import CrossoverError
from crossover.data import readers
from crossover.data.cache import open_dataset
from crossover.data.loader import EvalBatches, Images
from crossover.fields import ModelConfig
from crossover.report.section import read_sections
from crossover.store import write_json, write_plan
from crossover.studies.probes import study
from crossover.sweep.plan import sweep_dir
from crossover.training import run as running
from crossover.training.models import build_model
from tests.reported import record
from tests.worlds import small_run

ROOT = Path(__file__).parents[1]


def blocks(language: str) -> list[str]:
    """Return the blocks of code of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)


def test_the_model_of_the_how_to_is_built_from_its_yaml_alone() -> None:
    values = yaml.safe_load(blocks("yaml")[0])
    (default,) = values.pop("defaults")
    assert (ROOT / "conf" / "recipe" / f"{default['override /recipe@_global_.recipe']}.yaml").exists()
    with torch.device("meta"):
        model = build_model(ModelConfig(**values), image_size=72, classes=10)
    assert sum(1 for _ in model.parameters()) > 100


def test_the_block_for_notebooks_loads_a_trained_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "tune_allocator", lambda: None)  # it is for the whole process
    run = small_run(tmp_path)
    record = running.execute(run)
    write_json(run.run_dir / "config.yaml", run.model_dump(mode="json"))
    (block,) = (block for block in blocks("python") if "RUN_ID" in block)
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(block.replace("RUN_ID", run.run_id), names)
    dataset = open_dataset(run.data, tmp_path / "data")
    test = Images(dataset, np.arange(200), torch.device("cpu"), float("inf"), test=True)
    measured = running.evaluate(names["model"], EvalBatches(test, batch_size=100), "fp32")
    assert measured.error == record["test_error"]
    with safe_open(run.run_dir / "weights.safetensors", "pt") as saved:
        assert ModelConfig.model_validate_json(saved.metadata()["model"]) == run.model


def test_a_data_set_of_another_format_is_a_yaml_and_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(16, 1).repeat(16, 2).repeat(3, 3)
    labels = np.arange(40) % 2
    values = yaml.safe_load(blocks("yaml")[1])
    with pytest.raises(CrossoverError, match=r"data\.kind=shapes has no reader; allowed: cues, cifar10"):
        small_run(tmp_path, data=values)
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "shapes.py").write_text(blocks("python")[0])
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "readers")])
    monkeypatch.setattr(fields, "KINDS", (*fields.KINDS, "shapes"))
    (tmp_path / "shapes").mkdir()
    np.savez(tmp_path / "shapes/shapes.npz", x=pixels, y=labels, x_test=pixels[:10], y_test=labels[:10])
    dataset = open_dataset(small_run(tmp_path, data=values).data, tmp_path)
    assert dataset.classes == ("disc", "square")
    assert np.array_equal(dataset.images, pixels)
    assert len(dataset.val) == 4


def test_the_probe_of_the_how_to_needs_nothing_but_its_function() -> None:
    (block,) = (block for block in blocks("python") if "brightness" in block)
    names = dict(vars(study))
    exec(block, names)
    images = torch.zeros(2, 1, 2, 2)
    found = names["brightness"](torch.nn.Flatten(), images + 1)
    assert found.probe == "brightness_change"
    assert found.value == pytest.approx(0.1)


def test_the_section_of_the_how_to_is_written_beside_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, directory = small_run(tmp_path), sweep_dir("outputs", "quick")
    write_plan(directory, "quick", "make sweep", [run])
    run.run_dir.mkdir(parents=True)
    write_json(
        run.run_dir / "record.json", record("resnet_test", 100, 0, 0.5) | {"finished": "2026-01-02T03:04:05+00:00"}
    )
    (block,) = (block for block in blocks("python") if "write_section" in block)
    exec(block, {})
    (section,) = read_sections(directory)
    assert (section.title, section.sentences) == ("When the runs were done", ("On 2026-01-02.",))
