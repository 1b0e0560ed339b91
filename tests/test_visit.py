"""Ten pages of the docs in a real browser, and a page on which everything is wrong."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-core (pip install axe-playwright-python)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

DOCS = Path(__file__).parents[1] / "docs"
BAD = """<!doctype html><html lang="en"><title>bad</title><main><h1>Bad</h1>
<p style="width: 1000px">wide</p> <p style="color: #ccc; background: #fff">pale</p> <img src="gone.png">
<p class="katex-error">\\nosuch</p>
<script src="http://cdn.invalid/x.js"></script> <script>console.error("broken")</script></main>"""
GOOD = """<!doctype html><html lang="en"><title>good</title><main><h1>Good</h1>
<div style="overflow-x: auto" tabindex="0"><p style="width: 1000px">wide, and scrolls</p></div></main>"""


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("visit")


def test_ten_pages_have_no_fault_on_a_screen_and_on_a_phone_by_day_and_by_night(site: Path, visit: ModuleType) -> None:
    names = visit.pages(site, sample=10)
    assert len(names) == 10
    assert names[0] == "index.html"
    assert list(visit.faults(site, names, "two")) == []


def test_each_fault_is_named_with_the_ways_that_have_it(visit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(BAD)
    (tmp_path / "good.html").write_text(GOOD)
    assert list(visit.faults(tmp_path, ["good.html"])) == []
    found = " ".join(visit.faults(tmp_path, ["bad.html"]))
    for fault in (
        "asks for http://cdn.invalid/x.js [loading]",
        "got 404 for /gone.png [loading]",
        "console: broken [loading]",
        "wider than the window: p, width 1008 [390 light; 390 dark]",
        "axe: color-contrast (serious",
        "axe: image-alt (critical",
        "formula: \\nosuch",
    ):
        assert fault in found, found


def test_a_sample_takes_turns_between_folders_and_begins_at_home(visit: ModuleType, tmp_path: Path) -> None:
    for name in ("a.html", "index.html", "guides/x.html", "guides/y.html", "api/z.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert visit.pages(tmp_path, sample=4) == ["index.html", "api/z.html", "guides/x.html", "a.html"]
    assert visit.pages(tmp_path, only=["guides/"]) == ["guides/x.html", "guides/y.html"]
