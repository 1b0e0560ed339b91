"""Search that keeps every word: Pagefind makes an index of the built pages, and its own page replaces that of Sphinx.

Sphinx drops words such as "few" and "own", which are what people look for here.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from sphinx.util import logging

STATIC = ("searchtools.js", "language_data.js", "english-stemmer.js", "base-stemmer.js")
OF_SPHINX = ("searchindex.js", *(f"_static/{name}" for name in STATIC))
WITHOUT = (".headerlink", ".toctree-wrapper", ".katex-mathml")


def index(app: Any, error: Exception | None) -> None:
    """Write the folder pagefind/ into the site."""
    if error is not None or app.builder.name != "html":
        return
    for name in OF_SPHINX:
        (app.outdir / name).unlink(missing_ok=True)
    try:
        import pagefind  # noqa: F401
    except ImportError:
        logging.getLogger(__name__).warning('no search: expected Pagefind, pip install "pagefind[bin]"')
        return
    command = [sys.executable, "-m", "pagefind", "--site", app.outdir, "--quiet"]
    subprocess.run([*command, "--exclude-selectors", ",".join(WITHOUT)], check=True)
    for file in (app.outdir / "pagefind").glob("pagefind-*.*"):  # faces other than the one of search.html
        if not file.name.startswith(("pagefind-ui.", "pagefind-entry.", "pagefind-worker.")):
            file.unlink()


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
