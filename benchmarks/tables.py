"""Real tables, learned in context by a transformer that was trained on made-up ones only.

    python benchmarks/tables.py                               train tabular-small for up to 150 minutes, then measure
    python benchmarks/tables.py --minutes 0                   measure the best weights so far
    python benchmarks/tables.py --recipe tabular-small-reals  the same for real targets

Minutes are of this process's processor, over all of its threads, so that they count the same on a shared machine. The
same command goes on where the last one stopped, killed or not, until the recipe's steps are done. At 10, 20, 60 and 120
minutes of training, over all stretches together, and at the end of each stretch, the weights that were best in
validation on made-up tables are measured on real ones. Once the steps are done, the weights are those that ship, in
half precision, and the model of the package is written.

These are the tables that come with scikit-learn; choices of architecture and prior may be made by them. Each is cut
into five folds (stratified for classes); of a table with more than 1,000 rows the first 1,000 of a random order are
taken, and one with more columns than the model was trained for is left out. Beside the model stand logistic or ridge
regression, a random forest, gradient boosting and nearest neighbours, with scikit-learn's defaults; linear models and
neighbours see standardised columns. The area under the curve is that of one class against the rest, averaged;
probabilities are clipped to 1e-6. Times are of this process's processor, for fitting and predicting a fold. Writes
results/RECIPE.json beside this file.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import model_card
import numpy as np
import torch
from manifest import RESULTS
from numpy.typing import NDArray
from readings import log_of
from shipping import MODELS, about, halved, save
from sklearn import datasets
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metabox import TabularClassifier, TabularRegressor
from metabox.cli.main import main as metabox
from metabox.files import read_json, write_json
from metabox.model import Model
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "tabular-small.json", "tier": "full", "minutes": 150, "threads": 1, "arguments": "--minutes 400"},
    {
        "writes": "tabular-small-reals.json",
        "tier": "full",
        "minutes": 150,
        "threads": 1,
        "arguments": "--recipe tabular-small-reals --minutes 400",
    },
]

MARKS = (10, 20, 60, 120)
EVERY = 2.0
"""Seconds between two looks at the processor's time."""
MOST_ROWS, FOLDS = 1000, 5
CLASSES = {
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
}
REALS = {"diabetes": datasets.load_diabetes}
Array = NDArray[Any]
Make = Callable[[], Any]


def scaled(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


OF_CLASSES: dict[str, Make] = {
    "logistic regression": lambda: scaled(LogisticRegression(max_iter=1000)),
    "random forest": lambda: RandomForestClassifier(random_state=0),
    "gradient boosting": lambda: HistGradientBoostingClassifier(random_state=0),
    "nearest neighbours": lambda: scaled(KNeighborsClassifier()),
}
OF_REALS: dict[str, Make] = {
    "ridge regression": lambda: scaled(Ridge()),
    "random forest": lambda: RandomForestRegressor(random_state=0),
    "gradient boosting": lambda: HistGradientBoostingRegressor(random_state=0),
    "nearest neighbours": lambda: scaled(KNeighborsRegressor()),
}


def table(load: Callable[..., Any]) -> tuple[Array, Array]:
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:MOST_ROWS]
    return x[order], y[order]


def of_classes(estimator: Any, x: Array, y: Array, asked: Array, answers: Array) -> dict[str, float]:
    proba = estimator.fit(x, y).predict_proba(asked)
    clipped = np.clip(proba, 1e-6, 1)
    clipped /= clipped.sum(1, keepdims=True)
    score = proba[:, 1] if proba.shape[1] == 2 else proba / proba.sum(1, keepdims=True)
    return {
        "auc": float(roc_auc_score(answers, score, multi_class="ovr")),
        "accuracy": float((estimator.classes_[proba.argmax(1)] == answers).mean()),
        "log_loss": float(log_loss(answers, clipped, labels=estimator.classes_)),
    }


def of_reals(estimator: Any, x: Array, y: Array, asked: Array, answers: Array) -> dict[str, float]:
    predicted = estimator.fit(x, y).predict(asked)
    return {"r2": float(1 - ((predicted - answers) ** 2).mean() / answers.var())}


