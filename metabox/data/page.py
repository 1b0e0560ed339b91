"""The visible text of untrusted HTML pages, in one pass."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

TAG = re.compile(r"<(?:(?P<comment>!--)|[!?]|(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]{0,100})|/(?=[^>]))")
ATTRIBUTE = re.compile(r"""=\s*["']|>""")
REFERENCE = re.compile(r"&(?:#[0-9]{1,7}(?![0-9])|#[xX][0-9a-fA-F]{1,6}(?![0-9a-fA-F])|[a-zA-Z0-9]{2,32});?")
RAW = {name: re.compile(rf"(?i)</{name}(?=[\s/>])") for name in ("script", "style")}
INLINE = ("a", "b", "big", "em", "font", "i", "s", "small", "span", "strong", "sub", "sup", "u", "wbr")


def page_text(page: str) -> Iterator[str]:
    """The text between tags and comments, piece by piece, by HTML's rules for where they end.

    One pass: as in HTML, whatever is not closed extends to the end of the page, so nothing is scanned twice.
    (`html.parser` scans the rest again for each tag that is not closed.)
    """
    at, hidden = 0, False
    while at < len(page):
        tag = TAG.search(page, at)
        if not hidden:
            yield _unescaped(page[at : tag.start() if tag else len(page)])
        if tag is None:
            return
        close, name = tag["close"], (tag["name"] or "").lower()
        if tag["comment"]:
            end = page.find("-->", tag.end() - 2)  # <!--> is a comment
            end = end + 3 if end >= 0 else 0
        elif not name:  # a declaration
            end = page.find(">", tag.end()) + 1
        else:
            end = _end_of_tag(page, tag.end())
        if not end:
            return
        at = end
        if name == "template":
            hidden = not close
        if name and name not in INLINE:  # a word continues across <b>, which spam makes use of
            yield " "
        if name in RAW and not close:
            raw = RAW[name].search(page, at)
            at = raw.start() if raw else len(page)


def _end_of_tag(page: str, at: int) -> int:
    """The position after the unquoted > that ends a tag; 0 if there is none."""
    while found := ATTRIBUTE.search(page, at):
        if found[0] == ">":
            return found.end()
        at = page.find(found[0][-1], found.end()) + 1
        if not at:
            break
    return 0


def _unescaped(text: str) -> str:
    return REFERENCE.sub(lambda found: html.unescape(found[0]), text)
