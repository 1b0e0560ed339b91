"""Pages for readers without a mouse."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def accessible(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    return importlib.import_module("accessible")


def test_boxes_that_scroll_take_the_focus_and_captions_have_a_level(accessible: ModuleType) -> None:
    body = '<div class="highlight"><pre>x</pre></div><div class="table-wrapper docutils"><div class="math block">'
    assert accessible.focusable(body).count('tabindex="0"') == 3
    assert '<div class="highlight">' in accessible.focusable(body)
    assert (
        accessible.levelled('<p class="caption" role="heading">') == '<p class="caption" role="heading" aria-level="2">'
    )
