"""New classes of photographs from a few examples each: a learned metric over features trained on ImageNet by others.

    python benchmarks/photos.py --data-root DIR               train (or resume), choose, evaluate, write the model
    python benchmarks/photos.py --data-root DIR --validate    scores on meta-validation classes only

CIFAR-FS, from DIR. Every image passes the frozen backbone once, at 224 pixels, on which it was trained (60,000 passes,
half an hour of one core; kept in the cache), without augmentation; what is trained is a centre and a linear correction
of its features (`Projection`), on the 64 meta-training classes. The powers and dropouts in TRIED are compared on the 16
meta-validation classes, which also tell the temperature; the best is scored once on the 20 meta-test classes, beside
the class mean, on the same tasks. The exam is what a user does: JPEG files of meta-test images in class folders, named
to `FewShotClassifier`. `neighbours` is for comparison with others' readings: files of a class lie in the order of their
names, which begin with the words that they were found by, so that the first ones are more alike than all are.
Writes results/photos.json beside this file and metabox/models/photos.metabox.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import model_card
import numpy as np
import torch
from PIL import Image
from shipping import halved, ship
from torch import Tensor

from metabox.calibration import calibrated
from metabox.data.preprocessing import Preprocessing
from metabox.data.root import name_data_root
from metabox.episodes import SPLITS, Examples
from metabox.estimators import FewShotClassifier
from metabox.evaluation import Scores, evaluate, interval_of
from metabox.learners import ProtoNet
from metabox.learners.base import Learner
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.nn.efficientnet import EfficientNetLite0
from metabox.nn.projection import Projection
from metabox.seeding import Draws
from metabox.targets import Classes, TaskSpec
from metabox.tasks import CIFARFS
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place
from metabox.tasks.wrappers.features import Features
from metabox.training.environment import collect_environment
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

JOBS = [
    {"writes": "photos.json", "tier": "full", "minutes": 30, "data": True, "threads": 1},
]

OUTSIDE = "ImageNet"
SIDE = 224
"""Pixels at which the backbone sees images."""
TRIED = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.9))
"""Powers of the features and dropouts of the projection."""
RANK = 128
TRAINING: dict[str, Any] = {"n_way": 32, "n_shot": (1, 8), "n_query": 6}
OUTER = OuterLoop(
    steps=800, n_tasks=1, lr=1e-3, weight_decay=0.0, warmup=40, validate_every=200, n_validation=100, precision="32"
)
KINDS = ((5, 1), (5, 5), (20, 1), (20, 5))
QUALITY = 95  # of the exam's JPEG files


backbone = partial(EfficientNetLite0, size=SIDE)


def features(n_way: int, n_shot: int, n_query: int = 15) -> Features:
    return Features(CIFARFS(n_way=n_way, n_shot=n_shot, n_query=n_query), backbone)


def head(spec: TaskSpec, power: float, dropout: float, under: Any = Flatten) -> ProtoNet:
    """Over features, or with their backbone over images."""
    return ProtoNet(spec, backbone=partial(Projection, backbone=under, rank=RANK, power=power, dropout=dropout))


def trained(out: Path, power: float, dropout: float, seed: int) -> Learner:
    """Train, or go on with a stopped run; a finished one is not repeated."""
    tasks = Features(CIFARFS(**TRAINING), backbone)
    make = partial(head, power=power, dropout=dropout)
    return run(tasks, make, OUTER, evaluation=features(5, 5), scale="none", seed=seed, out=out)


def class_mean() -> ProtoNet:
    """Nothing is learned: the cosine with the mean of a class's features."""
    return ProtoNet(TaskSpec((1280,), Classes(TRAINING["n_way"])), backbone=Flatten, distance="cosine")


def line(name: str, task: str, scores: Scores) -> dict[str, Any]:
    return {
        "learner": name,
        "task": task,
        "split": scores.split,
        "outside_data": OUTSIDE,
        "accuracy_percent": round(100 * scores.mean("accuracy"), 2),
        "interval_95_percent": round(100 * scores.interval("accuracy"), 2),
        "tasks": scores.n_tasks,
    }


def side_by_side(learners: dict[str, Learner], split: Any, kinds: Any, n_tasks: int) -> list[dict[str, Any]]:
    """All learners on the same tasks, with the gain over the first, task by task."""
    rows = []
    for n_way, n_shot in kinds:
        tasks, first = features(n_way, n_shot), None
        for name, learner in learners.items():
            scores = evaluate(learner, tasks, split=split, n_tasks=n_tasks, batch=20)
            row = line(name, f"CIFAR-FS {n_way}w{n_shot}s", scores)
            if first is None:
                first = scores
            else:
                gains = [float(a - b) for a, b in zip(*(s.per_task["accuracy"] for s in (scores, first)), strict=True)]
                row |= {
                    "gain_percent": round(100 * mean(gains), 2),
                    "gain_interval_95_percent": round(100 * interval_of(gains), 2),
                }
            rows.append(row)
            print(row, flush=True)
    return rows


