"""Measurements for a report from a run's weights and its tasks, which no file of the run holds."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace
from PIL import Image
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.evaluation import Scores, evaluate
from metabox.objectives import StreamLoss
from metabox.recipe import Rebuilt, find_run, make_parser, parse, rebuild
from metabox.reports.collect import Run
from metabox.targets import Classes
from metabox.targets.base import task_mean
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place

SHOTS = (1, 2, 3, 5, 10)
WAYS = (2, 5, 10, 20)
BATCH = 50
BINS = 15
LISTED = 15  # classes with the most errors
WORST, SHOWN = 3, 12  # tasks that are shown, and images of their support and of their queries
ROOM = 20  # characters of a name below a picture
FEW_QUERIES = 5  # per class, so that its images suffice for more shots
COUNTABLE = 5_000_000  # images; a larger set counts as endless


class Predicted(NamedTuple):
    """The K predictions of a list of tasks, each with the number of its task; every field is `[K]`."""

    task: Tensor
    confidence: Tensor
    correct: Tensor
    origin: Tensor


def measure(run: Run, n_tasks: int) -> dict[str, Any]:
    """All measurements that apply to the run's kind of task, on the first `n_tasks` tasks of its test list.

    Raises:
        ValueError: if the weights are damaged or the data are missing.
    """
    parser = make_parser(find_run(run.folder))
    config = parse(parser, [])
    rebuilt = rebuild(parser, config, run.folder)
    found: dict[str, Any] = {"tasks": n_tasks, "phi": phi_map(rebuilt, n_tasks)}
    if rebuilt.tasks.spec.target.n_classes is None:
        return found
    predicted = predict(rebuilt, n_tasks)
    found |= {"reliability": reliability(predicted), "instances": instances(rebuilt, n_tasks)}
    if isinstance(rebuilt.tasks, NWayKShot):
        found |= {
            "shots": _along("n_shot", SHOTS, parser, config, rebuilt, n_tasks),
            "ways": _along("n_way", WAYS, parser, config, rebuilt, n_tasks),
            "errors": errors(rebuilt.tasks, predicted),
            "worst": worst(rebuilt, predicted),
        }
    return found


def _along(
    name: str, values: tuple[int, ...], parser: ArgumentParser, config: Namespace, rebuilt: Rebuilt, n_tasks: int
) -> dict[str, Any]:
    """Accuracy of tasks with other ways or shots, as far as the images and the learner allow them."""
    asked = config.evaluation or config.tasks
    own = _ends(asked.init_args[name])
    trained = config.tasks.get(f"init_args.{name}")  # tasks of another kind may have none
    trained = None if trained is None else _ends(trained)
    points = []
    for value in sorted({*values, *own, *(trained or ())}):
        changed = config.clone()
        changed.evaluation = asked.clone()
        changed.evaluation.init_args[name] = value
        changed.evaluation.init_args.n_query = min(FEW_QUERIES, _ends(asked.init_args.n_query)[1])
        try:
            tasks = parser.instantiate(changed).evaluation
            scores = evaluate(rebuilt.learner, tasks, n_tasks=n_tasks, objective=rebuilt.objective)
        except ValueError:  # too few images of a class, more classes than the learner has outputs, a longer sequence
            continue
        points.append({name: value, **_percent(scores, "accuracy")})
    return {"trained": trained, "points": points}


def _ends(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _percent(scores: Scores, metric: str) -> dict[str, float | None]:
    interval = scores.summary()[metric]["interval_95"]
    return {"percent": 100 * scores.mean(metric), "interval_95": None if interval is None else 100 * interval}


def instances(rebuilt: Rebuilt, n_tasks: int) -> list[dict[str, Any]]:
    """Accuracy at the first, second, ... instance of a class, for learners that read a sequence."""
    if not rebuilt.learner.ordered:
        return []
    scores = evaluate(rebuilt.learner, rebuilt.tasks, n_tasks=n_tasks, objective=StreamLoss)
    names = [name for name in scores.per_task if name.startswith("accuracy_instance_")]
    return [{"k": int(name.rpartition("_")[2]), **_percent(scores, name)} for name in names]


@torch.no_grad()
def predict(rebuilt: Rebuilt, n_tasks: int) -> Predicted:
    """The predictions for the first test tasks, without padding."""
    parts = []
    for first, episodes, log_probs, examples in _episodes(rebuilt, n_tasks):
        top = log_probs.max(-1)
        origin = torch.full_like(examples.y, -1)
        if episodes.origin is not None:
            origin = episodes.origin[:, -examples.y.shape[1] :]  # the queries come last
        task = torch.arange(first, first + len(episodes))[:, None].expand_as(examples.y)
        kept = (task, top.values.exp(), (top.indices == examples.y).float(), origin)
        parts.append([part[examples.mask] for part in kept])
    return Predicted(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _episodes(rebuilt: Rebuilt, n_tasks: int, first: int = 0) -> Iterator[tuple[int, Episodes, Tensor, Examples]]:
    """Batches of test tasks with log p of every class `[T, M, C]` and the examples that are predicted."""
    target = rebuilt.learner.spec.target
    assert isinstance(target, Classes)
    predictor = rebuilt.objective(rebuilt.learner).eval()
    for start in range(first, first + n_tasks, BATCH):
        n = min(BATCH, first + n_tasks - start)
        episodes = rebuilt.tasks.sample(Place(n, "test", first=start)).blanked()
        params, examples = predictor.predictions(episodes)
        yield start, episodes, target.log_probs(params), examples


def reliability(predicted: Predicted) -> list[dict[str, float]]:
    """The share of correct predictions in bins of confidence, which the calibration error summarises."""
    place = (predicted.confidence * BINS).long().clamp(max=BINS - 1)
    found = []
    for i in range(BINS):
        here = place == i
        if bool(here.any()):
            confidence, correct = (float(part[here].mean()) for part in (predicted.confidence, predicted.correct))
            found.append({"predictions": int(here.sum()), "confidence": confidence, "correct": correct})
    return found


def errors(tasks: NWayKShot, predicted: Predicted) -> dict[str, list[dict[str, Any]]]:
    """Errors by class, most first, and by the folder of a class (such as an alphabet); none for endless sets."""
    names = class_names(tasks, predicted.origin)
    if names is None:
        return {"classes": [], "groups": []}
    wrong = (predicted.correct == 0).tolist()
    by_class = _count(names, wrong)
    groups = [name.split("/")[-2] for name in names] if all("/" in name for name in by_class) else []
    return {"classes": _most(by_class)[:LISTED], "groups": _most(_count(groups, wrong)) if groups else []}


def class_names(tasks: NWayKShot, origin: Tensor) -> list[str] | None:
    """The classes of test images by their ids `[K]`, or None for an endless set."""
    images = tasks.images
    classes = np.asarray(images.splits["test"])
    sizes = images.sizes[classes]
    if int(sizes.sum()) > COUNTABLE:
        return None
    item = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    of_item = np.repeat(classes, sizes)
    ids = images.ids(of_item, item)
    order = np.argsort(ids)
    return [images.class_name(int(c)) for c in of_item[order][np.searchsorted(ids[order], origin.numpy())]]


def _count(names: list[str], wrong: list[bool]) -> dict[str, tuple[int, int]]:
    """For each name, how many there are and how many of them are wrong."""
    total, bad = Counter(names), Counter(name for name, is_wrong in zip(names, wrong, strict=True) if is_wrong)
    return {name: (total[name], bad[name]) for name in sorted(total)}


def _most(counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    rows = [{"name": name, "queries": n, "wrong": bad, "percent": 100 * bad / n} for name, (n, bad) in counts.items()]
    return sorted(rows, key=lambda row: (-row["percent"], -row["wrong"], row["name"]))


@torch.no_grad()
def worst(rebuilt: Rebuilt, predicted: Predicted) -> list[dict[str, Any]]:
    """The tasks with the lowest accuracy: images of their support, and of their queries, worst predictions first."""
    n_tasks = int(predicted.task.max()) + 1
    n = torch.bincount(predicted.task, minlength=n_tasks)
    accuracy = torch.bincount(predicted.task, predicted.correct, minlength=n_tasks) / n
    if len(rebuilt.tasks.spec.x_shape) != 3:
        return []
    found = []
    for task in accuracy.argsort(stable=True)[:WORST].tolist():
        ((_, episodes, log_probs, examples),) = _episodes(rebuilt, 1, first=task)
        truth = log_probs.gather(-1, examples.y[..., None])[0, :, 0].masked_fill(~examples.mask[0], 0)
        top = log_probs[0].max(-1)
        names = _names_of_labels(rebuilt, episodes)
        predictions = [
            {
                "image": picture(examples.x[0, i]),
                "label": names[int(examples.y[0, i])],
                "predicted": names[int(top.indices[i])],
                "percent": 100 * float(top.values[i].exp()),
            }
            for i in truth.argsort(stable=True)[: min(SHOWN, int(examples.mask.sum()))].tolist()
        ]
        x, y = (part[0][episodes.support.mask[0]] for part in (episodes.support.x, episodes.support.y))
        support = [{"image": picture(x[i]), "label": names[int(y[i])]} for i in _first_of_each(y)]
        found.append(
            {"task": task, "percent": 100 * float(accuracy[task]), "support": support, "predictions": predictions}
        )
    return found


def _names_of_labels(rebuilt: Rebuilt, episodes: Episodes) -> list[str]:
    """What the labels of one task stand for: the name of the class, or the label if there is none or it is too long."""
    names = [f"class {i}" for i in range(rebuilt.learner.spec.target.size)]
    parts = (episodes.support, episodes.query)
    mask, y = torch.cat([part.mask[0] for part in parts]), torch.cat([part.y[0] for part in parts])
    if isinstance(rebuilt.tasks, NWayKShot) and episodes.origin is not None:
        found = class_names(rebuilt.tasks, episodes.origin[0][mask]) or []
        for label, name in zip(y[mask].tolist(), found, strict=bool(found)):
            names[label] = name if len(name) <= ROOM else names[label]
    return names


def _first_of_each(y: Tensor) -> list[int]:
    """Indices of up to SHOWN examples, sorted by class: the first instances of every class."""
    instance = (y[:, None] == y).tril().sum(-1)
    first = instance.argsort(stable=True)[:SHOWN]
    return first[y[first].argsort(stable=True)].tolist()


def picture(x: Tensor) -> str:
    """An image `[channels, height, width]`, uint8 or floats of any range, as a PNG in a data URI."""
    if x.dtype != torch.uint8:
        low, high = x.min(), x.max()
        x = ((x - low) / (high - low).clamp(min=1e-12) * 255).to(torch.uint8)
    pixels = x.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@torch.no_grad()
def phi_map(rebuilt: Rebuilt, n_tasks: int) -> dict[str, Any] | None:
    """The task parameters of one batch of tasks on their first two principal components, beside each task's score."""
    learner, n = rebuilt.learner, min(n_tasks, 4 * BATCH)
    if n < 3:
        return None
    episodes = rebuilt.tasks.sample(Place(n, "test")).blanked()
    phi = learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(learner.spec))
    target = learner.spec.target
    params = learner.predict(phi, episodes.query.x)
    values = target.scores(params, episodes.query.y)
    metric = "accuracy" if "accuracy" in values else "nll" if target.has_density else "loss"
    if metric == "nll":
        values["nll"] = -target.log_prob(params, episodes.query.y)
    elif metric == "loss":
        values["loss"] = target.loss(params, episodes.query.y)
    score = task_mean(values[metric], episodes.query.mask)
    flat = torch.cat([leaf.flatten(1).double() for leaf in phi.values() if leaf.is_floating_point()], dim=1)
    flat = flat - flat.mean(0)
    # The eigenvectors of T x T inner products are the principal components, however wide phi is.
    share, axes = torch.linalg.eigh(flat @ flat.T)
    share = share.clamp(min=0)
    places = axes[:, -2:].flip(-1) * share[-2:].flip(-1).sqrt()
    return {
        "metric": metric,
        "width": flat.shape[1],
        "share": (share[-2:].flip(-1) / share.sum().clamp(min=1e-30)).tolist(),
        "places": places.tolist(),
        "score": score.tolist(),
    }
