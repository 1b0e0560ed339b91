"""Whether a built site is whole: `python docs/check.py docs/_build` prints its faults.

No link leads nowhere, no page loads anything from another site, pages of the API and the site have limits of size.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGEST_PAGE, LARGEST_SITE = 200_000, 12_000_000  # bytes
LOADS = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("use", "href")}


class Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (tag, name) == ("a", "name"):
                self.anchors.add(value)
            elif (tag, name) in LOADS:
                self.loads.append(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)


def faults(site: Path) -> list[str]:
    """One line for each fault."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        found += [f"{name}: {fault}" for fault in _of_page(path, page, pages)]
        if name.startswith("reference/") and path.stat().st_size > LARGEST_PAGE:
            found.append(f"{name}: expected at most {LARGEST_PAGE:,} bytes, got {path.stat().st_size:,}")
    for path in sorted(site.rglob("*.css")):
        urls = re.findall(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]+)""", path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site).as_posix()}: loads {url}" for url in urls]
    files = [path for path in site.rglob("*") if path.is_file() and ".doctrees" not in path.parts]  # Sphinx's own cache
    size = sum(path.stat().st_size for path in files)
    return found + ([f"the site: expected at most {LARGEST_SITE:,} bytes, got {size:,}"] if size > LARGEST_SITE else [])


def _of_page(path: Path, page: Page, pages: dict[Path, Page]) -> list[str]:
    found = [f"loads {url}" for url in page.loads if urlsplit(url).netloc]
    for link in dict.fromkeys([*page.links, *page.loads]):
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not target.exists():
            found.append(f"dead link {link}")
        elif target in pages and unquote(url.fragment) not in pages[target].anchors and link not in page.loads:
            found.append(f"no such place {link}")
    return found


if __name__ == "__main__":
    lines = faults(Path(sys.argv[1]))
    print("\n".join(lines))
    sys.exit(bool(lines))