FIRST = 60  # of the 600 images of a class


@torch.no_grad()
def neighbours(name: str, learner: Learner, n_way: int = 5, n_shot: int = 5, n_tasks: int = 600) -> dict[str, Any]:
    """The accuracy among the first images of each meta-test class, in the order of their files' names."""
    tasks, draws = features(n_way, n_shot), Draws("neighbours", n_tasks=n_tasks)
    first = tasks.of_split("test").unflatten(0, (-1, 600))[:, :FIRST]
    classes = draws.distinct("classes", n_way, np.full(n_tasks, len(first)), len(first), len(first))
    images = draws.distinct("images", n_shot + 15, np.full((n_tasks, n_way), FIRST), FIRST, FIRST)
    x = first[torch.from_numpy(classes)[..., None], torch.from_numpy(images)].float()  # [T, C, N, D]
    y = torch.arange(n_way)[:, None].expand(n_tasks, n_way, n_shot + 15)
    (sx, qx), (sy, qy) = ([part.flatten(1, 2) for part in whole.split([n_shot, 15], 2)] for whole in (x, y))
    learner.eval()
    support = Examples(x=sx, y=sy)
    right = (learner.predict(learner.adapt(support), qx)[..., :n_way].argmax(-1) == qy).float().mean(1)
    row = {
        "learner": name,
        "task": f"CIFAR-FS {n_way}w{n_shot}s, the first {FIRST} files of each class",
        "split": "test",
        "outside_data": OUTSIDE,
        "accuracy_percent": round(100 * right.mean().item(), 2),
        "interval_95_percent": round(100 * interval_of(right.tolist()), 2),
        "tasks": n_tasks,
    }
    print(row, flush=True)
    return row


def named_as(power: float, dropout: float) -> str:
    return f"power {power}, dropout {dropout}"


def chosen(runs: Path, seed: int) -> tuple[Learner, tuple[float, float], list[dict[str, Any]]]:
    """The best of those tried by its mean accuracy on meta-validation classes, 5w1s and 5w5s."""
    made = {tried: trained(runs / f"photos-{tried[0]}-{tried[1]}-seed{seed}", *tried, seed) for tried in TRIED}
    named = {"class mean": class_mean()} | {named_as(*tried): made[tried] for tried in TRIED}
    rows = side_by_side(named, "val", KINDS[:2], 300)
    score = {t: mean(r["accuracy_percent"] for r in rows if r["learner"] == named_as(*t)) for t in TRIED}
    best = max(score, key=lambda tried: score[tried])
    return made[best], best, rows


def composed(learner: Learner, tried: tuple[float, float], temperature: float) -> Model:
    """One model of images: the backbone of the package, and the trained head over it."""
    whole = head(TaskSpec((3, SIDE, SIDE), learner.spec.target), *tried, under=backbone)
    missing = whole.load_state_dict(learner.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("embed.backbone.backbone.") for name in missing.missing_keys)
    look = Preprocessing(3, SIDE, "bicubic", fit="crop")
    names = {split: CIFARFS().images.class_names(split) for split in SPLITS}
    return Model(whole, look, names, temperature=temperature)


def in_use(model: Model) -> dict[str, Any]:
    """What the card says of calibration and of images of no class."""
    (use,) = model_card.by_views(model, features(5, 5), 600, views=(1,))  # type: ignore[arg-type]
    return {
        "temperature": round(model.temperature, 4),
        "calibration_error": {"5w5s": use["calibration_error"]},
        "unknown": model_card.knows_unknown(model, features(10, 5), 300),  # type: ignore[arg-type]
    }


def write_folder(folder: Path, x: Tensor, y: Tensor) -> list[Path]:
    """Images `[N, 3, height, width]` as JPEG files in a folder of each class."""
    paths = []
    for i, (pixels, label) in enumerate(zip(x, y.tolist(), strict=True)):
        path = folder / f"class{label}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=QUALITY, subsampling=0)
        paths.append(path)
    return paths


