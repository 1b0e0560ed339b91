"""The page in a real browser: it adapts to what is drawn, with a mouse and at the width of a phone by touch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
BAR = [(0.5, 0.15), (0.5, 0.85)]
DASH = [(0.15, 0.5), (0.85, 0.5)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, port: int) -> Iterator[Any]:
    """Opens the page, and fails if the browser complained about anything."""
    complaints: list[str] = []
    contexts = []

    def open_page(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#play").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def draw(page: Any, points: list[tuple[float, float]]) -> None:
    box = page.locator("#pad").bounding_box()
    (x, y), *others = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in points]
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in others:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()


def drag(page: Any, points: list[tuple[float, float]]) -> None:
    """The same by a finger."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    at = [{"x": box["x"] + a * box["width"], "y": box["y"] + b * box["height"]} for a, b in points]
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": at[:1]})
    for point in at[1:]:
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def shares(page: Any) -> list[int]:
    """The probabilities shown, once every class has one."""
    rows = page.locator(".class")
    playwright.expect(rows.locator(".share").filter(has_text="%")).to_have_count(rows.count())
    return [int(re.sub(r"\D", "", text)) for text in rows.locator(".share").all_inner_texts()]


def taught(page: Any, stroke: Any) -> None:
    """Two classes, a bar and a dash, are drawn and named."""
    for number, (name, points) in enumerate({"bar": BAR, "dash": DASH}.items()):
        stroke(page, points)
        page.get_by_role("button", name="This is a new class").click()
        page.locator(".name").nth(number).fill(name)
        page.locator(".name").nth(number).press("Enter")
        playwright.expect(page.locator(".class").nth(number).locator(".example")).to_have_count(1)
    playwright.expect(page.get_by_role("status")).to_contain_text("one of them")  # the model has learned them


@pytest.mark.parametrize(("options", "stroke"), [({}, draw), (PHONE, drag)], ids=["mouse", "phone"])
def test_two_drawn_classes_are_told_apart_live(opened: Any, options: Any, stroke: Any) -> None:
    page = opened(**options)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    taught(page, stroke)
    for points, best in ((BAR, "bar"), (DASH, "dash")):
        stroke(page, points)
        playwright.expect(page.locator(".best .name")).to_have_value(best)
        assert sum(shares(page)) == pytest.approx(100, abs=1)
        playwright.expect(page.get_by_role("status")).to_contain_text(best)
        page.get_by_role("button", name="Clear").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_class_is_renamed_and_removed_and_images_are_opened_by_keyboard(opened: Any, tmp_path: Path) -> None:
    page = opened()
    taught(page, draw)
    page.get_by_label("Name of bar").fill("dash")  # taken
    page.get_by_label("Name of bar").press("Enter")
    playwright.expect(page.get_by_role("status")).to_contain_text("already")
    pixels = np.full((60, 90), 255, np.uint8)
    pixels[25:35, 10:80] = 0
    Image.fromarray(pixels).save(tmp_path / "dash.png")
    page.locator("#file").focus()
    page.locator("#file").set_input_files(tmp_path / "dash.png")
    playwright.expect(page.locator(".best .name")).to_have_value("dash")
    page.get_by_label("Add images to bar").set_input_files([tmp_path / "dash.png"] * 2)
    playwright.expect(page.locator(".class").first.locator(".example")).to_have_count(3)
    page.get_by_label("Remove example 1 of bar").click()
    page.get_by_label("Remove dash").press("Enter")
    playwright.expect(page.locator(".share")).to_have_text(["100 %"])
