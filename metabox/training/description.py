"""`model.json`: what a model needs beside its weights, so that it can be used without its training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metabox import discover, plugins
from metabox.config import class_path, plain
from metabox.data.preprocessing import Preprocessing
from metabox.episodes import SPLITS, Split
from metabox.files import read_json, write_json
from metabox.targets import Part, Target, TaskSpec
from metabox.tasks.sampler import EpisodeSampler

NAME = "model.json"


@dataclass(frozen=True)
class Description:
    """What a model needs beside its weights.

    Args:
        spec: what its learner was built for.
        preprocessing: how its training images were prepared, if they came from files.
        class_names: the names of the classes of each split that has been sampled, if they have names.
    """

    spec: TaskSpec
    preprocessing: Preprocessing | None
    class_names: Mapping[Split, Sequence[str]]

    @classmethod
    def of(cls, spec: TaskSpec, tasks: EpisodeSampler, evaluation: EpisodeSampler) -> Description:
        """The description of a run, with the classes of the splits that have been sampled so far."""
        return cls(spec, tasks.preprocessing, {**tasks.class_names(), **evaluation.class_names()})


def write_description(run: Path, description: Description) -> None:
    """Write the file atomically, with a hash of its content.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    write_json(run / NAME, as_json(description), hashed=True)


def as_json(description: Description) -> dict[str, Any]:
    """The description as values of JSON."""
    prepared = description.preprocessing and asdict(description.preprocessing)
    names = {split: list(names) for split, names in description.class_names.items()}
    return {"spec": plain(description.spec), "preprocessing": prepared, "class_names": names}


def read_description(run: str | Path) -> Description:
    """Read what `write_description` wrote.

    The file can name only targets of metabox and of plugins; nothing else is imported or called.

    Raises:
        ValueError: if the file is missing, was changed or is not a description.
    """
    path = Path(run) / NAME
    if not path.exists():
        raise ValueError(f"expected {path} of a run, found no such file; restore it, or train anew")
    return from_json(read_json(path, hashed=True), str(path))


def from_json(content: Any, where: str) -> Description:
    """What `as_json` returned; see `read_description`.

    Args:
        content: of an untrusted file.
        where: that is, for messages.

    Raises:
        ValueError: if it is not a description.
    """
    try:
        spec, prepared, names = content["spec"], content["preprocessing"], content["class_names"]
        made = _restored(spec)
        if not isinstance(made, TaskSpec):
            raise TypeError(f"{type(made).__name__} in place of a spec")
        preprocessing = None if prepared is None else Preprocessing(**prepared)
        if not set(names) <= set(SPLITS) or not all(isinstance(name, str) for part in names.values() for name in part):
            raise TypeError("class_names that are not names by split")
    except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"expected spec, preprocessing and class_names in {where}, got something else ({str(error)[:200]}); "
            "restore it, or train anew"
        ) from error
    return Description(made, preprocessing, names)


def _restored(record: Any) -> Any:
    """A value from its `plain` record: a spec, or a part of one."""
    if isinstance(record, list):
        return tuple(_restored(value) for value in record)
    if not isinstance(record, dict):
        return record
    arguments = {name: _restored(value) for name, value in record.items() if name != "class"}
    return _class(record["class"])(**arguments)


def _class(path: object) -> type:
    known: dict[object, type] = {class_path(part): part for part in (TaskSpec, Part)}
    known |= {class_path(one): one for _, one in plugins.classes() if issubclass(one, Target)}
    if isinstance(path, str) and path in known:
        return known[path]
    for found in discover.subclasses("Target"):
        if path == f"{found.module}.{found.name}":
            made: type = found.load()
            return made
    raise ValueError(f"{str(path)[:100]!r}, which is no target of metabox or of a plugin")