def exam(model: Path, n_way: int, n_shot: int = 5, n_query: int = 7, n_tasks: int = 120) -> dict[str, Any]:
    """New classes as folders of JPEG files, through the estimator."""
    tasks: NWayKShot = CIFARFS(n_way=n_way, n_shot=n_shot, n_query=n_query)
    right, seconds = [], []
    for first in range(n_tasks):
        episodes = tasks.sample(Place(1, "test", first=first, seed=1), "cpu")
        with tempfile.TemporaryDirectory() as folder:
            shown = write_folder(Path(folder) / "support", episodes.support.x[0], episodes.support.y[0])
            asked = write_folder(Path(folder) / "query", episodes.query.x[0], episodes.query.y[0])
            begun = time.perf_counter()
            classifier = FewShotClassifier(str(model)).fit(shown, [path.parent.name for path in shown])
            guess = classifier.predict(asked)
            seconds.append(time.perf_counter() - begun)
        right.append(mean(float(got == path.parent.name) for got, path in zip(guess, asked, strict=True)))
    return {
        "learner": "photos",
        "task": f"exam {n_way}w{n_shot}s, JPEG files of CIFAR-FS meta-test images (32x32, quality {QUALITY})",
        "split": "test",
        "outside_data": OUTSIDE,
        "accuracy_percent": round(100 * mean(right), 2),
        "interval_95_percent": round(100 * interval_of(right), 2),
        "tasks": n_tasks,
        "queries": n_query * n_way,
        "seconds_from_files_to_predictions": {"first": round(seconds[0], 2), "median": round(median(seconds), 2)},
    }


def from_nothing(model: Path, n_way: int = 5, n_shot: int = 5) -> dict[str, Any]:
    """Seconds of one command, the start of Python included, to predict one image of each class."""
    episodes = CIFARFS(n_way=n_way, n_shot=n_shot, n_query=1).sample(Place(1, "test", seed=1), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "support", episodes.support.x[0], episodes.support.y[0])
        asked = write_folder(Path(folder) / "query", episodes.query.x[0], episodes.query.y[0])
        words = ["predict", str(model), "--support", str(Path(folder) / "support"), *map(str, asked)]
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "metabox", *words], check=True, capture_output=True)
        return {
            "command": f"metabox predict photos --support DIR IMAGES, {n_way}w{n_shot}s, {len(asked)} images",
            "seconds": round(time.perf_counter() - begun, 2),
        }


def card(result: dict[str, Any]) -> str:
    """The card, from the results alone."""
    use, run_of = result["in_use"], result["run"]
    rows = [
        (r["learner"], r["task"], r["accuracy_percent"], r["interval_95_percent"], r["tasks"], r["outside_data"])
        for r in (*result["rows"], *result["exam"])
    ]
    error = ", ".join(f"{value} ({kind})" for kind, value in use["calibration_error"].items())
    return "\n\n".join(
        [
            "Photographs, from a few examples of each class, any number of classes: nearest class mean (ProtoNet) with "
            f"a learned correction of rank {run_of['rank']} over features of EfficientNet-Lite0. The backbone was "
            "trained on ImageNet by others (Apache 2.0), is not changed, and comes with the package; this file holds "
            "the correction alone (MIT). It was trained on the 64 meta-training classes of CIFAR-FS, "
            f"{run_of['steps']} tasks, seed {run_of['seed']}, commit {result['environment']['git_commit']}.",
            f"Images are cropped to a square and brought to {run_of['pixels']} pixels a side. All numbers are of "
            "photographs of 32x32 pixels, enlarged; sharp ones were not measured.",
            f"Measured by `{result['command']}` on the same tasks for both learners, outside data: {OUTSIDE}. The "
            f"power {run_of['power']} and the dropout {run_of['dropout']} were chosen, and the temperature, "
            f"{use['temperature']}, set, on meta-validation classes.",
            model_card.table(("learner", "task", "accuracy %", "± 95 %", "tasks", "outside data"), rows),
            f"Calibration error on meta-test classes: {error}.",
            f"Images of {use['unknown']['unseen_classes']} other classes among those of {use['unknown']['ways']} known "
            f"ones (5 examples each): area under the ROC curve of the largest probability {use['unknown']['auroc']}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="only scores on meta-validation classes")
    args = parser.parse_args()
    name_data_root(args.data_root)
    learner, best, validation = chosen(args.runs, args.seed)
    if args.validate:
        return
    halved(learner)
    small = calibrated(Model(learner), features(5, 5), n_tasks=300)
    model = composed(learner, best, small.temperature)
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/photos.py", *(["--seed", str(args.seed)] if args.seed else [])]),
        "environment": collect_environment(),
        "run": {
            "power": best[0],
            "dropout": best[1],
            "rank": RANK,
            "pixels": SIDE,
            "steps": OUTER.steps,
            "seed": args.seed,
            "tasks": {name: list(value) if isinstance(value, tuple) else value for name, value in TRAINING.items()},
        },
        "validation": validation,
        "rows": side_by_side({"class mean": class_mean(), "photos": learner}, "test", KINDS, 600),
        "neighbours": [neighbours(name, made) for name, made in (("class mean", class_mean()), ("photos", learner))],
        "in_use": in_use(small),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = model.save(Path(folder) / "photos.metabox")
        result["from_nothing"] = from_nothing(path)
        result["exam"] = [exam(path, n_way) for n_way in (3, 5)]
    ship("photos", model, result, card(result))


if __name__ == "__main__":
    main()
