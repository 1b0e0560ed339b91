"""Writes the stubs of the lazy packages, for editors and type checkers: `python -m metabox.stubs`.

Beside the `__init__.py` of each lazy package there is an `__init__.pyi` that re-exports its public names from the
modules that define them. Everything else, signatures and docstrings, is in those modules.
"""

from __future__ import annotations

import sys
from pathlib import Path

from metabox import discover
from metabox.files import write_text

HEADER = "# Written by `python -m metabox.stubs`.\n"


def stubs() -> dict[Path, str]:
    """The stub of every lazy package, file to text."""
    return {
        discover.PACKAGE.parent.joinpath(*package.split("."), "__init__.pyi"): stub(package, public)
        for package, public in discover.lazy_packages().items()
    }


def stub(package: str, public: tuple[str, ...]) -> str:
    """The text of one stub, sorted by module and name."""
    homes = discover.public_names(package, public)
    lines = sorted(f"from {module} import {name} as {name}\n" for name, module in homes.items())
    version = "\n__version__: str\n" if package == discover.PACKAGE.name else ""
    return f"{HEADER}\n{''.join(lines)}{version}"


def main() -> None:
    for path, text in stubs().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(f"{path} written", file=sys.stderr)


if __name__ == "__main__":
    main()
