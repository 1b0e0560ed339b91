"""A user's own images: which files there are, of which class and, if the user says so, in which split.

They are in class folders, perhaps in folders of groups or splits, or in a CSV file of paths and labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from metabox.data.decode import SUFFIXES
from metabox.data.readers import name_some, read_rows
from metabox.data.root import FolderFiles, ListedFiles
from metabox.episodes import Split

SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(["train", "training", "meta-train", "metatrain"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "dev", "meta-val", "metaval"], "val"),
    **dict.fromkeys(["test", "testing", "meta-test", "metatest"], "test"),
}
PATHS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img")
LABELS = ("label", "class", "class_name", "target", "category", "species")
SPLITTING = ("split", "subset", "partition", "set")


class OwnImage(NamedTuple):
    """One image: the name of its file, its class `<class>` or `<group>/<class>`, and its split if the user says so."""

    file: str
    label: str
    split: Split | None


def alike(name: str) -> str:
    """A name as every file system spells it: some compose accents, others take them apart."""
    return normalize("NFC", name)


def in_folders(files: FolderFiles, passed_over: Callable[[str], bool]) -> list[OwnImage]:
    """The images in class folders: folders without subfolders, all at one depth.

    If the outermost folders are named train, val and test, they are the splits; one alone is left out of the names.

    Raises:
        ValueError: naming everything out of place at once.
    """
    inner = {folder.rpartition("/")[0] for folder in files.folders}
    images: dict[str, list[str]] = {folder: [] for folder in files.folders if folder not in inner}
    stray = []
    for name in files.names:
        folder = name.rpartition("/")[0]
        if folder in images and Path(name).suffix.lower() in SUFFIXES:
            images[folder].append(name)
        elif not passed_over(name):
            stray.append(name)
    depths = {folder.count("/") for folder in images}
    splits = {top: SPLIT_NAMES.get(top.lower()) for top in {folder.partition("/")[0] for folder in images}}
    own = bool(splits) and None not in splits.values()
    labels = {folder: alike(folder.partition("/")[2] if own and max(depths) else folder) for folder in images}
    twice = _same(labels, splits) if own else _same(labels, {})
    _refuse(
        files.path,
        {
            "no images in": [folder for folder, found in images.items() if not found],
            "not an image in a class folder": stray,
            "class folders at another depth": [f for f in images if f.count("/") < max(depths)],
            "images without class folders in": sorted(splits) if own and len(splits) > 1 and not max(depths) else [],
            "names that differ only in how they are spelt": twice,
        },
        "" if images else "no folders",
    )
    of = splits if own and len(set(splits.values())) > 1 else {}
    return [
        OwnImage(name, labels[folder], of.get(folder.partition("/")[0]))
        for folder, found in images.items()
        for name in found
    ]


def _same(labels: Mapping[str, str], splits: Mapping[str, Split | None]) -> list[str]:
    """The folders of a split that have one label."""
    key = {folder: (splits.get(folder.partition("/")[0]), label) for folder, label in labels.items()}
    times = Counter(key.values())
    return [folder for folder in labels if times[key[folder]] > 1]


def _refuse(path: Path, wrong: Mapping[str, Sequence[str]], otherwise: str) -> None:
    said = "; ".join(f"{what}: {name_some(names)}" for what, names in wrong.items() if names) or otherwise
    if said:
        raise ValueError(
            f"expected <class>/<image>, <group>/<class>/<image> or <split>/<class>/<image> in {path}, got {said}; "
            "move or remove them"
        )


def in_list(path: Path) -> tuple[ListedFiles, list[OwnImage]]:
    """The images that a CSV file lists: path below its folder, label, and perhaps split.

    Columns have names, or are path, label and split in this order.

    Raises:
        ValueError: if it lists no such images, naming everything that is wrong at once.
    """
    rows = [(number, row) for number, row in enumerate(read_rows(path), 1) if any(cell.strip() for cell in row)]
    if not rows:
        raise ValueError(f"expected a row for each image in {path}, got none")
    columns, headed = _columns(path, rows[0][1])
    found: dict[str, OwnImage] = {}
    wrong = []
    for number, row in rows[headed:]:
        try:
            image = _listed(path.parent, [row[column].strip() for column in columns])
            if image.file in found:
                raise ValueError(f"{image.file} a second time")
            found[image.file] = image
        except IndexError:
            wrong.append(f"row {number} (too short)")
        except ValueError as error:
            wrong.append(f"row {number} ({error})")
    if wrong or not found:
        raise ValueError(f"expected path, label and perhaps split in {path}, got {name_some(wrong) or 'no images'}")
    return ListedFiles(path.parent, sorted(found)), list(found.values())


def _columns(path: Path, first: Sequence[str]) -> tuple[list[int], bool]:
    """The columns of path, label and perhaps split, and whether the first row names them."""
    names = [cell.strip().lower() for cell in first]
    at = [next((names.index(name) for name in known if name in names), None) for known in (PATHS, LABELS, SPLITTING)]
    if at[0] is not None and at[1] is not None:
        return [column for column in at if column is not None], True
    if len(names) in (2, 3) and PurePosixPath(names[0]).suffix in SUFFIXES:
        return list(range(len(names))), False
    raise ValueError(
        f"expected columns named path and label, and split if you have your own, in {path}, "
        f"got {', '.join(names)[:200]}"
    )


def _listed(folder: Path, row: list[str]) -> OwnImage:
    name, label, *split = row
    name = name.replace("\\", "/")
    if Path(name).is_absolute() and Path(name).is_relative_to(folder.absolute()):
        name = Path(name).relative_to(folder.absolute()).as_posix()
    parts = PurePosixPath(name).parts
    if Path(name).is_absolute() or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name[:100]}, which is not below the folder of the list")
    if PurePosixPath(name).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{name[:100]!r}, which is no image by its name")
    if not label:
        raise ValueError(f"{name[:100]} without a label")
    if split and split[0].lower() not in SPLIT_NAMES:
        raise ValueError(f"{split[0][:40]!r}, which is no split")
    return OwnImage("/".join(parts), alike(label), SPLIT_NAMES[split[0].lower()] if split else None)


def by_label(images: Sequence[OwnImage]) -> Iterator[tuple[str, list[str]]]:
    """Each class with its files, both in an order that every file system shares."""
    files: dict[str, list[str]] = {}
    for image in sorted(images, key=lambda image: (image.label, alike(image.file))):
        files.setdefault(image.label, []).append(image.file)
    yield from files.items()
