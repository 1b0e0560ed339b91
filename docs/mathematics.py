"""Mathematics in the pages: KaTeX from docs/_static/katex, and one notation for all pages, docs/notation.json.

The formulas of the learners are in their classes (`metabox.learners.method`). Nothing is loaded from another site.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

NOTATION = Path(__file__).with_name("notation.json")


def macros() -> dict[str, str]:
    """Macro to LaTeX."""
    return {row["macro"]: row["tex"] for row in json.loads(NOTATION.read_text(encoding="utf-8"))}


def notation() -> str:
    """The table of docs/notation.md."""
    lines = ["| sign | in LaTeX | what it is |", "| --- | --- | --- |"]
    for row in json.loads(NOTATION.read_text(encoding="utf-8")):
        shown = row.get("shown", row["macro"])
        lines.append(f"| ${shown}$ | `{row['macro']}` | {row['means']} |")
    return "\n".join(lines)


def write(kind: str, text: str) -> str:
    """Escaped LaTeX in an element that mathematics.js renders; without scripts a reader sees the LaTeX."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    tag = "div" if kind == "block" else "span"
    return f'<{tag} class="math {kind}">{safe}</{tag}>'


def inline(self: Any, node: Any) -> None:
    from docutils import nodes

    self.body.append(write("inline", node.astext()))
    raise nodes.SkipNode


def block(self: Any, node: Any) -> None:
    from docutils import nodes

    text = node.astext()
    if re.search(r"(?<!\\)\\\\|&", text) and "\\begin{" not in text:
        text = f"\\begin{{aligned}}{text}\\end{{aligned}}"
    self.body.append(write("block", text))
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("katex", (inline, None), (block, None))
    app.config.html_math_renderer = "katex"
    app.add_css_file("katex/katex.min.css")
    app.add_js_file(None, body=f"window.macros = {json.dumps(macros())};")
    app.add_js_file("katex/katex.min.js")
    app.add_js_file("mathematics.js")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
