"""What the theme leaves to do for readers without a mouse: boxes that scroll take the focus, captions have a level."""

from __future__ import annotations

import re
from typing import Any

SCROLL = re.compile(r'<(pre|div class="(?:table-wrapper|math block)[^"]*")>')


def focusable(body: str) -> str:
    """Let the keyboard reach code, wide tables and formulas, which scroll sideways in a narrow window.

    The parameters of a long signature are a list of definitions without terms: a mere layout.
    """
    return SCROLL.sub(r'<\1 tabindex="0">', body).replace("<dl>\n<dd>", '<dl role="presentation">\n<dd>')


def levelled(navigation: str) -> str:
    """Give the captions of the navigation a level; furo calls them headings without one."""
    return navigation.replace('role="heading">', 'role="heading" aria-level="2">')


def improve(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    for name, change in (("body", focusable), ("furo_navigation_tree", levelled)):
        if context.get(name):
            context[name] = change(context[name])


def setup(app: Any) -> None:
    app.connect("html-page-context", improve, priority=900)  # after the theme
