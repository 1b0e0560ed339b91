"""Draws docs/_static/serving.png and report.png: the page of `metabox serve`, and a report, as Chromium shows them.

    metabox reproduce glyphs-5w1s-incontext --seeds 2 --outer.steps 120 --outer.validate_every 40 --n_test 100
    python docs/figures/shots.py --report reproduced/report.html

Needs Chromium, `pip install playwright` and the extra serve; without --report only the page is drawn.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rendered import save

from metabox.serving.server import listen, make_server
from metabox.shipped import find_model

BAR, DASH, SLANTED = ((0.5, 0.15), (0.5, 0.85)), ((0.15, 0.5), (0.85, 0.5)), ((0.42, 0.2), (0.5, 0.8))
CLASSES = {"down": BAR, "across": DASH}


def stroke(page: Page, ends: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Draw a line on the pad with the mouse; its ends are shares of width and height."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    start, end = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in ends]
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=12)
    page.mouse.up()


def shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot()))


def serving(browser: Browser) -> None:
    """Two classes are taught by one drawing each, and a third drawing is asked about."""
    server = make_server(find_model("characters", None))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        page = browser.new_page(viewport={"width": 900, "height": 590}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        page.locator("#play").wait_for()
        for number, (name, ends) in enumerate(CLASSES.items()):
            stroke(page, ends)
            page.locator("#new").click()
            page.locator(".class .name").nth(number).fill(name)
            page.keyboard.press("Enter")
        stroke(page, SLANTED)
        page.locator(".share").filter(has_text="%").nth(1).wait_for()
        page.wait_for_timeout(1000)  # bars grow
        save(shot(page), "serving.png")
        server.should_exit = True
        thread.join()


def report(browser: Browser, file: Path) -> None:
    """What a report says of its first run."""
    page = browser.new_page(viewport={"width": 900, "height": 1000}, color_scheme="light")
    page.goto(file.resolve().as_uri())
    page.locator("h2", has_text="seed 0").first.evaluate("heading => heading.scrollIntoView()")
    save(shot(page), "report.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        serving(browser)
        if args.report:
            report(browser, args.report)
        browser.close()


if __name__ == "__main__":
    main()
