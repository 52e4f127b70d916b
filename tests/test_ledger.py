"""From runs, probes and published studies to the measures that rules read."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch

from crossover.config import CrossoverError, validate
from crossover.record import runs_table
from crossover.store import freeze, read_record
from crossover.studies.claims import study as ledger
from crossover.studies.claims.rules import COLUMNS, EXACT, Place, Rules, judge
from crossover.studies.claims.study import operation_measures
from crossover.studies.probes import study as probing
from crossover.studies.probes.equivariance import patch_order
from crossover.studies.probes.networks import load_run
from crossover.studies.probes.study import compare_networks, dense_ratio, place_of, probe_table
from crossover.training.run import execute
from tests.networks import images, tiny, tiny_resnet
from tests.worlds import VIT, small_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs be probed in this process, which has imported torch."""
    monkeypatch.setattr(probing, "worker_processes", lambda count, context: ThreadPoolExecutor(count))


def test_worlds_have_names_that_tell_their_cues_and_their_permutation(tmp_path: Path) -> None:
    def world(**changes: Any) -> str:
        return str(place_of(small_run(tmp_path, **changes))["world"])

    assert world() == "cues"
    assert world(data__alpha=0) == "cues-local"
    assert world(data__beta=0) == "cues-global"
    assert world(data__permute={"kind": "patches", "share": 0.5}) == "cues-patches0.5"


