"""`manifest.json`: hashes of the files of a run, so that a report can tell when one was changed afterwards.

They guard against accidents and against numbers mended by hand. Who changes a file and its hash is not found out.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from metabox.files import read_json, write_json

NAME = "manifest.json"
FILES = ("recipe.yaml", "best.safetensors", "metrics.jsonl", "environment.json")


def is_finished(folder: Path) -> bool:
    """Whether the end of the training has been recorded."""
    return bool(_read(folder).get("finished"))


def record(folder: Path, result: Path, *, trained: bool) -> None:
    """Record the files of a run, after its training has ended or a result has been added.

    What is recorded stays as it is, but for the new result: files that were changed are not recorded anew by
    evaluating them.

    Args:
        folder: of the run.
        result: the file that was just written.
        trained: whether the files of the training were just written too.
    """
    known = _read(folder)
    now = _hashes(folder)
    name = result.relative_to(folder).as_posix()
    files = now if trained or not known else known["files"] | {name: now[name]}
    write_json(folder / NAME, {"finished": trained or bool(known.get("finished")), "files": files})


def changes(folder: Path) -> list[str] | None:
    """The files that are no longer as they were recorded, or None where nothing was recorded.

    Raises:
        ValueError: where the manifest is not one.
    """
    known = _read(folder)
    if not known:
        return None
    then, now = known["files"], _hashes(folder)
    changed = {name: "changed" for name in then.keys() & now.keys() if then[name] != now[name]}
    added = dict.fromkeys(now.keys() - then.keys(), "added")
    missing = dict.fromkeys(then.keys() - now.keys(), "missing")
    return [f"{name} ({what})" for name, what in sorted((changed | added | missing).items())]


def _read(folder: Path) -> dict:
    path = folder / NAME
    content = read_json(path) if path.exists() else {}
    if content and not (isinstance(content, dict) and isinstance(content.get("files"), dict)):
        raise ValueError(f"expected hashes of files in {path}, got something else; restore it, or evaluate anew")
    return content


def _hashes(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in FILES] + sorted((folder / "results").glob("*.json"))
    return {
        path.relative_to(folder).as_posix(): blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in paths
        if path.is_file()
    }
