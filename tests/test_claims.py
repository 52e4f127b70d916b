"""Rules and verdicts of the ledger on measures whose answer is known."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from crossover.analysis.runs import AnalysisError
from crossover.config import CrossoverError, validate
from crossover.report.section import markdown_part, read_sections
from crossover.studies.claims.page import claimed, ledger_section, number, write_ledger
from crossover.studies.claims.rules import (
    COLUMNS,
    EXACT,
    Outcome,
    Rules,
    case_outcome,
    judge,
    verdict,
)

ROOT = Path(__file__).parents[1]
DEFAULT = {"study": "claims", "world": "cues", "augment": "none", "layer": "", "state": "trained"}


def table(*rows: tuple[str, int, list[float]], measure: str = "test_error") -> pd.DataFrame:
    """Return measures of (model, n_train, value of each chain); a single value is exact."""
    found = []
    for model, n, values in rows:
        for chain, value in enumerate(values):
            row = DEFAULT | {"model": model, "n_train": n, "measure": measure, "value": value}
            found.append(row | {"chain": EXACT if len(values) == 1 else chain})
    return pd.DataFrame(found, columns=list(COLUMNS))


def rules(*cases: list[dict[str, Any]], **changes: Any) -> Any:
    claim = {"name": "one", "group": "g", "text": "t", "experiment": "e", "command": "c"} | changes
    given = [{"when": f"case {i}", "at": {"n_train": 10}, "rules": list(case)} for i, case in enumerate(cases)]
    return validate(Rules, {"default": DEFAULT, "claims": [claim | ({"cases": given} if given else {})]}, "rules")


def rule(**changes: Any) -> dict[str, Any]:
    return {"says": "s", "measure": "test_error", "at": {"model": "vit"}, "against": {"model": "resnet"}} | changes


@pytest.mark.parametrize(
    ("vit", "side", "outcome"),
    [
        ([0.30, 0.31, 0.32], {"above": 0}, "holds"),
        ([0.10, 0.11, 0.12], {"above": 0}, "fails"),
        ([0.10, 0.20, 0.35], {"above": 0}, "open"),
        ([0.30, 0.31, 0.32], {"below": 0}, "fails"),
        ([0.20, 0.21, 0.22], {"above": -0.1, "below": 0.1}, "holds"),
        ([0.40, 0.41, 0.42], {"above": -0.1, "below": 0.1}, "fails"),
        ([0.10, 0.20, 0.35], {"above": -0.1, "below": 0.1}, "open"),
    ],
)
def test_an_interval_on_one_side_decides(vit: list[float], side: dict[str, float], outcome: Outcome) -> None:
    measures = table(("vit", 10, vit), ("resnet", 10, [0.20, 0.21, 0.22]))
    (claim,) = judge(rules([rule(**side)]), measures)["claims"]
    assert claim["cases"][0]["outcome"] == outcome


def test_the_interval_is_that_of_paired_differences_over_chains() -> None:
    measures = table(("vit", 10, [0.3, 0.5, 0.4]), ("resnet", 10, [0.2, 0.3, 0.1]))
    found = judge(rules([rule(above=0)]), measures)["claims"][0]["cases"][0]["rules"][0]
    # differences 0.1, 0.2, 0.3: mean 0.2, standard deviation 0.1, t(0.975, 2) = 4.3027
    assert (found["mean"], found["chains"]) == (pytest.approx(0.2), 3)
    assert found["low"] == pytest.approx(0.2 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    ratio = judge(rules([rule(above=0, scale="log")]), table(("vit", 10, [0.4]), ("resnet", 10, [0.1])))
    assert ratio["claims"][0]["cases"][0]["rules"][0]["mean"] == pytest.approx(1.386294, abs=1e-6)


def test_a_difference_of_differences_and_another_measure_are_found() -> None:
    measures = table(("vit", 10, [0.5]), ("resnet", 10, [0.2]), ("vit", 20, [0.4]), ("resnet", 20, [0.3]))
    found = judge(rules([rule(between={"n_train": 20}, above=0)]), measures)["claims"][0]["cases"][0]["rules"][0]
    assert found["mean"] == pytest.approx((0.5 - 0.2) - (0.4 - 0.3))
    other = pd.concat([measures, table(("vit", 10, [0.1]), measure="train_error")])
    found = judge(rules([rule(against={"measure": "train_error"}, above=0)]), other)["claims"][0]["cases"][0]["rules"][
        0
    ]
    assert found["mean"] == pytest.approx(0.4)


def test_an_exact_number_needs_no_chains_and_a_single_chain_decides_nothing() -> None:
    measures = table(("vit", 10, [0.5]), ("resnet", 10, [0.2, 0.2, 0.2]))
    found = judge(rules([rule(above=0)]), measures)["claims"][0]["cases"][0]["rules"][0]
    assert (found["outcome"], found["chains"]) == ("holds", 3)
    exact = judge(rules([rule(above=0, against=None)]), measures)["claims"][0]["cases"][0]["rules"][0]
    assert (exact["outcome"], exact["chains"], exact["low"]) == ("holds", 0, None)
    single = measures[(measures["model"] == "vit") | (measures["chain"] == 0)].assign(chain=0)
    found = judge(rules([rule(above=0)]), single)["claims"][0]["cases"][0]["rules"][0]
    assert (found["outcome"], found["chains"], found["mean"]) == ("open", 1, pytest.approx(0.3))


def test_a_claim_without_data_says_so() -> None:
    result = judge(rules([rule(above=0)]), table(("vit", 10, [0.1, 0.2])))
    assert result["claims"][0]["verdict"] == "no data"
    assert result["claims"][0]["cases"][0]["rules"][0]["mean"] is None
    apart = table(("vit", 10, [0.1, 0.2]), ("resnet", 10, [0.1, 0.2]))
    apart["chain"] += 5 * (apart["model"] == "vit")
    assert judge(rules([rule(above=0)]), apart)["claims"][0]["verdict"] == "no data"


@pytest.mark.parametrize(
    ("cases", "said"),
    [
        (["holds", "holds"], "supported"),
        (["fails", "fails"], "refuted"),
        (["holds", "fails"], "supported under stated conditions"),
        (["holds", "open"], "supported under stated conditions"),
        (["holds", "no data"], "supported"),
        (["fails", "open"], "undecided"),
        (["open"], "undecided"),
        (["no data"], "no data"),
        ([], "not testable here"),
    ],
)
def test_verdicts(cases: list[Outcome], said: str) -> None:
    assert verdict(cases) == said


def test_one_failing_rule_fails_its_case() -> None:
    assert case_outcome(["holds", "fails", "no data"]) == "fails"
    assert case_outcome(["holds", "no data", "open"]) == "no data"
    assert case_outcome(["holds", "open"]) == "open"
    assert case_outcome(["holds", "holds"]) == "holds"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"above": None}, "has no side"),
        ({"above": 0, "at": {"modle": "vit"}}, "names modle; there is study, world"),
        ({"above": 0, "against": None, "between": {"n_train": 20}}, "nothing to compare"),
        ({"above": 0, "scale": "root"}, "scale"),
    ],
)
def test_a_rule_that_cannot_decide_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossoverError, match=message):
        rules([rule(**change)])


def test_a_claim_has_cases_or_a_reason() -> None:
    with pytest.raises(CrossoverError, match="either cases or a reason"):
        rules()
    assert judge(rules(untestable="no data"), table())["claims"][0]["verdict"] == "not testable here"


def test_an_ambiguous_place_is_refused() -> None:
    measures = table(("vit", 10, [0.1, 0.2]), ("vit", 10, [0.1, 0.2]))
    with pytest.raises(AnalysisError, match="several values for one chain"):
        judge(rules([rule(above=0, against=None)]), measures)


def test_the_published_ledger_follows_from_its_measures_and_the_rules() -> None:
    folder = ROOT / "results" / "claims"
    again = judge(shipped(), pd.read_csv(folder / "measures.csv", keep_default_na=False))
    assert again == json.loads((folder / "claims.json").read_text())
    assert markdown(again) == (folder / "claims.md").read_text()
    assert read_sections(folder) == [ledger_section(again)]


def markdown(ledger: dict[str, Any]) -> str:
    return "\n".join(markdown_part(ledger_section(ledger), 1))


def shipped() -> Rules:
    values: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "claims.yaml"))
    return validate(Rules, {name: values[name] for name in ("claims", "default", "confidence")}, "rules")


def test_the_ledger_has_every_claim_of_the_article_and_is_well_formed() -> None:
    ledger = shipped()
    names = {claim.name for claim in ledger.claims}
    cnn = {"local-connectivity", "weight-sharing", "cnn-hierarchy", "cnn-invariance", "fewer-parameters"}
    vit = {"vit-bias", "vit-no-equivariance", "vit-augmentation", "vit-parameters", "vit-small-data", "vit-large-data"}
    operations = {"convolution-commutes", "pooling-breaks", "pooling-invariance"}
    works = {"patch-embedding", "position-encoding", "distant-patches", "token-or-pooling"}
    learns = {"global-relations", "position-structure", "vit-abstraction", "adaptive-features"}
    assert cnn | vit | operations | works | learns | {"vit-pretraining"} <= names
    assert all({"model", "study", "state"} <= place.keys() for place in ledger.places)


def test_numbers_are_shown_in_units_that_a_reader_knows() -> None:
    ratio = {"scale": "log", "mean": 0.0953102, "low": 0.0, "high": 0.1823216, "above": 0.0, "below": None}
    assert (number(ratio), claimed(ratio)) == ("×1.1 [1, 1.2]", "above ×1")
    exact = {"scale": "value", "mean": 0.25, "low": None, "high": None, "above": -0.2, "below": 0.3}
    assert (number(exact), claimed(exact)) == ("0.25", "above -0.2 and below 0.3")
    assert number(exact | {"mean": None}) == "–"
    assert number(exact | {"low": 0.25, "high": 0.25}) == "0.25", "all chains the same: counted"


def test_the_ledger_is_written_for_a_reader(tmp_path: Path) -> None:
    measures = table(("vit", 10, [0.3, 0.31, 0.33]), ("resnet", 10, [0.2, 0.21, 0.22]))
    seconds = measures[measures["model"] == "vit"].assign(measure="total_seconds", value=60.0)
    case = [rule(above=0, says="ViT <b> less ResNet")]
    ledger = judge(rules(case, text="A claim | of two."), pd.concat([measures, seconds]))
    write_ledger(ledger, tmp_path)
    said = (tmp_path / "claims.md").read_text()
    assert said == markdown(ledger)
    assert "1 claims: 1 supported." in said
    assert "### supported: A claim \\| of two.\n" in said
    assert "holds: case 0." in said
    assert "| case 0 | ViT &lt;b> less ResNet | 0.103 [0.089, 0.118] | above 0 | holds |" in said
    assert "3 runs, 3.0 minutes of one core" in said
    page = (tmp_path / "claims.html").read_text()
    assert "ViT &lt;b&gt; less ResNet" in page
