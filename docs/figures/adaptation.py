"""Draws docs/_static/adaptation.svg: the model `characters` learns five new characters from one drawing of each.

The task is the first of the test split of Glyphs; the model has seen none of its characters. All that is drawn is
computed: the support, phi (of what it holds, the code of each class) and the probabilities of the queries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch

from metabox import Episodes, FewShotClassifier, Place
from metabox.tasks import Glyphs

STATIC = Path(__file__).parents[1] / "_static"
NAMES, N_QUERIES = "abcde", 4
INK, QUIET, RIGHT = "#1f2937", "#9ca3af", "#2563eb"
plt.rcParams |= {"svg.hashsalt": "metabox", "font.size": 17, "text.color": INK}


def learned() -> tuple[Episodes, dict[str, torch.Tensor], np.ndarray]:
    """A task, the phi of its support, and the probabilities `[M, C]` of its queries."""
    task = Glyphs(n_way=len(NAMES), n_shot=1, n_query=1).sample(Place(1, "test"))
    classifier = FewShotClassifier("characters").fit(task.support.x[0], task.support.y[0])
    return task, classifier.adaptation_.phi, classifier.predict_proba(task.query.x[0])


def image(drawing: Any, place: tuple[float, float, float, float], pixels: torch.Tensor) -> None:
    axis = drawing.add_axes(place)
    axis.imshow(255 - pixels[0], cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color(QUIET)


def arrow(drawing: Any, start: tuple[float, float], end: tuple[float, float], label: str) -> None:
    drawing.add_artist(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=16, color=INK, lw=1.4))
    drawing.text((start[0] + end[0]) / 2, start[1] + 0.03, label, ha="center", family="monospace", size=16)


def main() -> None:
    task, phi, shares = learned()
    drawing = plt.figure(figsize=(10, 4.6))
    order = task.support.y[0].argsort()
    for row, example in enumerate(order.tolist()):
        image(drawing, (0.075, 0.715 - 0.168 * row, 0.07, 0.15), task.support.x[0, example])
        drawing.text(0.05, 0.79 - 0.168 * row, NAMES[row], ha="center", va="center", size=20)
    codes = phi["codes"][0, : len(NAMES)]
    codes = codes - codes.mean(0)  # what all have in common tells no class from another
    axis = drawing.add_axes((0.31, 0.21, 0.16, 0.5))
    axis.imshow(codes, aspect="auto", cmap="RdBu", vmin=-float(codes.abs().max()), vmax=float(codes.abs().max()))
    axis.set(xticks=[], yticks=range(len(NAMES)), yticklabels=list(NAMES))
    axis.tick_params(length=0)
    axis.spines[:].set_color(QUIET)
    arrow(drawing, (0.16, 0.46), (0.28, 0.46), "adapt")
    arrow(drawing, (0.485, 0.46), (0.605, 0.46), "predict")
    for row in range(N_QUERIES):
        low = 0.675 - 0.212 * row
        image(drawing, (0.63, low, 0.088, 0.19), task.query.x[0, row])
        bars = drawing.add_axes((0.755, low + 0.05, 0.225, 0.125))
        best = int(shares[row].argmax())
        bars.bar(range(len(NAMES)), shares[row], color=[RIGHT if c == best else QUIET for c in range(len(NAMES))])
        bars.text(best, shares[row, best] + 0.06, f"{100 * shares[row, best]:.0f} %", ha="center", size=16)
        bars.set(ylim=(0, 1.25), yticks=[], xticks=range(len(NAMES)), xticklabels=list(NAMES), xlim=(-0.7, 4.7))
        bars.tick_params(length=0, labelsize=16)
        bars.spines[["top", "right", "left"]].set_visible(False)
    for at, title in (
        (0.1, "support: one\ndrawing of each"),
        (0.39, "φ: all that is\nkept of the task"),
        (0.8, "queries, with\nprobabilities"),
    ):
        drawing.text(at, 0.995, title, ha="center", va="top", size=15, weight="bold", linespacing=1.1)
    drawing.savefig(STATIC / "adaptation.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
