"""The documentation as a site: whole, self-contained, with a page for each learner, and found by every word."""

from __future__ import annotations

import functools
import http.server
import importlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabox.discover import subclasses

DOCS = Path(__file__).parents[1] / "docs"
LEARNERS = {found.name: found.load() for found in subclasses("Learner")}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("check", None)
    return importlib.import_module("check")


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("flow")


def test_no_link_of_the_site_is_dead_and_no_page_loads_anything_from_another_site(
    site: Path, check: ModuleType
) -> None:
    assert check.faults(site) == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="gone.html">', "index.html: dead link gone.html"),
        ('<a href="other.html#gone">', "index.html: no such place other.html#gone"),
        ('<a href="#gone">', "index.html: no such place #gone"),
        ('<script src="https://cdn.example/x.js">', "index.html: loads https://cdn.example/x.js"),
        ('<link href="//fonts.example/x.css">', "index.html: loads //fonts.example/x.css"),
        ('<a href="https://example.org"><a href="other.html#here">', None),
    ],
)
def test_what_is_wrong_with_a_page_is_named(check: ModuleType, tmp_path: Path, html: str, fault: str | None) -> None:
    (tmp_path / "index.html").write_text(html)
    (tmp_path / "other.html").write_text('<p id="here">')
    assert check.faults(tmp_path) == ([fault] if fault else [])


def test_a_page_of_the_api_that_is_too_large_and_a_style_from_elsewhere_are_named(
    check: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "long.html").write_text("x" * 200_001)
    (tmp_path / "site.css").write_text("@import 'https://fonts.example/a.css';")
    size, style = check.faults(tmp_path)
    assert size == "reference/long.html: expected at most 200,000 bytes, got 200,001"
    assert style == "site.css: loads https://fonts.example/a.css"


def test_a_site_that_is_too_large_is_named_and_the_cache_of_sphinx_is_no_part_of_it(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LARGEST_SITE", 10)
    (tmp_path / ".doctrees").mkdir()
    (tmp_path / ".doctrees" / "page.doctree").write_text("x" * 100)
    assert check.faults(tmp_path) == []
    (tmp_path / "site.css").write_text("x" * 11)
    assert check.faults(tmp_path) == ["the site: expected at most 10 bytes, got 11"]


def test_every_learner_has_a_page_with_formulas_a_figure_and_an_example_that_ran(site: Path) -> None:
    for name, made in LEARNERS.items():
        page = (site / "methods" / f"{name}.html").read_text(encoding="utf-8")
        steps = len(made.method.adapt) + len(made.method.predict)
        assert page.count('<div class="math block"') == steps, name
        assert f'aria-label="Data flow of {name}.' in page
        assert f'id="{made.__module__}.{name}"' in page
        assert "torch.Size(" in page or "optional package" in page, name


def test_every_public_name_has_an_example(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    pages = importlib.import_module("api_pages")
    without = set(pages.public()) - set(pages.examples()) - set(LEARNERS)
    assert [name for name in without if not pages.recipe_with(name)] == [], "add a few lines to docs/examples.md"
    assert pages.examples()["FewShotClassifier"].startswith("guides/")
    targets = (site / "reference" / "metabox.targets.html").read_text(encoding="utf-8")
    assert re.search(r'Example: <a [^>]*href="../examples.html"', targets)


def test_every_sampler_is_in_the_api_and_no_mark_for_a_list_is_left(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    api = "".join(text for path, text in pages.items() if path.parent.name == "reference")
    assert not [found.name for found in subclasses("EpisodeSampler") if f'id="{found.module}.{found.name}"' not in api]
    assert not [path for path, text in pages.items() if "<!-- fill:" in text]
    assert "queries do not see each other" in pages[site / "guides" / "learner.html"]


@pytest.mark.parametrize("name", LEARNERS)
def test_what_a_learner_says_of_its_method_uses_the_one_notation(name: str) -> None:
    method = LEARNERS[name].method
    assert method is not None
    assert "method" in vars(LEARNERS[name]), "inherited: the formulas are another learner's"
    assert set(method.kin) <= set(LEARNERS) - {name}
    macros = {row["macro"] for row in json.loads((DOCS / "notation.json").read_text(encoding="utf-8"))}
    formulas = [formula for _, formula in (*method.adapt, *method.predict)]
    assert {"\\task"} <= set(re.findall(r"\\task\b", " ".join(formulas)))
    assert "\\phi" not in " ".join(formulas), "phi of a task is \\task"
    assert macros >= {"\\task", "\\feat", "\\known"}
    for formula in formulas:
        assert formula.count("{") == formula.count("}"), formula
        assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula)), formula
    assert all(len(words) <= 24 for words, _ in (*method.adapt, *method.predict)), "too long for its box"


def test_the_arrow_from_phi_ends_at_each_step_whose_formula_reads_it(flow: ModuleType) -> None:
    assert flow.reads_phi(r"p(y \mid x, \task) = p(y; g(x, \task))")
    assert not flow.reads_phi(r"p(y \mid x, \task) = p(y; g(x))")
    method = LEARNERS["InContext"].method
    across = re.findall(r'd="M164 [\d.]+H[\d.]+V([\d.]+)', flow.svg("InContext", method))
    assert len(across) == 1  # the first guess reads the support; the formulas after it name K and V


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_in_a_browser_all_formulas_render_and_the_guide_on_own_photos_is_found_first(served: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    formulas = [f for made in LEARNERS.values() for _, f in (*made.method.adapt, *made.method.predict)]
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{served}/methods/InContext.html")
        page.locator(".katex").first.wait_for()
        render = "tex => { try { katex.renderToString(tex, {macros: {...macros}}) } catch (e) { return e.message } }"
        assert [said for tex in formulas if (said := page.evaluate(render, tex))] == []
        assert page.evaluate(render, r"\nosuchmacro")
        page.goto(f"{served}/search.html?q=few+shot+own+images")
        first = page.locator(".pagefind-ui__result-link").first
        first.wait_for()
        assert first.get_attribute("href").endswith("guides/photos.html")
        browser.close()
    assert [url for url in asked if not url.startswith((served, "blob:", "data:"))] == []
