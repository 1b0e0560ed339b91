"""Figures as inline SVG: colours come from the page, so that they are legible in dark mode and in print."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure: its SVG, and its text alternative."""

    title: str
    text: str
    svg: str
    kind: str = "picture"


SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
INK = "#010203"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
"""Okabe and Ito's colours, which colour-blind readers can distinguish. In the page, --series-1 and so on."""
DASHES = ("-", "--", ":", "-.")
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and scaled
    "text.parse_math": False,  # a name may have dollar signs
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@matplotlib.rc_context(STYLE)
def learning_curves(curves: dict[str, list[dict[str, Any]]], name: str) -> Picture | None:
    """One metric, such as `train loss` or `val accuracy`, over the steps of several runs."""
    part, _, metric = name.partition(" ")
    figure, axes = _new("step", name)
    says = []
    for i, (run, lines) in enumerate(curves.items()):  # a run without the metric keeps its colour for the other figures
        points = [(line["step"], line[part][metric]) for line in lines if metric in line.get(part, {})]
        if points:
            x, y = zip(*points, strict=True)
            dash = DASHES[i // len(SERIES) % len(DASHES)]
            axes.plot(x, y, dash, color=SERIES[i % len(SERIES)], label=plain(run), marker="o", markersize=2.5)
            (first, before), (last, after) = points[0], points[-1]
            says.append(f"{run}: from {before:.4g} at step {first} to {after:.4g} at step {last}")
    if not says:
        return None
    _legend(figure, columns=1)
    return draw(figure, f"{name} during training", "; ".join(says))


@matplotlib.rc_context(STYLE)
def accuracy_along(name: str, label: str, found: dict[str, Any]) -> Picture:
    """Accuracy by number of ways or shots; the range of training is shaded."""
    figure, axes = _new(label, "accuracy, %")
    points = found["points"]
    if found["trained"]:
        (low, high), edge = found["trained"], 0.02 * (points[-1][name] - points[0][name])  # a single value is visible
        axes.axvspan(low - edge, high + edge, color=SERIES[0], alpha=0.2, linewidth=0, label="as in training")
    _with_intervals(axes, [point[name] for point in points], points)
    if name == "n_way":
        axes.plot([p[name] for p in points], [100 / p[name] for p in points], color=INK, linestyle=":", label="chance")
    _legend(figure)
    return draw(figure, f"accuracy by {label}", _say(name, label, points))


@matplotlib.rc_context(STYLE)
def by_instance(points: list[dict[str, Any]]) -> Picture:
    figure, axes = _new("instance of a class", "accuracy, %")
    _with_intervals(axes, [point["k"] for point in points], points)
    return draw(figure, "accuracy at the k-th instance of a class", _say("k", "instance", points))


@matplotlib.rc_context(STYLE)
def reliability(bins: list[dict[str, float]]) -> Picture:
    """The share of correct predictions against confidence; bars show the share of predictions in each bin."""
    figure, axes = _new("confidence of the prediction, %", "right, %")
    total = sum(b["predictions"] for b in bins)
    x, y = [100 * b["confidence"] for b in bins], [100 * b["correct"] for b in bins]
    axes.bar(
        x,
        [100 * b["predictions"] / total for b in bins],
        width=4,
        color=SERIES[5],
        alpha=0.5,
        label="share of predictions",
    )
    axes.plot([0, 100], [0, 100], color=INK, linestyle=":", label="calibrated")
    axes.plot(x, y, color=SERIES[0], marker="o", markersize=4, label="measured")
    axes.set(xlim=(0, 102), ylim=(0, 102))
    _legend(figure)
    says = "; ".join(
        f"said {a:.0f} %, right {b:.0f} % (of {bin_['predictions']})" for a, b, bin_ in zip(x, y, bins, strict=True)
    )
    return draw(figure, "reliability of the stated confidence", says)


@matplotlib.rc_context(STYLE)
def phi_map(found: dict[str, Any]) -> Picture:
    """Tasks as points, coloured by score."""
    share = [f"{100 * part:.0f} %" for part in found["share"]]
    figure, axes = _new(f"first component, {share[0]} of the variance", f"second, {share[1]}")
    x, y = zip(*found["places"], strict=True)
    points = axes.scatter(x, y, c=found["score"], s=18, cmap="viridis", edgecolors=INK, linewidths=0.5)
    figure.colorbar(points, label=f"{found['metric']} of the task")
    says = f"{len(x)} tasks; scores from {min(found['score']):.3g} to {max(found['score']):.3g}"
    return draw(figure, "phi of test tasks on two principal components", says)


def plain(text: str) -> str:
    """A name for a legend: one short line. Matplotlib hides labels that begin with an underscore."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f" {line[:47]}…" if len(line) > 48 else f" {line}"


def draw(figure: Figure, title: str, description: str) -> Picture:
    """The figure as an SVG element for a page, with its text alternative."""
    buffer = io.StringIO()
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": title}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw it, not ours
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    svg = ElementTree.fromstring(buffer.getvalue())
    for element in svg.findall(f"{{{SVG}}}metadata"):
        svg.remove(element)
    for size in ("width", "height"):
        svg.attrib.pop(size)
    prefix = f"f{blake2b(buffer.getvalue().encode(), digest_size=4).hexdigest()}-"
    for element in svg.iter():
        for key, value in element.attrib.items():
            element.set(key, _for_page(key, value, prefix))
    label = ElementTree.Element(f"{{{SVG}}}title")
    label.text = plain(title).strip()
    words = ElementTree.Element(f"{{{SVG}}}desc")
    words.text = " ".join("".join(c if c.isprintable() else " " for c in description).split())
    svg.insert(0, label)
    svg.insert(1, words)
    svg.set("role", "img")
    svg.set("aria-label", f"{label.text}. {words.text}")
    return Picture(label.text, words.text, ElementTree.tostring(svg, encoding="unicode"))


def _for_page(key: str, value: str, prefix: str) -> str:
    """An attribute with the page's colours, and with an id that no other figure of the page has."""
    if key == "id" or (value.startswith("#") and key.endswith("href")):
        return f"#{prefix}{value[1:]}" if value.startswith("#") else prefix + value
    for i, colour in enumerate(SERIES, 1):
        value = value.replace(colour, f"var(--series-{i}, {colour})")
    return value.replace(INK, "currentColor").replace("url(#", f"url(#{prefix}")


def _new(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _legend(figure: Figure, columns: int = 2) -> None:
    figure.legend(loc="outside lower left", ncols=columns)


def _with_intervals(axes: Axes, x: list[int], points: list[dict[str, Any]]) -> None:
    y, interval = [p["percent"] for p in points], [p["interval_95"] or 0 for p in points]
    axes.errorbar(
        x, y, yerr=interval, color=SERIES[0], marker="o", markersize=4, capsize=3, label="measured, 95% interval"
    )
    axes.set_xticks(x)


def _say(name: str, label: str, points: list[dict[str, Any]]) -> str:
    return "; ".join(f"{label} {p[name]}: {p['percent']:.1f} ± {p['interval_95'] or 0:.1f} %" for p in points)
