"""The data flow of a learner as an SVG, drawn from the steps of its `method`."""

from __future__ import annotations

import re
from html import escape

from metabox.learners.method import Method

WIDTH, HEIGHT, PITCH, EDGE, GAP = 160, 34, 56, 4, 40
QUERY = EDGE + WIDTH + GAP
LEFT_SIDE = re.compile(r"^p\(.*?\\task\) =")


def reads_phi(formula: str) -> bool:
    """Whether the right side of a step's formula has phi."""
    return "\\task" in LEFT_SIDE.sub("", formula)


def svg(name: str, method: Method) -> str:
    """Two columns of boxes: what `adapt` does, down to phi, and beside it what `predict` does, past phi."""
    left = ["support", *(words for words, _ in method.adapt), "φ"]
    right = ["query x", *(words for words, _ in method.predict), "p(y | x, φ)"]
    reads = [row for row, (_, formula) in enumerate(method.predict, start=1) if reads_phi(formula)] or [1]
    down = max(0, len(left) - 1 - reads[0])  # the right column begins so many rows below the left one
    up = max(0, reads[0] - len(left) + 1)
    rows = max(len(left) + up, len(right) + down)
    parts = [_column(left, EDGE, up, "φ"), _column(right, QUERY, down, "")]
    start = (EDGE + WIDTH, _middle(len(left) - 1 + up))
    for row in reads:
        parts.append(_arrow(start, (QUERY, _middle(row + down))))
    told = f"adapt: {', '.join(left[1:-1])}; the result is phi. predict: {', '.join(right[1:-1])}."
    height = rows * PITCH + 26
    return (
        f'<svg class="flow" viewBox="0 0 {2 * (EDGE + WIDTH) + GAP} {height}" role="img" '
        f'aria-label="Data flow of {escape(name)}. {escape(told)}">'
        f'<text class="head" x="{EDGE + WIDTH / 2}" y="{16 + up * PITCH}">adapt</text>'
        f'<text class="head" x="{QUERY + WIDTH / 2}" y="{16 + down * PITCH}">predict</text>{"".join(parts)}</svg>'
    )


def _middle(row: int) -> float:
    return 26 + row * PITCH + HEIGHT / 2


def _column(labels: list[str], x: int, first: int, phi: str) -> str:
    parts = []
    for row, label in enumerate(labels):
        kind = "phi" if label == phi else "end" if row in (0, len(labels) - 1) else "step"
        y = _middle(row + first)
        parts.append(
            f'<rect class="{kind}" x="{x}" y="{y - HEIGHT / 2}" width="{WIDTH}" height="{HEIGHT}" '
            f'rx="{6 if kind == "step" else HEIGHT / 2}"/>'
            f'<text x="{x + WIDTH / 2}" y="{y + 4.5}">{escape(label)}</text>'
        )
        if row:
            above = y - PITCH + HEIGHT / 2
            parts.append(_arrow((x + WIDTH / 2, above), (x + WIDTH / 2, y - HEIGHT / 2)))
    return "".join(parts)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A line with its head; across the gap it bends."""
    (x, y), (to_x, to_y) = start, end
    if x == to_x:
        return f'<path d="M{x} {y}V{to_y}M{x - 4} {to_y - 6}L{x} {to_y}L{x + 4} {to_y - 6}"/>'
    middle = (x + to_x) / 2
    return f'<path d="M{x} {y}H{middle}V{to_y}H{to_x}M{to_x - 6} {to_y - 4}L{to_x} {to_y}L{to_x - 6} {to_y + 4}"/>'
