"""Figures of benchmarks as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metabox.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_svg(figure: Figure, out: Path) -> None:
    """Written whole or not at all; the same figure gives the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "metabox"}):
        write_atomically(out, lambda tmp: figure.savefig(tmp, format="svg", metadata={"Date": None}))
