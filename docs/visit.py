"""Visits the pages of a built site in Chromium: `python docs/visit.py docs/_build` prints what is wrong with them.

    python docs/visit.py docs/_build --only lecture/    # pages whose name contains one of these words
    python docs/visit.py docs/_build --sample 10        # ten pages, spread over all folders
    python docs/visit.py docs/_build --axe two          # axe-core, which takes most of the time, in two ways

Each page is looked at with 1280 and 390 pixels, light and dark. Nothing may be wider than the window, no formula
unreadable, no error in the console, no request to another site, and axe-core may have no serious finding.
Needs Chromium and `pip install playwright axe-playwright-python`.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import itertools
import shutil
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
SERIOUS = ("serious", "critical")
WAYS = list(itertools.product(WIDTHS, SCHEMES))
AXE = {"all": WAYS, "two": [WAYS[0], WAYS[-1]], "none": []}
# Elements that stick out of the window, other than inside a box that scrolls.
WIDER = """() => {
  const limit = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth <= limit) return found;
  for (const element of document.body.querySelectorAll("*")) {
    if (element.getBoundingClientRect().right <= limit + 1) continue;
    let inside = element.parentElement;
    while (inside && getComputedStyle(inside).overflowX === "visible") inside = inside.parentElement;
    if (!inside || inside === document.body || inside === document.documentElement)
      found.push(element.tagName.toLowerCase() + (element.className ? "." + String(element.className) : ""));
  }
  return [...new Set(found)].slice(0, 3).concat("width " + document.documentElement.scrollWidth);
}"""
UNREADABLE = "() => [...document.querySelectorAll('.katex-error')].map(e => e.textContent)"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def pages(site: Path, only: Sequence[str] = (), sample: int | None = None) -> list[str]:
    """Names of pages below the site; a sample takes turns between the folders, and begins with the home page."""
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    names = [name for name in names if not only or any(word in name for word in only)]
    if sample is None:
        return names
    folders: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: (name != "index.html", name)):
        folders[name.rpartition("/")[0]].append(name)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*folders.values()))
    return [name for name in turns if name is not None][:sample]


def visit(page: Any, address: str, name: str, axe: Any, with_axe: str = "all") -> list[str]:
    """One line for each fault of a page in any of the four ways, and the ways that have it; `with_axe`: see AXE."""
    faults: dict[str, list[str]] = defaultdict(list)
    way = "loading"

    def note(fault: str) -> None:
        if way not in faults[fault]:
            faults[fault].append(way)

    def asked(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            note(f"asks for {request.url}")

    def answered(response: Any) -> None:
        if response.status >= 400:
            note(f"got {response.status} for {response.url.removeprefix(address)}")

    def said(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            note(f"console: {message.text}")

    def failed(error: Any) -> None:
        note(f"script: {error}")

    listeners = {"request": asked, "response": answered, "console": said, "pageerror": failed}
    for event, listener in listeners.items():
        page.on(event, listener)
    page.goto(f"{address}/{name}", wait_until="load")
    for width, scheme in WAYS:
        way = f"{width} {scheme}"
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_timeout(50)
        for text in page.evaluate(UNREADABLE):
            note(f"formula: {text}")
        if wider := page.evaluate(WIDER):
            note(f"wider than the window: {', '.join(wider)}")
        if (width, scheme) not in AXE[with_axe]:
            continue
        for found in axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]:
            if found["impact"] in SERIOUS:
                where = ", ".join(str(node["target"][0]) for node in found["nodes"][:2])
                note(f"axe: {found['id']} ({found['impact']}, {len(found['nodes'])} times, such as {where})")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    return [f"{name}: {fault} [{'; '.join(ways)}]" for fault, ways in faults.items()]


def faults(site: Path, names: Sequence[str], with_axe: str = "all") -> Iterator[str]:
    """The faults of all pages, as they are found."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with served(site) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page, axe = browser.new_page(), Axe()
        for name in names:
            yield from visit(page, address, name, axe, with_axe)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--only", nargs="+", default=(), metavar="WORD")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--axe", choices=AXE, default="all")
    args = parser.parse_args()
    names = pages(args.site, args.only, args.sample)
    if not names:
        parser.error(
            f"expected a built site, got {args.site} without such pages; build it by sphinx-build docs {args.site}"
        )
    found = 0
    for line in faults(args.site, names, args.axe):
        found += 1
        print(line, flush=True)
    print(f"{len(names)} pages in {len(WAYS)} ways, {found} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
