"""The page, in a real browser too: texts of strangers, no network, legible."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_cases import claim

from metabox.reports import figures, tables
from metabox.reports.page import as_html, as_markdown, write_report

EVIL = (
    '<img src=x onerror="alert(1)"></script><script>alert(2)</script> $x_{1$ [a](javascript:alert(3)) `b` | "c"\'; '
    "$(touch d)"
)


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


@pytest.fixture
def evil(runs: list[Path], tmp_path: Path) -> Path:
    """The report of a run whose every text is an attack."""
    (path,) = (runs[0] / "results").glob("*.json")
    result = json.loads(path.read_text())
    result["trained_on"] |= {"cpu": EVIL, "git_commit": EVIL, "torch": EVIL}
    result |= {"data": EVIL, "weights": {"step": EVIL, "seconds": EVIL}}
    result["protocol"]["batch_norm"] = EVIL
    path.write_text(json.dumps(result))
    claim(runs[0], source=EVIL, protocol=EVIL)
    write_report(runs[:1], tmp_path / "evil", n_tasks=3)
    return tmp_path / "evil"


def test_texts_of_strangers_stay_texts_in_the_page(evil: Path) -> None:
    page = Page((evil / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
    assert "&lt;script&gt;" in (evil / "report.html").read_text()


def test_texts_of_strangers_stay_texts_in_markdown(evil: Path) -> None:
    lines = (evil / "report.md").read_text().splitlines()
    shown = [line for line in lines if "script" in line and not line.startswith("    ")]
    assert len(shown) > 5
    for line in shown:
        assert not re.search(r"(?<!\\)[<`$\[]", line)
    columns, checked = 0, 0
    for line in lines:  # of a table: as many cells as its head has
        cells = len(re.findall(r"(?<!\\)\|", line))
        columns = cells if set(line) <= set("|-: ") and line else columns
        if line.startswith("| ") and columns:
            checked += 1
            assert cells == columns or not line.strip("| -:")
        columns = columns if line.startswith("|") else 0
    assert checked


def test_a_page_needs_no_network_and_no_script(reproduced: Path) -> None:
    page = Page((reproduced / "report.html").read_text())
    assert {"link", "script", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "url(http" not in (reproduced / "report.html").read_text()
    policies = [
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_figure_and_image_has_a_text_alternative_and_ids_are_unique(reproduced: Path) -> None:
    page = Page((reproduced / "report.html").read_text())
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawn) == 2 + 2 * 4  # two learning curves; of each run shots, ways, reliability, phi
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in drawn)
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    inside = [a["xlink:href"] for tag, a in page.tags if tag == "use"]
    assert {reference[1:] for reference in inside} <= set(ids)


def test_the_three_forms_are_made_from_the_json_alone(reproduced: Path) -> None:
    content = json.loads((reproduced / "report.json").read_text())
    assert as_html(content) == (reproduced / "report.html").read_text()
    assert as_markdown(content) == (reproduced / "report.md").read_text()


def test_a_name_that_begins_with_an_underscore_or_that_no_font_has_is_in_the_legend() -> None:
    lines = [{"step": 1, "val": {"nll": 1.0}}]
    picture = figures.learning_curves({"_hidden": lines, "\u4e2d\x07 $x_{$": lines}, "val nll")
    assert picture is not None
    texts = " ".join(re.findall(r"<t(?:ext|span)[^>]*>([^<]*)<", picture.svg))
    assert "_hidden" in texts
    assert "$x_{$" in texts


def test_the_learning_curve_of_a_stream_is_drawn_at_the_second_instance_as_well() -> None:
    curve = [{"step": step, "val": {"accuracy": 0.5, "accuracy_instance_2": 0.1 * step}} for step in (1, 2)]
    section = tables._curves([{"label": "stream", "curve": curve}])
    assert [block.title for block in section.blocks if isinstance(block, figures.Picture)] == [
        "val accuracy during training",
        "val accuracy_instance_2 during training",
    ]


FRAME = """<body><script>onmessage = (event) => { document.body.textContent = event.data; };</script>
<iframe src="page.html" style="width: {width}px; height: 800px; border: 0"></iframe></body>"""

PROBE = """<script>
const parse = (text) => text.match(/[0-9.]+/g).slice(0, 3).map((v) => {
  const c = v / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
const light = (text) => { const [r, g, b] = parse(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const paper = light(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("svg text")].map((t) => contrast(light(getComputedStyle(t).fill), paper));
const words = [...document.querySelectorAll("p, td, th, dt, dd, li, h1, h2, h3")].map(
  (t) => contrast(light(getComputedStyle(t).color), paper));
parent.postMessage(JSON.stringify({
  paper, width: innerWidth, wide: document.documentElement.scrollWidth,
  texts: Math.min(...texts), words: Math.min(...words)}), "*");
</script></body>"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_legible_in_a_browser(reproduced: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium: install Debian's package of that name to see the page in a browser")
    text = (reproduced / "report.html").read_text()
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", PROBE)  # the page itself lets no script run
    (tmp_path / "page.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)))  # no window is as narrow as a phone
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=1400,900", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    options += ["--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'frame.html'}"]
    done = subprocess.run([browser, *options], capture_output=True, text=True)
    found = json.loads(re.search(r"<body>(\{.*?\})</body>", done.stdout)[1])
    assert found["width"] == width
    assert found["wide"] <= width, "the page scrolls sideways"
    assert (found["paper"] < 0.1) == dark
    assert found["texts"] >= 4.5, "WCAG's contrast of text, in figures"
    assert found["words"] >= 4.5, "WCAG's contrast of text"
