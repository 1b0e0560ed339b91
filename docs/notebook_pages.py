"""Pages of the docs from notebooks: Sphinx reads docs/notebooks/NAME.ipynb as the Markdown that `page` makes of it."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any


def page(text: str, name: str) -> str:
    """Cells and outputs as Markdown; a figure is an image with the alternative text in the metadata `alt` of its cell.

    Raises:
        ValueError: for a figure without it, or an output of another kind.
    """
    content = json.loads(text)
    facts = content["metadata"].get("metabox", {})
    parts = [_cell(cell, name) for cell in content["cells"]]
    if facts:
        made = f"{facts['processor_seconds']} seconds on one core of an {facts['cpu']}, torch {facts['torch']}"
        where = f"`docs/notebooks/{name}.ipynb`, from `docs/notebooks/{name}.py` by `docs/make_notebooks.py`"
        parts.append(f"This page is {where}: {made}.")
    return "\n\n".join(parts)


def _cell(cell: dict[str, Any], name: str) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *(_output(output, cell, name) for output in cell["outputs"])])


def _output(output: dict[str, Any], cell: dict[str, Any], name: str) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output.get("data", {})
    if "image/svg+xml" in data:
        if not (alt := cell["metadata"].get("alt")):
            raise ValueError(f'expected a text for those who cannot see the figures of {name}; write # %% alt="..."')
        drawn = re.sub(r"\b[1-9]\d*\.\d{3,}", lambda number: f"{float(number[0]):.2f}", "".join(data["image/svg+xml"]))
        picture = base64.b64encode(drawn.encode()).decode()
        return f'<img src="data:image/svg+xml;base64,{picture}" alt="{html.escape(alt)}">'
    if "text/plain" in data:
        return f"```text\n{''.join(data['text/plain'])}\n```"
    raise ValueError(f"expected text or a figure as output in {name}, got {output['output_type']}")


def read(app: Any, docname: str, source: list[str]) -> None:
    if Path(app.env.doc2path(docname)).suffix == ".ipynb":
        source[0] = page(source[0], Path(docname).name)


def setup(app: Any) -> None:
    app.add_source_suffix(".ipynb", "markdown")
    app.connect("source-read", read)
