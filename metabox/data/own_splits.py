"""Which of a user's own images are for training, validation and testing."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metabox.data.own import OwnImage, alike, by_label
from metabox.data.pack import ClassFiles
from metabox.data.readers import name_some
from metabox.data.root import Files
from metabox.episodes import SPLITS, Split
from metabox.seeding import share_of

FEW = 3  # classes: so few are not dealt out, but the images of each
LEAST = 2  # of anything in a split, if there are enough: less than two classes, or images of a class, make no task

log = logging.getLogger(__name__)

Fractions = tuple[float, float, float]
USUAL: Fractions = (0.64, 0.16, 0.2)


@dataclass(frozen=True)
class Divided:
    """The classes as they are stored, and the names of those in each split.

    If the images of a class are in several splits, each split has a class of its own, `<split>/<class>`.
    """

    classes: list[ClassFiles]
    splits: Mapping[Split, Sequence[str]]


def divided(
    images: Sequence[OwnImage], files: Files, splits: Fractions | Mapping[Split, Sequence[str]] | None, few: int = FEW
) -> Divided:
    """The images in splits: by fractions, by names of classes, or if None by their own splits, else by `USUAL`.

    Of at most `few` classes, the images are split.

    Raises:
        ValueError: if some names of classes, but not all, are in more than one of the images' own splits.
    """
    labels = dict(by_label(images))
    if isinstance(splits, Mapping):
        return _by_class(labels, files, splits)
    of = {image.file: image.split for image in images}
    if splits is None and any(of.values()):
        inside = {split: {i.label for i in images if i.split == split} for split in SPLITS}
        present = [names for names in inside.values() if names]
        if all(names == present[0] for names in present[1:]) and len(present) > 1:
            log.warning("%s: every split has the same classes, so the images are split, not the classes", files.path)
            return _by_image(
                {(split, c): [f for f in labels[c] if of[f] == split] for c in labels for split in SPLITS}, files
            )
        shared = sorted(c for c in labels if sum(c in names for names in present) > 1)
        if shared:
            raise ValueError(
                f"expected each class in one split or every class in every split of {files.path}, got "
                f"{name_some(shared)} in several; rename, move or remove them"
            )
        return _by_class(labels, files, {split: sorted(names) for split, names in inside.items()})
    fractions = USUAL if splits is None else splits
    if len(labels) <= few and sum(share > 0 for share in fractions) > 1:
        log.warning("%s: with %d classes the images are split, not the classes", files.path, len(labels))
        shares = {c: dealt(found, fractions, exact=True) for c, found in labels.items()}
        return _by_image({(split, c): shares[c][split] for c in labels for split in SPLITS}, files)
    return _by_class(labels, files, dealt(list(labels), fractions))


def _by_class(labels: Mapping[str, list[str]], files: Files, splits: Mapping[Split, Sequence[str]]) -> Divided:
    groups = _groups(labels)
    listed = {split: [alike(name) for name in names] for split, names in splits.items()}
    return Divided([ClassFiles(c, groups[c], files, found) for c, found in labels.items()], listed)


def _by_image(parts: Mapping[tuple[Split, str], list[str]], files: Files) -> Divided:
    groups = _groups({c: None for _, c in parts})
    parts = {part: found for part, found in parts.items() if found}
    classes = [ClassFiles(f"{split}/{c}", groups[c], files, found) for (split, c), found in parts.items()]
    return Divided(classes, {split: [f"{split}/{c}" for of, c in parts if of == split] for split in SPLITS})


def _groups(labels: Mapping[str, object]) -> dict[str, str | None]:
    """The group of each class; none if not all have one."""
    grouped = all("/" in c for c in labels)
    return {c: c.rpartition("/")[0] if grouped else None for c in labels}


def dealt(names: Sequence[str], fractions: Fractions, exact: bool = False) -> dict[Split, list[str]]:
    """Names dealt out to splits by their hashes, the same on every machine.

    The hash of a name alone chooses its split, so that a new name never moves another one; unless `exact`, or a split
    would get fewer than two (one, if there are not enough): then the order of all hashes is cut at the fractions.
    """
    at = {name: share_of(alike(name).encode()) for name in names}
    ends = (fractions[0], fractions[0] + fractions[1], math.inf)
    splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        splits[SPLITS[next(i for i, end in enumerate(ends) if at[name] < end)]].append(name)
    wanted = [split for split, share in zip(SPLITS, fractions, strict=True) if share > 0]
    least = min(LEAST, len(names) // len(wanted))
    if not exact and all(len(splits[split]) >= least for split in wanted):
        return splits
    sizes = {split: least if split in wanted else 0 for split in SPLITS}
    share = dict(zip(SPLITS, fractions, strict=True))
    for _ in range(len(names) - least * len(wanted)):
        sizes[max(wanted, key=lambda split: share[split] * len(names) - sizes[split])] += 1
    order = iter(sorted(names, key=lambda name: (at[name], name)))
    return {split: sorted(next(order) for _ in range(sizes[split])) for split in SPLITS}
