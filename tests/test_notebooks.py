"""The notebooks of the docs: each runs with small numbers, and what is committed has the same cells and all outputs."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[1] / "docs"
SOURCES = sorted((DOCS / "notebooks").glob("*.py"))
SMALL = {"STEPS": 2, "TEST_TASKS": 2, "SEEDS": 1}


def cells(source: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell in the percent format."""
    found = []
    for head, body in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", source.read_text(encoding="utf-8"), re.MULTILINE):
        markdown = "[markdown]" in head
        body = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if markdown else body
        found.append(("markdown" if markdown else "code", body.strip()))
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs_with_small_numbers(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    (_, first), *others = [cell for cell in cells(source) if cell[0] == "code"]
    namespace: dict[str, object] = {"__name__": source.stem}
    exec(first, namespace)
    names = {name for name in namespace if name.isupper()}
    assert names <= set(SMALL), "the first cell has the numbers that a test may make small"
    namespace |= {name: SMALL[name] for name in names}
    with plt.rc_context({"backend": "agg"}):
        for number, (_, text) in enumerate(others, 2):
            exec(compile(text, f"{source.name}, code cell {number}", "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_committed_notebook_has_the_cells_of_its_source_and_their_outputs(source: Path) -> None:
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    committed = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert committed == cells(source), "run docs/make_notebooks.py"
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert notebook["metadata"]["metabox"]["processor_seconds"] <= 240
    assert "widgets" not in notebook["metadata"]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("notebook_pages")


def made(*outputs: dict[str, object], **metadata: str) -> str:
    code = {"cell_type": "code", "source": "print(1)", "metadata": metadata, "outputs": list(outputs)}
    return json.dumps({"metadata": {}, "cells": [{"cell_type": "markdown", "source": ["# A\n", "b"]}, code]})


def test_a_page_of_a_notebook_shows_text_and_figures_that_carry_their_own_data(pages: ModuleType) -> None:
    text = {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}
    figure = {"output_type": "display_data", "data": {"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}}
    page = pages.page(made(text, figure, alt='a "line"'), "n")
    assert page.startswith('# A\nb\n\n```python\nprint(1)\n```\n\n```text\n1\n2\n```\n\n<img src="data:image/svg+xml;')
    assert page.endswith('alt="a &quot;line&quot;">')
    with pytest.raises(ValueError, match="expected a text for those who cannot see the figures of n"):
        pages.page(made(figure), "n")
    with pytest.raises(ValueError, match="expected text or a figure as output in n, got error"):
        pages.page(made({"output_type": "error"}), "n")
