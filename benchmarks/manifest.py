"""The committed results: which there are, by which command, and whether they are of the current version of metabox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabox.files import read_json

RESULTS = Path(__file__).parent / "results"
MANIFEST = RESULTS / "manifest.json"


def manifest(path: Path = MANIFEST) -> dict[str, Any]:
    """`current`, the hash of metabox/ at the last regeneration, the command of each of `files`, and what `failed`."""
    found: dict[str, Any] = read_json(path) if path.exists() else {"current": None, "files": {}}
    return found


def trees(content: object) -> set[str | None]:
    """The versions of metabox of a result; None is among them if one of several rows does not say it."""
    if isinstance(content, list):
        each = [trees(item) for item in content]
        return set().union(*each, {None} if any(each) and not all(each) else ())
    if not isinstance(content, dict):
        return set()
    own = {content["git_tree"]} if "git_tree" in content else set()
    return own.union(*map(trees, content.values()))


def is_current(path: Path, now: str | None) -> bool:
    """Whether a result is wholly of this version."""
    try:
        return path.exists() and trees(read_json(path)) == {now}
    except ValueError:  # damaged
        return False


def result(name: str, path: Path = MANIFEST) -> dict[str, Any]:
    """A result that README and docs may print.

    Raises:
        ValueError: if the manifest does not have it.
    """
    if name not in manifest(path)["files"]:
        raise ValueError(f"expected a file of {path.name}, got {name}; write it by benchmarks/all.py")
    content: dict[str, Any] = read_json(path.parent / name)
    return content


def older(path: Path = MANIFEST) -> list[str]:
    """The files that have rows of another version of metabox than the last regeneration."""
    state = manifest(path)
    return [name for name in state["files"] if not is_current(path.parent / name, state["current"])]
