"""The output of `metabox list`: learners, backbones, data sets, models and recipes. Does not import torch."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Mapping
from functools import partial

from metabox import discover


def _classes(base: str) -> dict[str, str]:
    return {found.name: found.summary for found in discover.subclasses(base)}


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "learners": partial(_classes, "Learner"),
    "backbones": partial(_classes, "Backbone"),
    "datasets": partial(_classes, "EpisodeSampler"),
    "models": lambda: {name: discover.card(path).partition(":")[0] for name, path in discover.models().items()},
    "recipes": lambda: {name: discover.title(path) for name, path in discover.recipes().items()},
}
"""What can be listed: each kind, and a function that finds its names and their summaries."""

NARROWEST = 24
"""The least width of a summary in columns, however narrow the terminal."""


def listing(kind: str | None = None, word: str = "") -> str:
    """The names of one kind, or of all, each with its summary, wrapped to the width of the terminal.

    Without a terminal, as in a pipe, each name is one line.

    Args:
        kind: one of `KINDS`; None for all of them.
        word: part of the names to list, ignoring case.

    Raises:
        ValueError: if there is no such kind, or no such name.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}, got {kind!r}")
    width = shutil.get_terminal_size((0, 0)).columns
    parts = []
    for title in [kind] if kind else KINDS:
        found = {name: says for name, says in KINDS[title]().items() if word.lower() in name.lower()}
        if found:
            parts.append("\n".join([f"{title}:", *_table(found, width)]))
    if not parts:
        where = f"metabox list {kind}" if kind else "metabox list"
        raise ValueError(f"expected part of a name that `{where}` lists, got {word!r}")
    return "\n".join(parts)


def _table(rows: Mapping[str, str], width: int) -> list[str]:
    """A line for each name and its summary; a long summary is wrapped below itself."""
    indent = max(map(len, rows)) + 4
    wrap = textwrap.TextWrapper(
        width=max(width, indent + NARROWEST),
        break_long_words=False,
        break_on_hyphens=False,
        subsequent_indent=" " * indent,
    )
    lines = []
    for name, says in rows.items():
        line = f"  {name:{indent - 4}}  {says}".rstrip()
        lines += wrap.wrap(line) if width else [line]
    return lines
