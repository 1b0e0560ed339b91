"""A page for each learner, docs/methods/NAME.md, made from its class; the overview; and the family tree.

Formulas, costs and kin are the class attribute `method`; what phi holds is in the docstring of `infer`, and its size is
measured when the page is built; recipes, claims and results are those of the atlas.
"""

from __future__ import annotations

import inspect
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from atlas import best, entries, ours, published
from flow import svg
from results import columns_of

from metabox import Classes, Learner, Part, Parts, Reals, TaskSpec, discover
from metabox.testing import make_episodes

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SIZES = (5, 25, 100)
"""Examples in the supports for which phi is measured."""
PARTS = Parts((Part("kind", Classes(3)), Part("depth", Reals(1))))
MAPS = Parts((Part("classes", Classes(3), (16, 16)), Part("depth", Reals(1), (16, 16))))
NAMED = ("red", "green", "blue")
SPECS = (
    TaskSpec((1, 28, 28), Classes(5)),
    TaskSpec((1,), Reals(1)),
    TaskSpec((4,), Classes(3), scale="none"),
    TaskSpec((4,), Classes(3), descriptor_size=3, tasks=NAMED, index_size=3),
    TaskSpec((1, 16, 16), MAPS),
    TaskSpec((4,), PARTS),
)
"""Kinds of task, of which a page takes the first that its learner can be built for."""
FLAGS = (
    lambda made: "order matters" if made.ordered else "",
    lambda made: "renaming classes renames predictions" if made.label_equivariant else "",
    lambda made: "goes on from phi" if made.continues else "",
    lambda made: "exports to ONNX" if made.method and made.method.exports else "",
    lambda made: "trains in parallel over the support" if made.method and made.method.parallel else "",
)


