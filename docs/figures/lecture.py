"""Draws the figures of docs/lecture: `python docs/figures/lecture.py`.

The map of the lecture, and the curves of benchmarks/results/cs330.json if it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from metabox.files import read_json

STATIC = Path(__file__).parents[1] / "_static"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
plt.rcParams |= {"svg.hashsalt": "metabox", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
TOLD, SHOWN, ANSWER = "#b7791f", "#2b6cb0", "#2f855a"


def save(drawing: Any, name: str) -> None:
    """Write the figure; the same picture gives the same bytes. The ground is white, for dark pages too."""
    drawing.savefig(STATIC / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(drawing)


def box(axis: Any, x: float, y: float, text: str, colour: str, width: float = 2.0) -> None:
    outline = plt.Rectangle((x, y), width, 0.8, facecolor=colour + "22", edgecolor=colour, linewidth=1.2)
    axis.add_patch(outline)
    axis.text(x + width / 2, y + 0.4, text, ha="center", va="center")


def arrow(axis: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#4a5568", "shrinkA": 0, "shrinkB": 0})


def outline() -> None:
    """Multi-task learning beside meta-learning, as two uses of one function."""
    drawing, axes = plt.subplots(1, 2, figsize=(8, 2.3), layout="constrained")
    for axis, title, known, colour in zip(
        axes,
        ("Multi-task learning: the task is told", "Meta-learning: the task is shown"),
        ("descriptor $z_i$", r"$\mathcal{D}_i^{\mathrm{tr}}$: $(x_1, y_1), \ldots$"),
        (TOLD, SHOWN),
        strict=True,
    ):
        axis.set(xlim=(-0.1, 9.3), ylim=(-0.1, 2.7), title=title)
        axis.axis("off")
        box(axis, 0, 1.6, known, colour, 2.6)
        box(axis, 3.5, 1.6, "adapt", "#4a5568")
        box(axis, 0, 0, "query $x$", "#4a5568", 2.6)
        box(axis, 3.5, 0, "predict", "#4a5568")
        box(axis, 6.6, 0, r"$p(y \mid x, \phi_i)$", ANSWER, 2.6)
        arrow(axis, (2.6, 2.0), (3.5, 2.0))
        arrow(axis, (4.5, 1.6), (4.5, 0.8))
        axis.text(4.65, 1.2, r"$\phi_i$", va="center")
        arrow(axis, (2.6, 0.4), (3.5, 0.4))
        arrow(axis, (5.5, 0.4), (6.6, 0.4))
    save(drawing, "lecture-map")


def exercise(rows: list[dict[str, Any]]) -> None:
    """Validation accuracy against steps; dotted: chance."""
    drawing, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    colours = {way: f"C{i}" for i, way in enumerate(sorted({row["ways"] for row in rows}))}
    styles = dict(zip(sorted({row["shots"] for row in rows}), ("-", "--", "-."), strict=False))
    for row in rows:
        steps, accuracy = zip(*row["validation_percent"], strict=True)
        label = f"{row['ways']}-way {row['shots']}-shot"
        axis.plot(steps, accuracy, color=colours[row["ways"]], linestyle=styles[row["shots"]], label=label)
    for way, colour in colours.items():
        axis.axhline(100 / way, color=colour, linestyle=":", linewidth=0.8)
    axis.set(xlabel="training steps of 16 tasks", ylabel="validation accuracy, %", ylim=(0, 100))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(drawing, "lecture-exercise")


if __name__ == "__main__":
    outline()
    if (RESULTS / "cs330.json").exists():
        exercise(read_json(RESULTS / "cs330.json")["rows"])
