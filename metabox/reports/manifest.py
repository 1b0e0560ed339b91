"""`manifest.json`: hashes of the files of a run, so that a report can detect later changes.

They guard against accidents and against numbers edited by hand. Changing a file together with its hash goes undetected.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from metabox.files import read_json, write_json, write_text

NAME = "manifest.json"
RECIPE = "recipe.yaml"
NEEDED = (RECIPE, "best.safetensors", "environment.json", "model.json")
FILES = (*NEEDED, "metrics.jsonl")


def is_finished(folder: Path) -> bool:
    """Whether the end of the training has been recorded."""
    return bool(_read(folder).get("finished"))


def check_recipe(folder: Path, recipe: str) -> None:
    """
    Raises:
        ValueError: if the folder holds a run of another recipe, or its recipe is damaged.
    """
    path = folder / RECIPE
    if not path.exists():
        return
    check(folder)
    kept = path.read_bytes().decode(errors="replace")
    if kept != recipe:
        differ = sorted(set(recipe.splitlines()) ^ set(kept.splitlines()))
        raise ValueError(f"expected the run in {folder} to have this recipe, got other values of {differ}; use --out")


def begin(folder: Path, recipe: str) -> bool:
    """Write the recipe of a run, its hash first, so that there is never a recipe without a recorded hash.

    Returns:
        Whether the end of the training has been recorded.

    Raises:
        ValueError: as for `check_recipe`.
    """
    check_recipe(folder, recipe)
    known = _read(folder)
    finished, files = bool(known.get("finished")), known.get("files", {})
    if files.get(RECIPE) != (now := _hash(recipe.encode())):
        write_json(folder / NAME, {"finished": finished, "files": files | {RECIPE: now}}, hashed=True)
    write_text(folder / RECIPE, recipe)
    return finished


def check(folder: str | Path) -> None:
    """Check the files that a run is rebuilt from, if their hashes were recorded: all but curves and results.

    Until a run has ended, only the recipe is checked; the other files still change, and hold hashes of their own.

    Raises:
        ValueError: if a file has changed since it was recorded (the message names it), or the manifest is invalid.
    """
    folder = Path(folder)
    known = _read(folder)
    for name in NEEDED if known.get("finished") else (RECIPE,):
        path, recorded = folder / name, known.get("files", {}).get(name)
        if recorded and path.is_file() and _hash(path.read_bytes()) != recorded:
            raise ValueError(
                f"expected {path} as it was recorded in {NAME}, got another file: it was damaged or changed; restore it"
            )


def record(folder: Path, result: Path, *, trained: bool) -> None:
    """Record the files of a run, after its training has ended or a result has been added.

    Once a run has ended, only the new result is added to the record: evaluating a run does not record its changed
    files.

    Args:
        folder: of the run.
        result: the file that was just written.
        trained: whether the files of training were just written too.
    """
    known = _read(folder)
    now = _hashes(folder)
    name = result.relative_to(folder).as_posix()
    files = now if trained or not known.get("finished") else known["files"] | {name: now[name]}
    write_json(folder / NAME, {"finished": trained or bool(known.get("finished")), "files": files}, hashed=True)


def changes(folder: Path) -> list[str] | None:
    """The files that have changed since they were recorded, or None if nothing was recorded.

    Raises:
        ValueError: if the manifest is invalid.
    """
    known = _read(folder)
    if not known:
        return None
    then, now = known["files"], _hashes(folder)
    changed = {name: "changed" for name in then.keys() & now.keys() if then[name] != now[name]}
    added = dict.fromkeys(now.keys() - then.keys(), "added")
    missing = dict.fromkeys(then.keys() - now.keys(), "missing")
    return [f"{name} ({what})" for name, what in sorted((changed | added | missing).items())]


def check_run(folder: Path) -> dict[str, str]:
    """Read the files of a run, finished or not; returns for each file what is wrong with it, or an empty string.

    Raises:
        ValueError: if the manifest is invalid.
    """
    from metabox.tensors import load_tensors
    from metabox.training.description import read_description
    from metabox.training.environment import read_environment

    known = _read(folder)
    found = dict.fromkeys([*known.get("files", {}), *_hashes(folder)], "")
    if known.get("finished"):
        found |= dict.fromkeys(NEEDED, "")
        found |= {change.partition(" ")[0]: change.partition(" ")[2].strip("()") for change in changes(folder) or []}
        found |= {name: "missing" for name in NEEDED if not (folder / name).is_file()}
    readers: dict[str, Callable[[], object]] = {"best.safetensors": lambda: load_tensors(folder / "best.safetensors")}
    readers |= {"environment.json": lambda: read_environment(folder), "model.json": lambda: read_description(folder)}
    for name, read in readers.items():
        if found.get(name) == "":
            try:
                read()
            except ValueError as error:
                found[name] = str(error)
    return found


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    if not path.exists():
        return {}
    content: dict[str, Any] = read_json(path, hashed=True)
    files = content.get("files")
    if not isinstance(files, dict) or not isinstance(content.get("finished"), bool):
        raise ValueError(f"expected hashes of files in {path}, got something else; restore it, or evaluate anew")
    return content


def _hashes(folder: Path) -> dict[str, str]:
    paths = [folder / name for name in FILES] + sorted((folder / "results").glob("*.json"))
    return {path.relative_to(folder).as_posix(): _hash(path.read_bytes()) for path in paths if path.is_file()}


def _hash(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
