"""Claims about the figures of a report: what is drawn, where labels stand, and the look of a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

from crossover.report.contents import Report
from crossover.report.figures import by_pair, draw_equivalence, draw_gap, learning_curves
from crossover.report.page import report_sections
from crossover.report.style import FAMILY_COLOURS, PAPER, styles
from tests.reported import SIZES, crossing_records, report_of, sweep


def test_ceilings_are_drawn_and_named_unless_they_are_far_below_the_errors(tmp_path: Path) -> None:
    """A line far below would squeeze the curves, and a logarithmic axis has no zero."""
    written = report_of(sweep(crossing_records()), tmp_path)
    named = {"exact Bayes": 0.0, "all cues": 0.004, "one cue": 0.05, "local cue alone": 0.18}
    figure = learning_curves(written.runs, written.curves, written.result["studies"][0], named)
    (axes,) = figure.axes
    lines = {str(line.get_label()): line for line in axes.lines if "%" in str(line.get_label())}
    drawn = {label: np.asarray(line.get_ydata()).tolist() for label, line in lines.items()}
    assert drawn == {
        "exact Bayes: 0 % (below)": [],
        "all cues: 0.4 % (below)": [],
        "one cue: 5 %": [0.05, 0.05],
        "local cue alone: 18 %": [0.18, 0.18],
    }
    assert len({line.get_linestyle() for line in lines.values() if len(np.asarray(line.get_ydata()))}) == 2
    assert axes.get_ylim()[0] > 0.5 * written.curves["error_mean"].min()
    (legend,) = figure.legends
    assert set(drawn) <= {text.get_text() for text in legend.get_texts()}
    plt.close(figure)


def test_bounds_on_either_side_of_the_equivalence_are_drawn(tmp_path: Path) -> None:
    written = report_of(sweep(crossing_records()), tmp_path)
    pair: Any = dict(written.pairs[0][1])
    rows = [(100, None, 2.0, None), (200, None, None, 0.5), (400, 1.5, 1.2, 1.8), (800, None, 0.2, 0.4)]
    pair["data_equivalence"] = [dict(zip(("n_train", "factor", "ci_low", "ci_high"), row, strict=True)) for row in rows]
    figure = by_pair(draw_equivalence, [pair])
    (axes,) = figure.axes
    drawn = {line.get_label(): np.asarray(line.get_xydata()).T.tolist() for line in axes.lines}
    assert drawn["more than (95%)"] == [[100], [2.0]]
    assert drawn["less than (95%)"] == [[200], [0.5]]
    parts = cast(list[LineCollection], list(axes.collections))
    segments = [np.asarray(segment).tolist() for part in parts for segment in part.get_segments()]
    assert segments == [[[400, 1.2], [400, 1.8]], [[800, 0.2], [800, 0.4]]]
    plt.close(figure)


def test_what_limits_a_curve_is_on_the_page_and_hollow_in_the_figure(tmp_path: Path) -> None:
    written = report_of(sweep(crossing_records()), tmp_path)
    (study,) = written.result["studies"]
    numbers = {"gain": 0.2, "ci_low": 0.1, "ci_high": 0.3, "chains": 3}
    states = dict.fromkeys(SIZES, "budget-limited") | {256: "data-limited", 1024: "not checked"}
    points: list[dict[str, Any]] = [{"n_train": n, "state": state} | numbers for n, state in states.items()]
    checks: Any = [{"model": model} | point for model in ("resnet_tiny", "vit_tiny") for point in points]
    study["saturation"] = checks
    study["estimand"] = "About new images."
    study["pairs"][0] |= {"interval": "chains", "family": {"pairs": 1, "p_value": 0.01, "holds": True}}
    sections = {part.name: part for part in report_sections(written, {"cues": ()})}
    verdict = dict(zip(sections["verdicts"].tables[0].header, sections["verdicts"].tables[0].cells[0], strict=True))
    assert verdict["limited by budget"] == "yes at 3, no at 1, not known at 1 of 5 sizes"
    assert (verdict["interval from"], verdict["holds among all"]) == ("paired chains", "yes")
    assert sections["limits"].sentences == ("About new images.",)
    checked = sections["limits"].parts[0].tables[0].cells
    assert checked[0] == ["cues", "resnet_tiny", "256", "data", "0.20 [0.10, 0.30]"]
    assert len(checked) == 8, "sizes that were not checked are left out"
    (axes,) = learning_curves(written.runs, written.curves, study, {}).axes
    drawn = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_markerfacecolor() == PAPER]
    assert [line[:, 0].tolist() for line in drawn if len(line)] == [[4096, 16384, 65536]] * 2
    plt.close("all")


def test_long_names_stay_within_their_figure(tmp_path: Path) -> None:
    models = ("resnet_shaped like a vision transformer (of size B/16)", "vit_base_patch16_224.augreg_in21k_ft_in1k")
    written = report_of(sweep(crossing_records(models=models)), tmp_path)
    (study,) = written.result["studies"]
    drawn = [by_pair(draw, study["pairs"]) for draw in (draw_gap, draw_equivalence)]
    for figure in (*drawn, learning_curves(written.runs, written.curves, study, {})):
        figure.draw_without_rendering()
        (axes,), named = figure.axes, [text for legend in figure.legends for text in legend.get_texts()]
        for text in (axes.yaxis.label, *axes.texts, *named):
            box, whole = text.get_window_extent(), figure.bbox
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text.get_text()
    plt.close("all")


def test_a_model_keeps_its_colour_and_marker(report: Callable[..., Report]) -> None:
    both, one = styles(["resnet_tiny", "vit_tiny"]), styles(["vit_tiny"])
    assert both["vit_tiny"] == one["vit_tiny"]
    many = styles(["resnet_a", "resnet_b", "hybrid", "vit", "other"])
    assert len(set(many.values())) == 5
    twelve = styles([f"m{i}" for i in range(12)] + [f"vit_{size}" for size in "abcdefghijkl"] + ["resnet"])
    assert len(set(map(str, twelve.values()))) == 25
    members = {twelve[f"vit_{size}"].colour for size in "abcdefghijkl"}
    assert members == set(FAMILY_COLOURS["vit"]), "the members of a family share its colours"
    assert members.isdisjoint({style.colour for model, style in twelve.items() if not model.startswith("vit")})
    assert styles(["a", "b"], {"b": "vit"})["b"].colour == FAMILY_COLOURS["vit"][0], "a family is a field"
    others = styles(["ResNet-50", "Swin-T", "DeiT-S"]).values()
    assert [style.colour for style in others] == [colours[0] for colours in FAMILY_COLOURS.values()], (
        "as others write them"
    )
