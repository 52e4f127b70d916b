"""Claims about which runs are compared: chains, seeds, sizes, budgets and recipes of unfinished or unequal sweeps."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crossover.analysis import robustness
from crossover.analysis.estimate import estimate, for_new_images
from crossover.analysis.robustness import stability_table
from crossover.analysis.runs import AnalysisError, Method, primary_runs, read_curves, validate_runs
from crossover.analysis.verdict import analyse, curve_summary
from tests.curves import falling, known_values, only_pair, study_notes, table

REPLICATED = [
    (model, n, round(error * (1 + 0.01 * seed), 4), seed)
    for model, errors in (("resnet", (0.4, 0.3)), ("vit", (0.5, 0.2)))
    for n, error in zip((100, 1000), errors, strict=True)
    for seed in range(3)
]
"""Model, n_train, error and seed."""


def test_seeds_stand_in_for_chains_and_it_is_said() -> None:
    runs = table(falling(3000), chains=1, seeds=4)
    pair = only_pair(runs)
    assert pair["verdict"] == "crossover"
    assert pair["chains"] == 4
    assert "variation between seeds, not between training subsets" in pair["notes"][0]
    assert "about training again with other seeds on the same subsets" in study_notes(runs)
    assert "no interval is about training again" in study_notes(runs[runs["seed"] == 0])


def test_seeds_of_a_chain_are_averaged() -> None:
    runs = table(falling(3000), chains=3, seeds=4, sd=0.3)
    assert only_pair(runs)["chains"] == 3
    curves = curve_summary(runs, Method(seed=0)).set_index(["model", "n_train"])["error_mean"]
    for row in only_pair(runs)["gap"]:
        a, b = (curves[model, row["n_train"]] for model in ("resnet_tiny", "vit_tiny"))
        assert np.log(b / a) == pytest.approx(row["log_error_ratio"]), "as in the table of errors"


def test_half_done_sweep_has_a_verdict_or_a_reason() -> None:
    runs = table(falling(3000))
    for seed in range(15):
        part = runs.sample(frac=np.random.default_rng(seed).uniform(0.05, 0.9), random_state=seed)
        result = analyse(part, Method(seed=0))
        json.dumps(result, allow_nan=False)
        for pair in result["studies"][0]["pairs"]:
            assert pair["summary"]
            assert pair["verdict"] in ("crossover", "a_better", "b_better") or pair["notes"] or pair["ci_high"] is None


def test_pairs_of_runs_are_counted_in_whole_numbers() -> None:
    runs = table(falling(3000))
    left = (runs["n_train"] == 256) & (runs["chain"] == 0)
    alone = (runs["model"] == "vit_tiny") & (runs["n_train"] == 65536)
    assert "Fewer pairs of runs than the 3 elsewhere: 2 at 256 images." in study_notes(runs[~left & ~alone])


def test_one_model_or_one_size_or_one_chain_is_said() -> None:
    runs = table(falling(3000))
    alone = analyse(runs[runs["model"] == "vit_tiny"], Method(seed=0))["studies"][0]
    assert alone["pairs"] == []
    assert "Only vit_tiny has finished runs" in alone["notes"][0]
    assert "One size" in study_notes(runs[runs["n_train"] == 256])
    one = only_pair(runs[runs["chain"] == 0])
    assert one["verdict"] == "undecided"
    assert one["gap"][0]["ci_low"] is None
    assert "No replicates" in one["notes"][0]
    assert one["crossing_of_means"] == pytest.approx(3000, rel=0.3)


def test_sizes_of_one_model_alone_are_said() -> None:
    runs = table(falling(3000))
    pair = only_pair(runs[(runs["model"] == "vit_tiny") | (runs["n_train"] < 20000)])
    assert pair["n_max"] == 16384
    assert pair["verdict"] == "crossover"
    assert "Only vit_tiny has runs at 65,536 images" in pair["notes"][0]


def test_chains_of_one_model_alone_are_said_and_do_not_count() -> None:
    runs = table(falling(3000), chains=5)
    alone = (runs["model"] == "vit_tiny") & (runs["chain"] > 2)
    elsewhere = (runs["chain"] == 2) & ((runs["model"] == "vit_tiny") == (runs["n_train"] < 2000))
    pair = only_pair(runs[~alone & ~elsewhere])
    assert pair["chains"] == 2, "chain 2 has no size with runs of both"
    assert "from only 2 chains" in pair["summary"]
    assert "Only resnet_tiny has runs of chain 3, 4: the difference is not measured there." in pair["notes"]


def test_models_without_a_common_size_are_interpolated_by_chain() -> None:
    sizes = tuple(256 * 2**i for i in range(9))
    runs = table(falling(3000), sizes=sizes, subsets=0)
    odd = runs["n_train"].map(lambda n: sizes.index(n) % 2 == 1)
    apart = runs[odd == (runs["model"] == "vit_tiny")]
    pair, few = only_pair(apart), only_pair(apart.assign(n_test=300))
    for one, other in zip(pair["data_equivalence"], few["data_equivalence"], strict=True):
        if one["ci_low"] and one["ci_high"] and other["ci_low"] and other["ci_high"]:
            assert other["ci_high"] / other["ci_low"] > one["ci_high"] / one["ci_low"]
    assert few["gap"][2]["ci_high"] - few["gap"][2]["ci_low"] > pair["gap"][2]["ci_high"] - pair["gap"][2]["ci_low"]
    assert pair["verdict"] == "crossover"
    assert pair["n_star"] == pytest.approx(3000, rel=0.3)
    assert any("interpolated linearly" in note for note in pair["notes"])


def test_models_without_a_common_chain_are_compared_without_pairs() -> None:
    runs = table(falling(3000))
    runs["chain"] = runs["chain"].astype(str).str.replace(r"^", "of ", regex=True) + runs["model"]
    paired, pair = only_pair(table(falling(3000))), only_pair(runs)
    assert (pair["interval"], pair["verdict"]) == ("unpaired", "crossover")
    assert "not paired" in pair["summary"]
    assert pair["n_star"] == pytest.approx(paired["n_star"], rel=0.05)
    wide, narrow = (p["ci_high"] / p["ci_low"] for p in (pair, paired))
    assert wide > narrow  # the subsets no longer cancel
    assert any("compared without pairs" in note for note in pair["notes"])
    assert not any("Only" in note for note in pair["notes"])
    fewer = only_pair(runs[(runs["model"] == "vit_tiny") | (runs["n_train"] < 20000)])
    assert "Only vit_tiny has runs at 65,536 images: the difference is not measured there." in fewer["notes"]


@pytest.mark.parametrize("unit", ["chain", "seed"])
@pytest.mark.parametrize("shared", [0, 1])
def test_replicates_that_hardly_share_a_number_are_compared_all_the_same(unit: str, shared: int) -> None:
    runs = table(falling(3000), chains=4)
    other = runs["chain"] + (4 - shared) * (runs["model"] == "vit_tiny")
    pair = only_pair(runs.assign(**({"chain": other} if unit == "chain" else {"chain": 0, "seed": other})))
    assert (pair["verdict"], pair["interval"], pair["chains"]) == ("crossover", "unpaired", 4)
    assert "from 4 replicates of each, not paired" in pair["summary"]


def test_other_budgets_are_left_to_the_stability_table() -> None:
    short, long = table(falling(3000)), table(lambda n: 0.2, seed=1).assign(budget="1600 steps")
    both = pd.concat([short, long.assign(run_id=long["run_id"] + "-long")])
    assert only_pair(both)["n_star"] == only_pair(short)["n_star"]
    assert "30 runs of another budget than 800 steps count only in the stability table and" in study_notes(both)
    both = both.assign(last_val_error=both["val_error"])
    rows = stability_table(both, Method(seed=0)).set_index(["choice", "value"])
    assert rows.loc[("as analysed", "test_error"), "verdict"] == "crossover"
    assert rows.loc[("budget", "1600 steps"), "verdict"] == "a_better"
    assert rows.loc[("budget", "1600 steps"), "change"] == "contradicts"
    assert rows.loc[("metric", "val_error"), "change"] == "same"
    assert rows.loc[("selection", "last_val_error"), "change"] == "same"
    assert {("size left out", "4,096"), ("chain left out", "2")} <= set(rows.index)


def test_alternatives_are_prepared_once_however_many_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time would grow with the square of the models."""
    prepared: list[int] = []

    def counted(runs: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
        prepared.append(len(runs))
        return validate_runs(runs, metric)

    monkeypatch.setattr(robustness, "validate_runs", counted)
    counts = {}
    for models in (2, 4):
        parts = [table(falling(3000), models=(f"vit{i}", f"resnet{i}"), sizes=(256, 4096)) for i in range(models // 2)]
        rows = stability_table(pd.concat(parts), Method(seed=0))
        counts[rows.groupby(["a", "b"]).ngroups] = len(prepared)
        prepared.clear()
    assert counts == {1: 5, 6: 5}, "the main analysis, val_error, and each of three chains left out"


def test_without_a_size_two_crossings_are_one_and_the_claim_is_weaker() -> None:
    runs = table(lambda n: 0.3 * np.cos(np.pi * np.log(n / 256) / np.log(16)))
    rows = stability_table(runs, Method(seed=0)).set_index(["choice", "value"])
    assert rows.loc[("as analysed", "test_error"), "verdict"] == "several_crossings"
    assert tuple(rows.loc[("size left out", "256"), ["verdict", "change"]]) == ("crossover", "weaker")


def test_nothing_is_unstable_where_there_is_no_verdict() -> None:
    runs = table(falling(3000), chains=1)
    assert stability_table(runs, Method(seed=0)).empty


def test_each_model_keeps_its_own_recipe() -> None:
    runs = table(falling(3000))
    runs["recipe"] = "adamw_" + runs["model"]
    kept, notes, chosen = primary_runs(runs)
    assert len(kept) == len(runs)
    assert notes == []
    assert chosen["recipe"] == {"vit_tiny": "adamw_vit_tiny", "resnet_tiny": "adamw_resnet_tiny"}


def test_chains_of_one_pool_are_marked_and_a_wider_verdict_is_offered() -> None:
    runs = table(falling(3000, 0.1), sd=0.03)
    pair = only_pair(runs.assign(n_pool=80_000))
    assert pair["overlapping"] == [16384, 65536]
    assert pair["ci_high"] == only_pair(runs)["ci_high"]
    assert pair["new_images"]["verdict"] in ("crossover", "undecided", "a_better")
    high = pair["new_images"]["ci_high"]
    assert high is None or high > pair["ci_high"]
    whole = only_pair(runs.assign(n_pool=65_536))
    assert whole["new_images"]["n_max"] == 16384  # at the pool's size nothing is known of other images
    assert "one pool of 80,000 images" in study_notes(runs.assign(n_pool=80_000))


def test_variance_for_new_images_counts_the_shared_ones() -> None:
    """A part f of the variance is common to all chains: their spread shows 1 - f of it, their mean keeps all of f."""
    rng, f, chains = np.random.default_rng(0), 0.5, 5
    means, stated = [], []
    for _ in range(2000):
        values = np.sqrt(f) * rng.standard_normal((1, 2)) + np.sqrt(1 - f) * rng.standard_normal((chains, 2))
        found = estimate(np.array([100.0, 1000.0]), values)
        wider = for_new_images(found, np.array([f, f]))
        assert wider is not None
        means.append(wider.mean)
        stated.append(np.diag(wider.cov))
    assert np.mean(stated) >= np.var(means)
    assert np.mean(stated) < 1.5 * np.var(means)


@pytest.mark.parametrize(
    ("seeds", "leaders", "wrong"), [((1,), 1, 0), pytest.param(range(5), 2, 1, marks=pytest.mark.slow)]
)
def test_eight_equal_models_have_no_leader_among_28_pairs(seeds: Sequence[int], leaders: int, wrong: int) -> None:
    holds = alone = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        errors = {f"m{i}": (0.3 * np.exp(0.1 * rng.standard_normal((4, 3)))).tolist() for i in range(8)}
        (study,) = analyse(known_values(errors), Method(seed=0))["studies"]
        assert {pair["family"]["pairs"] for pair in study["pairs"]} == {28}
        clear = [pair for pair in study["pairs"] if pair["verdict"] != "undecided"]
        alone += len(clear) > 0
        holds += any(pair["family"]["holds"] for pair in clear)
        assert all("among the 28 pairs" in p["summary"] for p in clear if not p["family"]["holds"])
    assert alone >= leaders  # single pairs find leaders where there is none
    assert holds <= wrong


def test_a_real_crossover_holds_among_many_pairs() -> None:
    models = [table(falling(3000), models=("vit_tiny", f"m{i}"), seed=i, sd=0.005, subsets=0.02) for i in range(5)]
    runs = pd.concat(models).drop_duplicates(["model", "n_train", "chain"])
    (study,) = analyse(runs, Method(seed=0))["studies"]
    assert len(study["pairs"]) == 15
    real = [pair for pair in study["pairs"] if "vit_tiny" in (pair["a"], pair["b"]) and pair["verdict"] == "crossover"]
    assert real
    assert all(pair["family"]["holds"] for pair in real)


def test_one_more_model_changes_no_other_interval() -> None:
    runs = table(falling(3000))
    more = runs[runs["model"] == "vit_tiny"].assign(model="other", test_error=lambda t: 1.1 * t["test_error"])
    more["run_id"] = "x" + more["run_id"]
    (study,) = analyse(pd.concat([more, runs]), Method(seed=0))["studies"]
    alone = only_pair(runs)
    same = next(pair for pair in study["pairs"] if {pair["a"], pair["b"]} == {"resnet_tiny", "vit_tiny"})
    assert (same["ci_low"], same["ci_high"], same["gap"]) == (alone["ci_low"], alone["ci_high"], alone["gap"])
    rows = stability_table(runs, Method(seed=0))
    first = rows[rows["choice"] == "as analysed"].iloc[0]
    assert (first["ci_low"], first["ci_high"]) == (alone["ci_low"], alone["ci_high"])


def test_a_run_that_stands_out_is_named_with_what_it_does() -> None:
    runs = table(falling(3000))
    bad = (runs["n_train"] == 4096) & (runs["model"] == "vit_tiny") & (runs["chain"] == 1)
    pair = only_pair(runs.assign(test_error=runs["test_error"].mask(bad, 0.9)))
    assert [run["run_id"] for run in pair["influential"]] == ["vit_tiny-4096-1-0"]
    assert pair["influential"][0]["verdict_without"] == "crossover"
    assert any("vit_tiny-4096-1-0" in note and "without it" in note for note in pair["notes"])
    assert only_pair(runs)["influential"] == []


def test_equal_curves_at_sizes_of_their_own_do_not_cross_because_they_bend() -> None:
    runs = [
        (model, n, chain, (0.05 + n**-0.5) * np.exp(0.003 * np.random.default_rng([n, chain]).standard_normal()))
        for model, sizes in (("resnet", (100, 1000, 10000)), ("vit", (300, 3000)))
        for n in sizes
        for chain in range(3)
    ]
    curves = pd.DataFrame(runs, columns=["model", "n_train", "chain", "test_error"])
    pair = only_pair(curves.assign(dataset="d", seed=0, budget="b", run_id=curves.index.map(str)))
    assert [row["n_train"] for row in pair["gap"]] == [300, 1000, 3000]
    assert pair["verdict"] == "undecided"


def test_one_pair_without_a_common_range_leaves_the_others_their_verdict(tmp_path: Path) -> None:
    curves = pd.concat(
        pd.DataFrame({"model": model, "n_train": sizes, "error": 0.9 * sizes**-0.3 * level})
        for model, level, sizes in (
            ("resnet", 1.0, np.geomspace(100, 1000, 9)),
            ("vit", 0.8, np.geomspace(150, 900, 9)),
            ("deit", 0.8, np.geomspace(2000, 9000, 9)),
        )
    )
    curves.to_csv(tmp_path / "c.csv", index=False)
    (study,) = analyse(read_curves(tmp_path / "c.csv"), Method(seed=0))["studies"]
    assert "vit leads resnet throughout" in study["pairs"][0]["summary"]
    assert "resnet and deit cannot be compared: no size has runs of both." in study["pairs"][1]["summary"]


def test_rows_that_a_spreadsheet_leaves_empty_are_no_runs(tmp_path: Path) -> None:
    rows = ["model,n_train,chain,error", "resnet,100,0,0.4", ",,,", "vit,100,0,", "vit,100,1,0.5", ",,,", ""]
    (tmp_path / "c.csv").write_text("\r\n".join(rows))
    curves = read_curves(tmp_path / "c.csv")
    assert list(curves["test_error"].dropna()) == [0.4, 0.5]
    assert "Left out because they have no test error: c:4." in validate_runs(curves)[1], "the line of the file"


def test_a_task_whose_runs_are_not_numbered_stands_beside_one_whose_are(tmp_path: Path) -> None:
    head = "task,model,n_train,error,seed\n"
    birds = [f"birds,{model},{n},{error},{seed}\n" for model, n, error, seed in REPLICATED]
    cars = [f"cars,{model},{n},{error},\n" for model, n, error, seed in REPLICATED if seed == 2]
    (tmp_path / "c.csv").write_text(head + "".join(birds + cars))
    one, other = (study["pairs"][0] for study in analyse(read_curves(tmp_path / "c.csv"), Method(seed=0))["studies"])
    assert (one["interval"], one["chains"], other["interval"]) == ("seeds", 3, "none")
    (tmp_path / "c.csv").write_text(head + "".join(birds).replace(",2\n", ",\n"))
    with pytest.raises(AnalysisError, match="seed is missing in 4 rows; give it in every row"):
        read_curves(tmp_path / "c.csv")
