"""The report page in headless Chromium (make test-page): it works, asks for nothing, and everyone can read it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from crossover.record import Record
from crossover.report.contents import Report
from crossover.report.style import styles
from crossover.store import State, SweepRecords
from tests.reported import crossing_records, report_of

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make setup)")

ROOT = Path(__file__).parents[2]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
AXE = Path(os.environ.get("AXE", ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"))
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here (Debian: apt-get install chromium; or CHROMIUM=PATH)"),
]
RUNS = 200
MODELS = ("resnet_tiny", "vit_tiny")
PAPER = 688
"""Pixels across an A4 page within the margins of the style sheet: 182 mm at 96 per inch."""


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of 200 runs with predictions of ten classes, and of two that are not done."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    labels = np.arange(500) % 10
    records, paths = crossing_records(chains=RUNS // 10, models=MODELS), {}
    for record in records:
        wrong = rng.random(500) < record["test_error"]
        more = {"classes": [f"kind {k}" for k in range(10)], "images_per_second": 900 + 200 * rng.random()}
        record |= more | {"total_seconds": 12.0, "flops": 5.76e11, "images_seen": 30_720}
        paths[record["run_id"]] = folder / f"{record['run_id']}.npz"
        np.savez(paths[record["run_id"]], labels=labels, predictions=np.where(wrong, (labels + 1) % 10, labels))
    states: dict[str, State] = {record["run_id"]: "done" for record in records}
    states |= {"cues-vit_tiny-n256-c20": "failed", "cues-vit_tiny-n256-c21": "missing"}
    errors = {"cues-vit_tiny-n256-c20": "Traceback\nValueError: loss is nan\n"}
    sweep = SweepRecords("quick", "make sweep", cast("tuple[Record, ...]", tuple(records)), states, errors, paths)
    return report_of(sweep, folder / "report")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, report: Report) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto((report.directory / "report.html").as_uri())
    yield opened
    opened.close()


def column(page: Any, table: str, title: str) -> list[str]:
    """Return the visible cells of a column."""
    return page.evaluate(
        """([table, title]) => {
          const found = document.querySelector(table), heads = [...found.querySelectorAll("th")];
          const at = heads.findIndex(head => head.textContent === title);
          return [...found.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[at].textContent);
        }""",
        [table, title],
    )


def test_no_error_in_the_console_and_no_request_leaves_the_file(browser: Any, report: Report) -> None:
    page = browser.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (report.directory / "report.html").as_uri()
    page.goto(address)
    page.get_by_role("button", name="test error", exact=True).click()
    page.wait_for_timeout(300)
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_runs_sort_by_value_and_what_is_unknown_stays_last(page: Any) -> None:
    button = page.locator("#runs table").get_by_role("button", name="test error", exact=True)
    for order in (1, -1):
        button.click()
        cells = column(page, "#runs table", "test error")
        assert cells[-2:] == ["–", "–"]
        values = [float(cell.removesuffix(" %")) for cell in cells[:-2]]
        assert values == sorted(values, reverse=order < 0)
    page.locator("#runs table").get_by_role("button", name="training images", exact=True).click()
    sizes = [int(cell.replace(",", "")) for cell in column(page, "#runs table", "training images")[:-2]]
    assert sizes == sorted(sizes)
    assert page.locator("#runs table th[aria-sort]").all_text_contents() == ["training images"]


def test_numbers_with_separators_and_units_sort_by_value(page: Any) -> None:
    table = "#curves table"
    for order in (1, -1):
        page.locator(table).first.get_by_role("button", name="training images").click()
        sizes = [int(cell.replace(",", "")) for cell in column(page, table, "training images")]
        assert sizes == sorted(sizes, reverse=order < 0)


def test_runs_filter_by_words_such_as_a_model_or_a_state(page: Any) -> None:
    shown, words = page.locator("#shown"), page.locator("#runs").get_by_label("Filter")
    assert shown.text_content() == f"{RUNS + 2} runs"
    words.fill("vit_tiny")
    assert shown.text_content() == f"{RUNS // 2 + 2} of {RUNS + 2} runs"
    words.fill("VIT n4096-")
    assert shown.text_content() == f"{RUNS // 10} of {RUNS + 2} runs"
    assert set(column(page, "#runs table", "training images")) == {"4,096"}
    words.fill("failed")
    assert column(page, "#runs table", "run id") == ["cues-vit_tiny-n256-c20"]


def test_every_figure_has_an_alternative_and_ids_are_unique(page: Any) -> None:
    alternatives = page.evaluate(
        """[...document.querySelectorAll("svg, img")]
             .map(x => x.getAttribute(x.tagName === "IMG" ? "alt" : "aria-label"))"""
    )
    assert len(alternatives) == 3
    assert all(len(text) > 20 for text in alternatives)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(x => x.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_scrolls_sideways(browser: Any, report: Report, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((report.directory / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_words_in_figures_are_at_least_9_px_high(browser: Any, report: Report, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto((report.directory / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    sizes = page.evaluate(
        """[...document.querySelectorAll("svg text, svg tspan")].filter(x => x.textContent.trim())
             .map(x => [Math.hypot(x.getScreenCTM().a, x.getScreenCTM().b) * parseFloat(getComputedStyle(x).fontSize),
                        x.textContent])"""
    )
    page.close()
    assert len(sizes) > 30
    assert [(size, text) for size, text in sizes if size < 9] == []


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here (make test-page installs it where npm is)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(browser: Any, report: Report, scheme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto((report.directory / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run()")
    page.close()
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"][:3]]) for rule in found["violations"]] == []


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Return the contrast ratio of two sRGB colours of 0..255 (WCAG 2.2)."""
    levels = np.array([a, b]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light, dark = sorted(linear @ [0.2126, 0.7152, 0.0722], reverse=True)
    return float((light + 0.05) / (dark + 0.05))


@pytest.mark.parametrize(("scheme", "least_words", "least_lines"), [("light", 4.5, 3.0), ("dark", 4.5, 3.0)])
def test_words_and_lines_of_figures_stand_out(
    browser: Any, report: Report, scheme: str, least_words: float, least_lines: float
) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto((report.directory / "report.html").as_uri())
    colour = "x => getComputedStyle(x).{}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    paper = page.evaluate(f"({colour.format('backgroundColor')})(document.body)")
    words = page.evaluate(f"[...document.querySelectorAll('svg text')].map({colour.format('fill')})")
    assert len(words) > 30
    assert min(contrast(tuple(word), tuple(paper)) for word in words) >= least_words
    for model_colour, *_ in styles(["resnet_a", "hybrid_a", "vit_a", *"abcd"]).values():
        rgb = tuple(int(model_colour[i : i + 2], 16) for i in (1, 3, 5))
        assert contrast(rgb, tuple(paper)) >= least_lines, model_colour
    page.close()


def test_a_model_has_one_colour_in_figures_and_tables(page: Any) -> None:
    for model, (colour, *_) in styles(list(MODELS)).items():
        chips = page.evaluate(
            """model => [...document.querySelectorAll("td, .models span")].filter(x => x.textContent === model)
                 .map(x => x.querySelector("i").style.background)""",
            model,
        )
        rgb = ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        assert len(chips) > RUNS // 2
        assert set(chips) == {f"rgb({rgb})"}
        assert page.locator("#curves svg").first.inner_html().lower().count(colour.lower()) > 3


def test_dark_screens_print_on_white_paper_with_all_details(browser: Any, report: Report) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((report.directory / "report.html").as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details')].every(part => part.open)")
    page.close()


@pytest.mark.parametrize("models", [MODELS, (*MODELS, "hybrid_tiny", "vit_small")], ids=len)
def test_print_clips_nothing_and_leaves_out_the_controls(browser: Any, tmp_path: Path, models: tuple[str, ...]) -> None:
    records = crossing_records(models=models)
    states: dict[str, State] = {record["run_id"]: "done" for record in records}
    report_of(
        SweepRecords("quick", "make sweep", cast("tuple[Record, ...]", tuple(records)), states, {}, {}),
        tmp_path,
    )
    page = browser.new_page(viewport={"width": PAPER, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    clipped = page.evaluate(
        """width => [...document.querySelectorAll("figure, svg, img, table, pre, p, dd")]
             .filter(x => Math.max(x.getBoundingClientRect().right, x.scrollWidth) > width + 0.5)
             .map(x => [x.tagName, x.getBoundingClientRect().right, x.textContent.slice(0, 60)])""",
        PAPER,
    )
    assert clipped == []
    controls = page.locator("nav, input, [download]")
    assert controls.count() > 5
    assert not any(control.is_visible() for control in controls.all())
    page.close()


def test_200_runs_are_under_3_mb_and_sorted_in_one_frame(browser: Any, report: Report) -> None:
    """How long it takes depends on the machine, and is printed."""
    file = report.directory / "report.html"
    assert file.stat().st_size < 3_000_000
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(file.as_uri())
    page.locator("#runs table").get_by_role("button", name="test error", exact=True).evaluate("x => x.click()")
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    seconds = page.evaluate("performance.now()") / 1000
    errors = [float(cell.removesuffix(" %")) for cell in column(page, "#runs table", "test error")[:RUNS]]
    page.close()
    print(f"page: {file.stat().st_size / 1e6:.2f} MB; sorted and painted after {seconds:.2f} s")
    assert errors == sorted(errors)


def test_downloads_are_the_files_beside_the_page(page: Any, report: Report) -> None:
    with page.expect_download() as wanted:
        page.get_by_role("link", name="runs.csv").click()
    assert Path(wanted.value.path()).read_bytes() == (report.directory / "runs.csv").read_bytes()