def test_only_runs_that_a_rule_looks_into_are_probed(tmp_path: Path) -> None:
    runs = [small_run(tmp_path, n_train=n, chain=c) for n in (50, 100) for c in range(2)]
    wanted: list[Place] = [
        {"measure": "consistency", "study": "claims", "n_train": 50},
        {"measure": "test_error", "study": "claims", "n_train": 100},
        {"measure": "consistency", "study": "another", "n_train": 100},
    ]
    assert [run.n_train for run in ledger.runs_to_probe(runs, wanted)] == [50, 50]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of a small ViT."""
    run = small_run(tmp_path_factory.mktemp("run"), model=VIT, budget={"steps": 4, "evaluations": 1})
    freeze([run])
    execute(run)
    return run.run_dir


def test_a_run_is_probed_once_beside_its_untrained_start(finished: Path) -> None:
    table = probe_table([finished], 1)
    (path,) = finished.glob("probes-*.csv")
    before = path.stat().st_mtime_ns
    pd.testing.assert_frame_equal(probe_table([finished], 1), table)
    assert path.stat().st_mtime_ns == before
    assert not table.duplicated(["probe", "layer"]).any()
    found: Any = table.set_index(["probe", "layer"])
    record = read_record(finished / "record.json")
    assert found.loc[("accuracy", ""), "value"] == pytest.approx(1 - record["test_error"])
    assert pd.isna(found.loc[("accuracy", ""), "untrained"])
    assert found.loc[("attention_distance", "blocks.0"), "analytic"] == pytest.approx(2.008, abs=1e-3)
    assert found.loc[("linear_probe", "pixels"), "value"] == found.loc[("linear_probe", "pixels"), "untrained"]
    _, _, start = load_run(finished)
    torch.manual_seed(0)
    torch.testing.assert_close(start.state_dict(), tiny(seed=0).state_dict())

    measures = ledger.measures_of_probes(table, "claims")
    assert list(measures.columns) == list(COLUMNS)
    assert set(measures["state"]) == {"trained", "untrained", "analytic"}
    assert measures["value"].notna().all()
    recorded = ledger.measures_of_runs(runs_table([record]).assign(world="cues"), "claims")
    assert recorded.set_index("measure")["value"]["test_error"] == record["test_error"]
    both = pd.concat([measures, recorded])
    place: Place = {"study": "claims", "model": "vit_test", "layer": "blocks.0", "state": "trained"}
    kept = ledger.needed(both, [place | {"measure": "attention_distance"}])
    assert list(kept["measure"]) == ["attention_distance", "total_seconds"]


def test_a_run_without_weights_is_told_in_one_line(finished: Path, tmp_path: Path) -> None:
    broken = tmp_path / finished.name
    broken.mkdir()
    for name in ("config.yaml", "record.json"):
        (broken / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(CrossoverError, match=r"cannot be probed: .*weights\.safetensors cannot be read"):
        probe_table([broken], 1)


def test_published_studies_are_read_and_absent_ones_are_empty(tmp_path: Path) -> None:
    runs = {
        "run_id": ["a", "b", "c"],
        "dataset": "cues",
        "augment": "none",
        "model": "vit",
        "n_train": 10,
        "chain": [0, 1, 0],
        "budget": ["640 steps", "640 steps", "320 steps"],  # the last one is a twin, which no rule is about
        "test_error": [0.1, 0.2, 0.3],
    }
    more = {"train_error": 0.0, "params": 5, "total_seconds": 3.0}
    pd.DataFrame(runs | more).to_csv(tmp_path / "runs.csv", index=False)
    found = ledger.measures_of_study(tmp_path)
    assert list(found[found["measure"] == "test_error"]["value"]) == [0.1, 0.2]
    assert set(found["study"]) == {tmp_path.name}
    assert ledger.measures_of_study(tmp_path / "nothing").empty


def test_operations_have_their_known_answers() -> None:
    rows = operation_measures({"study": "claims", "world": "cues", "augment": "none", "layer": "", "state": "trained"})
    assert set(rows["state"]) == {"computed"}
    assert (rows["chain"] == EXACT).all()
    found = rows.set_index(["model", "measure", "layer"])["value"]
    assert found[("convolution", "shift_error_3px", "square")] <= 1e-12
    assert found[("pooling", "shift_error_8px", "photograph")] <= 1e-12
    assert found[("timm:resnet50", "params", "")] == 25_557_032
    assert found[("timm:vit_base_patch16_224", "params", "")] == 86_567_656


def test_order_of_patches_matters_to_positions_alone() -> None:
    assert patch_order(tiny(position="none"), images()).value < 1e-12
    assert patch_order(tiny(), images()).value > 1e-4


def test_dense_layers_between_the_same_maps_are_counted() -> None:
    # 16x16 everywhere in stage 1: stem 3 to 8, two 3x3 of 8 to 8; then 8x8: 8 to 16, 16 to 16, and a 1x1 shortcut
    convs = [(3, 8, 9, 256, 256), (8, 8, 9, 256, 256), (8, 8, 9, 256, 256)]
    convs += [(8, 16, 9, 256, 64), (16, 16, 9, 64, 64), (8, 16, 1, 256, 64)]
    dense = sum(i * cells * o * out for i, o, _, cells, out in convs)
    own = sum(i * o * k for i, o, k, _, _ in convs)
    assert dense_ratio(tiny_resnet(), 16).value == pytest.approx(dense / own)


def test_every_probe_reads_a_vit_of_224_px() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, depth=2).eval()
    table = compare_networks(model, copy.deepcopy(model), images(4, 224), torch.arange(4) // 2)
    assert (table["value"] - table["untrained"]).abs().max() < 1e-9
    assert {"accuracy", "position_loss"} <= set(table.loc[table["untrained"].isna(), "probe"])
    uniform = table[table["probe"] == "attention_distance"]["analytic"]
    assert uniform.to_numpy() == pytest.approx(7.281, abs=1e-3)


ATLAS = pd.DataFrame(
    [
        ("s", "t", "cnn", "vit", "crossover", "b_overtakes_a", 100, 80, 120, 0.9, 1000, -0.5, -0.7, -0.3),
        ("s", "t", "cnn", "vit_b", "a_better", None, None, 1000, None, 0.0, 1000, 0.5, 0.3, 0.7),
        ("s", "t", "cnn", "vit_c", "undecided", None, None, None, None, None, 1000, -0.5, None, None),
    ],
    columns=[
        *("set", "task", "a", "b", "verdict", "direction", "n_star", "ci_low", "ci_high", "p_in_range", "n_max"),
        *("log_ratio_n_max", "log_ratio_n_max_low", "log_ratio_n_max_high"),
    ],
)


@pytest.mark.parametrize(
    ("pair", "measure", "mean", "outcome"),
    [
        ("vit / cnn", "n_star_share", 0.1, "holds"),
        ("vit_b / cnn", "n_star_share", 1, "fails"),
        ("vit_c / cnn", "n_star_share", 1, "open"),
        ("vit / cnn", "last_error_ratio", np.exp(-0.5), "holds"),
        ("vit_b / cnn", "last_error_ratio", np.exp(0.5), "fails"),
        ("vit_c / cnn", "last_error_ratio", np.exp(-0.5), "open"),
    ],
)
def test_a_pair_of_the_atlas_is_evidence_with_its_own_interval(
    tmp_path: Path, pair: str, measure: str, mean: float, outcome: str
) -> None:
    ATLAS.to_csv(tmp_path / "atlas.csv", index=False)
    rule = {"says": "s", "measure": measure, "below": 1}
    case = {"when": "w", "at": {"study": "s", "state": "published", "world": "t", "model": pair}, "rules": [rule]}
    claim = {"name": "c", "group": "g", "text": "t", "experiment": "e", "command": "c", "cases": [case]}
    rules = validate(Rules, {"claims": [claim], "default": {"state": "trained", "layer": ""}}, "rules")
    measures = ledger.needed(ledger.measures_of_atlas(tmp_path / "atlas.csv", rules.default), rules.places)
    (judged,) = judge(rules, measures)["claims"]
    assert judged["evidence"] == "published"
    (number,) = judged["cases"][0]["rules"]
    assert number["mean"] == pytest.approx(mean)
    assert number["outcome"] == outcome


def test_a_claim_names_its_evidence() -> None:
    trained = {"when": "w", "at": {"n_train": 1}, "rules": [{"says": "s", "measure": "test_error", "below": 1}]}
    other = trained | {"at": {"state": "published"}}
    facts = {"group": "g", "text": "t", "experiment": "e", "command": "c"}
    claims = [facts | {"name": "a", "cases": [trained]}, facts | {"name": "b", "cases": [trained, other]}]
    rules = validate(Rules, {"claims": claims, "default": {"state": "trained"}}, "rules")
    judged = judge(rules, pd.DataFrame(columns=list(COLUMNS)))["claims"]
    assert [claim["evidence"] for claim in judged] == ["ours", "both"]


def test_the_published_ledger_reads_the_published_atlas() -> None:
    default: Place = {"world": "cues", "augment": "none", "layer": ""}
    atlas = ledger.measures_of_atlas(ROOT / "results" / "atlas" / "atlas.csv", default)
    kept = pd.read_csv(ROOT / "results" / "claims" / "measures.csv", keep_default_na=False)
    kept = kept[kept["state"] == "published"]
    key = ["study", "world", "model", "measure"]
    both = kept.merge(atlas, on=key, suffixes=("", "_atlas"))
    assert len(kept) == len(both) > 50
    assert both["value"].to_list() == pytest.approx(both["value_atlas"].to_list(), rel=1e-6)