def measured(make: dict[str, Make], tables: dict[str, Any], reals: bool) -> list[dict[str, Any]]:
    """A row for each table and estimator: means over the folds."""
    rows = []
    for name, load in tables.items():
        x, y = table(load)
        folds = (KFold if reals else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
        for who, estimator in make.items():
            scores, begun = [], time.process_time()
            for train, test in folds.split(x, y):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a solver that has not converged
                    fold = (x[train], y[train], x[test], y[test])
                    scores.append((of_reals if reals else of_classes)(estimator(), *fold))
            seconds = (time.process_time() - begun) / FOLDS
            means = {key: round(mean(score[key] for score in scores), 5) for key in scores[0]}
            rows.append({"table": name, "rows": len(x), "columns": x.shape[1], "estimator": who, **means})
            rows[-1]["seconds"] = round(seconds, 3)
    return rows


def trained(recipe: str, seed: int, out: Path, minutes: float, more: list[str]) -> bool:
    """Go on training for some minutes of the processor; whether the recipe's steps are done."""
    before, begun, over = minutes_of(out), time.process_time(), threading.Event()

    def spent() -> float:
        return (time.process_time() - begun) / 60

    def watch() -> None:
        while not over.wait(EVERY):
            write_json(clock(out), {"minutes": before + spent()})
            if spent() >= minutes:
                os.kill(os.getpid(), signal.SIGINT)
                return

    clock(out).parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    code = metabox(["train", recipe, "--seed", str(seed), "--out", str(out), *more])
    over.set()
    thread.join()
    write_json(clock(out), {"minutes": before + spent(), "finished": code == 0})
    if code not in (0, 130):
        raise SystemExit(code)
    return code == 0


def clock(out: Path) -> Path:
    """The file that holds the minutes of training so far."""
    return out.with_name(f"{out.name}-minutes.json")


def minutes_of(out: Path) -> float:
    """Minutes of training so far."""
    return float(read_json(clock(out))["minutes"]) if clock(out).is_file() else 0.0


def finished(out: Path) -> bool:
    """Whether the recipe's steps are done."""
    return clock(out).is_file() and bool(read_json(clock(out)).get("finished"))


def validated(out: Path) -> list[list[float]]:
    """Step, minutes by the clock and negative log likelihood on made-up tables of validation."""
    lines = (line for line in log_of(out) if "val" in line)
    return [[line["step"], round(line["seconds"] / 60, 1), round(line["val"]["nll"], 4)] for line in lines]


def means(rows: list[dict[str, Any]], metrics: tuple[str, ...]) -> dict[str, list[float]]:
    """The mean of each metric over the tables, by estimator."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["estimator"], []).append(row)
    return {name: [round(mean(r[m] for r in of), 4) for m in metrics] for name, of in by_name.items()}


def card(result: dict[str, Any], reals: bool) -> str:
    """The card, from the result alone."""
    run, last = result["run"], result["curve"][-1]
    metrics = ("r2",) if reals else ("auc", "accuracy", "log_loss")
    shared = {row["table"] for row in last["rows"]}
    others = [row for row in result["baselines"] if row["table"] in shared]
    rows = [(name, *values) for name, values in means(last["rows"] + others, metrics).items()]
    steps = [
        (row["minutes"], row["steps"], *value)
        for row in result["curve"]
        for value in means(row["rows"], metrics).values()
    ]
    kind = "Numbers" if reals else "Classes, at most 10,"
    return "\n\n".join(
        [
            f"{kind} of rows of a table with at most 64 columns, from rows with labels: a transformer of "
            f"{result['parameters']:,} parameters. Trained on made-up tables of at most 1,024 rows only: recipe "
            f"{run['recipe']!r}, seed {run['seed']}, {run['steps']} steps, {last['minutes']:.0f} minutes of one core, "
            f"commit {run['trained_on']['git_commit']}.",
            f"Means over scikit-learn's tables {', '.join(sorted(shared))}, in five folds, by `{result['command']}`; "
            "the others with scikit-learn's defaults:",
            model_card.table(("learner", *metrics), rows),
            "The same during training, from the weights that were best in validation:",
            model_card.table(("minutes", "steps", *metrics), steps),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tabular-small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--minutes", type=float, default=150, help="of training in this stretch, at most")
    parser.add_argument("--threads", type=int, default=1)
    args, more = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    out, path = args.runs / f"{args.recipe}-seed{args.seed}", args.results / f"{args.recipe}.json"
    reals = args.recipe.endswith("reals")
    tables, others = (REALS, OF_REALS) if reals else (CLASSES, OF_CLASSES)
    kept: dict[str, Any] = read_json(path) if path.is_file() else {}
    curve = kept.get("curve", [])
    end, done = minutes_of(out) + args.minutes, args.minutes <= 0
    while True:
        if not done:
            now = minutes_of(out)
            done = trained(args.recipe, args.seed, out, min([end, *(m for m in MARKS if m > now + 0.5)]) - now, more)
            done = done or minutes_of(out) > end - 0.5
        if not (out / "best.safetensors").is_file() and not done:  # stopped before the first validation
            continue
        model = Model.from_run(out, name=args.recipe)
        if finished(out):
            halved(model.learner)
        fit = {name: load for name, load in tables.items() if table(load)[0].shape[1] <= model.spec.x_shape[0]}
        ours = (TabularRegressor if reals else TabularClassifier)(model)
        rows = measured({args.recipe: lambda ours=ours: ours}, fit, reals)  # type: ignore[misc]
        curve = [row for row in curve if row["minutes"] < minutes_of(out) - 0.5]
        curve.append({"minutes": round(minutes_of(out), 1), "steps": log_of(out)[-1]["step"], "rows": rows})
        if "baselines" not in kept:
            kept["baselines"] = measured(others, tables, reals)
        result = {
            "command": f"python benchmarks/tables.py --recipe {args.recipe} --minutes {args.minutes:g}",
            "environment": collect_environment(),
            "run": about(out, args.recipe, args.seed) | {"options": more},
            "parameters": sum(p.numel() for p in model.learner.parameters()),
            "validation": validated(out),
            "baselines": kept["baselines"],
            "curve": curve,
        }
        write_json(path, result)
        for row in rows:
            print(f"{curve[-1]['minutes']} min: {row}", flush=True)
        if finished(out):
            save(args.recipe, model, card(result, reals), MODELS if args.results == RESULTS else args.results)
        if done:
            return


if __name__ == "__main__":
    main()
