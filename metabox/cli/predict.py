"""`metabox predict`: the classes of images, learned from folders of a few images each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metabox.model import Model


def answers(
    model: str,
    support: str | None,
    images: Sequence[str],
    *,
    views: int = 1,
    unknown: float | None = None,
    device: str | None = None,
    save: str | None = None,
) -> dict[str, Any]:
    """The classes, and for each image its label (None for none of them) and the probability of every class.

    Raises:
        ValueError: if there is no such model, or the support or an image cannot be read.
    """
    from metabox.estimators import FewShotClassifier

    if support is None and (of_parts := _of_parts(model, device)):
        return answers_by_part(of_parts, model, images)
    if support is None:
        if not Path(model).is_file():
            raise ValueError(f"expected --support DIR, a folder with a folder of images for each class, for {model!r}")
        classifier = FewShotClassifier.load(model, device)
    else:
        x, y = labelled(support)
        classifier = FewShotClassifier(model, views=views, device=device).fit(x, y)
    if save is not None:
        classifier.save(save)
    proba = classifier.predict_proba(list(images))
    labels = classifier.labels_of(proba, unknown)
    names = [str(name) for name in classifier.classes_]
    rows = [
        {
            "image": image,
            "label": None if label is None else str(label),
            "probability": round(float(p.max()), 6),
            "probabilities": {name: round(float(part), 6) for name, part in zip(names, p, strict=True)},
        }
        for image, label, p in zip(images, labels, proba, strict=True)
    ]
    return {"model": model, "classes": names, "images": rows}


def _of_parts(name: str, device: str | None) -> Model | None:
    """The model of a name, if its target has parts; what is wrong with a name is said by what reads it next."""
    from metabox.shipped import find_model

    try:
        model = find_model(name, device)
    except ValueError:
        return None
    return model if model.spec.target.parts else None


def answers_by_part(model: Model, name: str, images: Sequence[str]) -> dict[str, Any]:
    """For each image what is predicted of each part, from the image alone.

    Raises:
        ValueError: if an image cannot be read.
    """
    params = model.predict(model.without_examples(), list(images))
    by_part = {part: values.tolist() for part, values in model.parts(params).items()}
    rows = [{"image": image} | {part: by_part[part][i] for part in by_part} for i, image in enumerate(images)]
    kinds = {part.name: part.target.word for part in model.spec.target.parts}
    return {"model": name, "parts": kinds, "images": rows}


def _shown(kind: str, value: list[Any]) -> str:
    """One prediction in a table: the likeliest class, the numbers, or the size of a map, which JSON has whole."""
    if isinstance(value[0], list):
        return f"{len(value[0])}x{len(value[0][0])} pixels"
    if kind == "classes":
        best = max(range(len(value)), key=value.__getitem__)
        return f"{best} ({value[best]:.3f})"
    return " ".join(f"{number:.4g}" for number in value)


def labelled(folder: str) -> tuple[list[Path], list[str]]:
    """The images in the class folders of a folder, and their classes.

    Raises:
        ValueError: if there are none, or other files lie around, naming them.
    """
    from metabox.data.own import in_folders
    from metabox.data.root import FolderFiles, in_home

    path = in_home(folder)
    if not path.is_dir():
        raise ValueError(f"expected a folder with a folder of images for each class, got {folder!r}")
    images = sorted(in_folders(FolderFiles(path), lambda _: False))
    return [path / image.file for image in images], [image.label for image in images]


def as_table(found: dict[str, Any]) -> str:
    """Image, label and probability, one line each; or image and a column for each part."""
    if "parts" in found:
        kinds = found["parts"]
        lines = [("image", *kinds)]
        lines += [(row["image"], *(_shown(kinds[part], row[part]) for part in kinds)) for row in found["images"]]
    else:
        lines = [("image", "label", "probability")]
        lines += [(row["image"], row["label"] or "(unknown)", f"{row['probability']:.3f}") for row in found["images"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{a:{n}}" for a, n in zip(line, widths, strict=True)).rstrip() for line in lines)
