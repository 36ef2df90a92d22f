"""The report in a browser, opened from the disk: it draws, filters, obeys the keyboard, fits a telephone, is quick."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reports.folders import many_runs
from threedistill.reports.write import key_of
from threedistill.sweeps.folders import report_on

pytestmark = pytest.mark.browser

#: Milliseconds until a page of a hundred runs is loaded and its first assets are there.
LOADED = 2000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred runs, hostile prompts among them."""
    root = tmp_path_factory.mktemp("runs")
    many_runs(root, 100)
    return report_on(root)[0]


def quiet(opened) -> None:
    assert opened.errors == [] and opened.fetched == []
    assert opened.page.evaluate("window.pwned") is None


def test_a_hundred_runs_load_quickly_and_only_what_is_seen(visit: Callable, site: Path):
    opened = visit(f"file://{site}")
    page = opened.page
    page.wait_for_selector(".card img")
    spent = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    pictures = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.endsWith('.webp')).length"
    )
    scripts = page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.endsWith('.js')).length"
    )
    print(f"{spent:.0f} ms until loaded, {pictures} pictures, {scripts} scripts")
    assert spent < LOADED
    assert page.locator(".card").count() == 48 and pictures < 48 and scripts == 0
    page.click("#more")
    assert page.locator(".card").count() == 96
    quiet(opened)


def test_filters_search_and_order(visit: Callable, site: Path):
    opened = visit(f"file://{site}")
    page = opened.page
    page.select_option("[data-axis=seed]", "1")
    assert page.text_content("#shown") == "25 of 100 runs"
    page.fill("#search", "car")
    texts = page.locator(".card b").all_text_contents()
    assert texts and set(texts) == {"a blue car"}
    page.click("#clear")
    assert page.text_content("#shown") == "100 runs"
    page.select_option("#sort", "iou")
    figures = page.locator(".card .figures").all_text_contents()
    values = [float(text.split()[-1]) for text in figures]
    assert values == sorted(values)
    page.click("#direction")
    first = page.locator(".card .figures").first.text_content()
    assert float(first.split()[-1]) >= max(values)
    page.click("#table thead button >> nth=1")
    quiet(opened)


def test_the_mesh_and_the_splats_are_drawn(visit: Callable, site: Path):
    opened = visit(f"file://{site}#run={key_of('r000')}")
    page = opened.page
    page.wait_for_selector(".stage canvas[data-drawn]")
    page.wait_for_function(_RED % "document.querySelector('.stage canvas')", timeout=60_000)
    page.click(".tabs button:has-text('mesh')")
    page.wait_for_selector("model-viewer[data-drawn]")
    page.wait_for_function(
        _RED % "document.querySelector('model-viewer').shadowRoot.querySelector('canvas')", timeout=60_000
    )
    page.click(".tabs button:has-text('turntable')")
    page.wait_for_selector(".stage img")
    assert page.locator(".curves .uplot").count() == 2
    assert page.locator(".film img").count() == 2
    assert "@" in page.text_content("details:has-text('Citation') pre")
    quiet(opened)


#: Whether a canvas shows something red in its middle.
_RED = """() => {
  const canvas = %s, copy = document.createElement('canvas');
  if (!canvas || !canvas.width) return false;
  copy.width = copy.height = 32;
  const gl = copy.getContext('2d');
  gl.drawImage(canvas, 0, 0, 32, 32);
  const [r, g, b, a] = gl.getImageData(16, 16, 1, 1).data;
  return a > 100 && r > 80 && r > 2 * g && r > 2 * b;
}"""


def test_keys_go_everywhere(visit: Callable, site: Path):
    opened = visit(f"file://{site}")
    page = opened.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.focus(".card >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    second = page.evaluate("document.activeElement.dataset.run")
    assert second == page.get_attribute(".card >> nth=1", "data-run")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open] .stage")
    page.focus("#close")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"location.hash != '#run={second}'")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert page.evaluate("document.activeElement.className") == "card"
    quiet(opened)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_telephone_shows_all_of_it(visit: Callable, site: Path, dark: bool):
    opened = visit(f"file://{site}", width=390, height=844, dark=dark)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 150) == dark
    page.click(".card >> nth=2")
    page.wait_for_selector("dialog[open] .stage")
    assert page.evaluate("document.querySelector('dialog').scrollWidth") <= 390
    quiet(opened)


def test_one_file_needs_nothing_else(visit: Callable, site: Path, tmp_path: Path):
    root = tmp_path / "runs"
    shutil.copytree(site.parent / "r000", root / "r000")
    alone = tmp_path / "elsewhere.html"
    shutil.move(report_on(root, one_file=True)[0], alone)
    opened = visit(f"file://{alone}")
    page = opened.page
    page.click(".card")
    page.click(".tabs button:has-text('mesh')")
    page.wait_for_selector("model-viewer[data-drawn]")
    page.wait_for_selector(".curves .uplot")
    assert page.locator(".film img").first.get_attribute("src").startswith("data:image/png")
    quiet(opened)