def page(name: str, made: type[Learner], summary: str, known: list[Any]) -> str:
    words = [*(kind.__name__ for kind in made.targets), *(flag(made) for flag in FLAGS)]
    flags = [f"<li>{word}</li>" for word in words if word]
    parts = [
        f"# {name}\n\n{summary}",
        f'```{{raw}} html\n<ul class="flags">{"".join(flags)}</ul>\n```',
        formulas(name, made),
        "## phi\n\n" + phi(name, made),
        costs(made),
        "## In words\n\n" + f"```{{eval-rst}}\n.. autoclass:: {made.__module__}.{name}\n   :show-inheritance:\n```",
        "## Example\n\n" + example(name),
        "## Recipes\n\n" + recipes(name, known),
        kin(name, made),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def formulas(name: str, made: type[Learner]) -> str:
    if made.method is None:
        return ""
    lines = [":::::{container} method", "::::{container} formulas"]
    for title, steps in (("adapt", made.method.adapt), ("predict", made.method.predict)):
        lines += [f"**{title}**", ""]
        for words, formula in steps:
            lines += [words, "", f"$$\n{formula}\n$$", ""]
    return "\n".join([*lines, "::::", "```{raw} html", svg(name, made.method), "```", ":::::"])


def costs(made: type[Learner]) -> str:
    if made.method is None:
        return ""
    adapt, predict = made.method.cost
    return (
        f"## Cost\n\n`adapt` grows as $O({adapt})$, `predict` for all queries as $O({predict})$, with N support "
        f"examples, M queries and C classes; the backbone runs once for each image. In training the support is read "
        + ("at once." if made.method.parallel else "one step after another.")
    )


@cache
def built(name: str) -> tuple[Learner, TaskSpec] | None:
    """The learner for the first kind of task that it takes; None if it cannot be built, as without an extra."""
    made = next(found for found in discover.subclasses("Learner") if found.name == name).load()
    for spec in SPECS:
        if spec.tasks and not name_told(made):
            continue
        if name_told(made) and not spec.tasks and any(kind is Classes for kind in made.targets):
            continue
        try:
            torch.manual_seed(0)
            learner = made(spec).eval()
            episodes = make_episodes(spec, n_tasks=1, n_support=3)
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                learner.predict(learner.adapt(episodes.support, episodes.descriptor), episodes.query.x)
            return learner, spec
        except (ValueError, ImportError):
            continue
    return None


def name_told(made: type[Learner]) -> bool:
    """Whether the learner is one for named tasks."""
    return ".multitask." in made.__module__


@cache
def measured(name: str) -> list[tuple[str, list[int], int]]:
    """The parts of phi: name, shape, and number of numbers, for each of SIZES."""
    made = built(name)
    if made is None:
        return []
    learner, spec = made
    rows = []
    for n in SIZES:
        episodes = make_episodes(spec, n_tasks=1, n_support=n)
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            try:
                held = learner.adapt(episodes.support, episodes.descriptor)
            except ValueError:  # longer than it can read
                break
        rows.append(held)
    return [
        (part, list(rows[0][part].shape), *(row[part].numel() for row in rows))  # type: ignore[misc]
        for part in rows[0]
    ]


@cache
def totals(name: str) -> list[int]:
    """Numbers in phi for each of SIZES that the learner can read."""
    rows = measured(name)
    return [sum(row[2 + at] for row in rows) for at in range(len(rows[0]) - 2)] if rows else []  # type: ignore[misc]


def memory(name: str) -> str:
    """How phi grows."""
    held = totals(name)
    if len(held) < 2:
        return ""
    return "fixed" if held[0] == held[-1] else "grows with N"


def phi(name: str, made: type[Learner]) -> str:
    text = " ".join((inspect.getdoc(made.infer) or "").split())
    state = " ".join((inspect.getdoc(getattr(made, "start", None)) or "").split())  # of a recurrent learner
    text += f" {state}" if state.startswith("The state: ") else ""
    rows = measured(name)
    if not rows:
        return text
    _, spec = built(name)  # type: ignore[misc]
    held = totals(name)
    counts = ", ".join(f"{count:,} for {n}" for n, count in zip(SIZES, held, strict=False)) + " examples"
    what = f"inputs {list(spec.x_shape)} and {spec.target!r}"
    size = f"{held[0]:,}, whatever the support" if memory(name) == "fixed" else counts
    lines = [text, "", f"Numbers in it for one task, with default options, {what}: {size}."]
    lines += ["", columns_of(("part", f"shape for {SIZES[0]} examples")), columns_of(("---", "---"))]
    return "\n".join(lines + [columns_of((f"`{part}`", f"`{shape}`")) for part, shape, *_ in rows])


def example(name: str) -> str:
    """A call that runs, with what it prints."""
    found = built(name)
    if found is None:
        return "It needs an optional package: [installation](../install.md)."
    _, spec = found
    image = len(spec.x_shape) == 3
    x = (
        f"torch.randint(256, (1, 6, {', '.join(map(str, spec.x_shape))}), dtype=torch.uint8)"
        if image
        else f"torch.rand(1, 6, {spec.x_shape[0]})"
    )
    code = [
        "import torch",
        "from metabox import "
        + ", ".join(sorted({"Examples", "TaskSpec", *re.findall(r"\b(Classes|Reals|Parts|Part)\(", source(spec))})),
        f"from metabox.learners import {name}",
        "",
        f"learner = {name}({source(spec)}).eval()",
        f"x = {x}  # a task of six examples",
        f"y = {labels(spec)}",
    ]
    told = ", descriptor=z" if spec.descriptor_size else ""
    if told:
        code.append("z = torch.tensor([[0.0, 1.0, 0.0]])  # the second task")
    code += [f"phi = learner.adapt(Examples(x=x, y=y){told})", "print(learner.predict(phi, x).shape)"]
    scope: dict[str, Any] = {}
    lines = [line.replace("print(", "shown = (") for line in code]
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        exec("\n".join(lines), scope)
    code[-1] += f"  # {scope['shown']}"
    return "\n".join(["```python", *code, "```"])


def source(spec: TaskSpec) -> str:
    """The spec as code."""
    if spec.target is MAPS:
        target = 'Parts((Part("classes", Classes(3), (16, 16)), Part("depth", Reals(1), (16, 16))))'
    elif spec.target is PARTS:
        target = 'Parts((Part("kind", Classes(3)), Part("depth", Reals(1))))'
    else:
        target = f"{type(spec.target).__name__}({getattr(spec.target, 'size', '')})"
    more = ', descriptor_size=3, tasks=("red", "green", "blue"), index_size=3' if spec.tasks else ""
    more += f', scale="{spec.scale}"' if spec.x_shape == (4,) and not spec.tasks and spec.target is not PARTS else ""
    return f"TaskSpec({spec.x_shape}, {target}{more})"


def labels(spec: TaskSpec) -> str:
    if spec.target.parts:
        return f"torch.zeros(1, 6, {spec.target.size})"
    if spec.target.n_classes:
        return f"torch.arange(6)[None] % {spec.target.n_classes}"
    return "x.sin()"


def recipes(name: str, known: list[Any]) -> str:
    mine = [entry for entry in known if entry.learner == name]
    if not mine:
        return "None comes with the package."
    lines = [columns_of(("recipe", "published", "ours")), columns_of(("---", "---", "---"))]
    for entry in mine:
        lines.append(columns_of((f"`{entry.name}`", published(entry.claim), ours(best(entry)))))
    return "\n".join(
        [*lines, "", "`metabox train RECIPE` runs one. Sources and lengths are in the [atlas](../atlas.md)."]
    )


def kin(name: str, made: type[Learner]) -> str:
    before = dict(made.method.kin) if made.method else {}
    after = {
        found.name: m.kin[name]
        for found in discover.subclasses("Learner")
        if (m := found.load().method) and name in m.kin
    }
    lines = [f"- From [{other}]({other}.md): {what}." for other, what in before.items()]
    lines += [f"- To [{other}]({other}.md): {what}." for other, what in after.items()]
    return "\n".join(["## Kin", "", *lines, "", "All of them: the [family tree](../family.md)."]) if lines else ""


def pages() -> dict[str, str]:
    """The page of each learner, by name."""
    known = entries(RESULTS)
    return {
        found.name: page(found.name, found.load(), found.summary, known) for found in discover.subclasses("Learner")
    }


def overview() -> str:
    """One line for each learner, of which every cell is read from its class."""
    lines = [
        columns_of(
            ("learner", "targets", "support", "renaming", "phi", "numbers in phi", "training", "goes on", "ONNX")
        ),
        columns_of(["---"] * 5 + ["---:"] + ["---"] * 3),
    ]
    for found in discover.subclasses("Learner"):
        made = found.load()
        held = totals(found.name)
        method = made.method
        cells = (
            f"[{found.name}](methods/{found.name}.md)",
            ", ".join(kind.__name__ for kind in made.targets),
            "not read" if not made.reads_support else "sequence" if made.ordered else "set",
            "equivariant" if made.label_equivariant else "may change",
            memory(found.name),
            f"{held[0]:,}" if held else "",
            "" if method is None else "parallel" if method.parallel else "serial",
            "yes" if made.continues else "no",
            "" if method is None else "yes" if method.exports else "no",
        )
        lines.append(columns_of(cells))
    return "\n".join(lines)


def family() -> str:
    """The learners as a tree: each below the first that it is a change of, with the others named."""
    method = {found.name: found.load().method for found in discover.subclasses("Learner")}
    parents = {name: list(m.kin) if m else [] for name, m in method.items()}
    lines: list[str] = []

    def add(name: str, depth: int, what: str) -> None:
        others = "".join(
            f" From [{other}](methods/{other}.md): {method[name].kin[other]}." for other in parents[name][1:]
        )  # type: ignore[union-attr]
        lines.append(f"{'  ' * depth}- [{name}](methods/{name}.md){': ' + what + '.' if what else ''}{others}")
        for child, above in parents.items():
            if above[:1] == [name]:
                add(child, depth + 1, method[child].kin[name])  # type: ignore[union-attr]

    for name, above in parents.items():
        if not above:
            add(name, 0, "")
    return "\n".join(lines)


def not_exported() -> str:
    names = [found.name for found in discover.subclasses("Learner") if (m := found.load().method) and not m.exports]
    return ", ".join(names)
