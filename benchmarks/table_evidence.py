"""Learners of tables on the real tables of the list, beside what is usual.

    python benchmarks/table_evidence.py --role choice                        the others alone
    python benchmarks/table_evidence.py --role choice --model tabular-small  and a model, by name, file or run folder
    python benchmarks/table_evidence.py --role report --model tabular-small  to be read once, at the end

Five folds, grouped if the list says so and else stratified by class. Imputation and encoding are learned in a fold:
linear models and neighbours see standardised numbers, indicators of missing ones, and one-hot categories; trees see
numbers and codes. "tuned" chooses by three folds within the training rows. Scores are means over the folds: the area
under the curve of a class against the rest, over the classes; log loss with probabilities clipped to 1e-6; calibration
error over 15 bins; seconds of this process's processor for fitting and predicting a fold. With "30 % missing" so many
cells are missing at random, in training and test rows. Writes results/tables-ROLE.json beside this file, after each
table; the same command goes on.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from manifest import RESULTS
from numpy.typing import NDArray
from real_tables import ARCHIVES, Entry, Table, entries, load
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from metabox import TabularClassifier, TabularRegressor
from metabox.files import read_json, write_json
from metabox.training.environment import collect_environment

JOBS: list[dict[str, Any]] = [
    {
        "writes": f"tables-{role}.json",
        "tier": "full",
        "minutes": 200,
        "threads": 1,
        "arguments": f"--role {role} --model tabular-small --reals tabular-small-reals",
    }
    for role in ("choice", "report")
]
FOLDS, INNER = 5, 3
MISSING, MISSING_SAID = 0.3, "30 % missing"
Array = NDArray[Any]

CATEGORIES = make_column_selector(dtype_include="category")
NUMBERS = make_column_selector(dtype_include=np.number)


def for_distances(estimator: Any) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return make_pipeline(make_column_transformer((numbers, NUMBERS), (hot, CATEGORIES)), estimator)


def for_trees(estimator: Any) -> Any:
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    numbers = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(make_column_transformer((numbers, NUMBERS), (codes, CATEGORIES)), estimator)


Make = Callable[[], Any]
OTHERS: dict[bool, dict[str, tuple[Make, dict[str, list[Any]]]]] = {
    False: {
        "logistic regression": (
            lambda: for_distances(LogisticRegression(max_iter=1000)),
            {"logisticregression__C": [0.01, 0.1, 1.0, 10.0]},
        ),
        "random forest": (
            lambda: for_trees(RandomForestClassifier(random_state=0)),
            {
                "randomforestclassifier__min_samples_leaf": [1, 3, 10],
                "randomforestclassifier__max_features": ["sqrt", 0.5],
            },
        ),
        "gradient boosting": (
            lambda: for_trees(HistGradientBoostingClassifier(random_state=0)),
            {
                "histgradientboostingclassifier__learning_rate": [0.03, 0.1],
                "histgradientboostingclassifier__max_leaf_nodes": [4, 31],
            },
        ),
        "nearest neighbours": (
            lambda: for_distances(KNeighborsClassifier()),
            {"kneighborsclassifier__n_neighbors": [5, 15, 45]},
        ),
    },
    True: {
        "ridge regression": (lambda: for_distances(Ridge()), {"ridge__alpha": [0.1, 1.0, 10.0, 100.0]}),
        "random forest": (
            lambda: for_trees(RandomForestRegressor(random_state=0)),
            {
                "randomforestregressor__min_samples_leaf": [1, 3, 10],
                "randomforestregressor__max_features": [1.0, 0.33],
            },
        ),
        "gradient boosting": (
            lambda: for_trees(HistGradientBoostingRegressor(random_state=0)),
            {
                "histgradientboostingregressor__learning_rate": [0.03, 0.1],
                "histgradientboostingregressor__max_leaf_nodes": [4, 31],
            },
        ),
        "nearest neighbours": (
            lambda: for_distances(KNeighborsRegressor()),
            {"kneighborsregressor__n_neighbors": [5, 15, 45]},
        ),
    },
}
"""For classes and for reals: each estimator, and what "tuned" chooses from."""
READ = {False: ("auc", "log_loss", "logistic regression, tuned"), True: ("r2", "r2", "ridge regression, tuned")}
"""For classes and for reals: the metric of differences, that of ranks, and the linear model to beat."""


def folds(table: Table, reals: bool, n: int) -> Any:
    """The splitter of a table: by group, by class, or at random."""
    if table.groups is not None:
        return (GroupKFold if reals else StratifiedGroupKFold)(n, shuffle=True, random_state=0)
    return (KFold if reals else StratifiedKFold)(n, shuffle=True, random_state=0)


class Tuned:
    """An estimator whose options are chosen by folds within the rows of `fit`."""

    def __init__(self, make: Make, grid: dict[str, list[Any]], reals: bool) -> None:
        self.make, self.grid, self.reals = make, grid, reals

    def fit(self, x: pd.DataFrame, y: Array, groups: Array | None) -> GridSearchCV:
        inner = list(folds(Table(x, y, groups), self.reals, INNER).split(x, y, groups))
        score = "neg_mean_squared_error" if self.reals else clipped_log_loss
        return GridSearchCV(self.make(), self.grid, scoring=score, cv=inner, error_score=-1e9).fit(x, y)


def of_all(proba: Array, classes: Array, n_classes: int) -> Array:
    """Probabilities of all classes of a table, 0 for those that the training rows did not have."""
    whole = np.zeros((len(proba), n_classes))
    whole[:, classes.astype(int)] = proba
    return whole


def log_loss(proba: Array, y: Array) -> float:
    clipped = np.clip(proba, 1e-6, 1)
    return float(-np.log(clipped[np.arange(len(y)), y] / clipped.sum(1)).mean())


def clipped_log_loss(estimator: Any, x: pd.DataFrame, y: Array) -> float:
    return -log_loss(
        of_all(estimator.predict_proba(x), estimator.classes_, 1 + max(y.max(), estimator.classes_.max())), y
    )


def calibration_error(proba: Array, y: Array, bins: int = 15) -> float:
    confidence, right = proba.max(1), proba.argmax(1) == y
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence[number == b] - right[number == b]).sum()) for b in range(bins)]
    return float(sum(gaps) / len(y))


def scored(proba: Array, y: Array) -> dict[str, float]:
    shown = [c for c in range(proba.shape[1]) if 0 < (y == c).sum() < len(y)]
    return {
        "auc": float(np.mean([roc_auc_score(y == c, proba[:, c]) for c in shown])) if shown else float("nan"),
        "accuracy": float((proba.argmax(1) == y).mean()),
        "log_loss": log_loss(proba, y),
        "calibration_error": calibration_error(proba, y),
    }


def spoilt(x: pd.DataFrame) -> pd.DataFrame:
    """The table with some of its cells missing."""
    return x.mask(np.random.default_rng(1).random(x.shape) < MISSING)


def measured(make: Make, table: Table, reals: bool) -> dict[str, float]:
    """Means over the folds."""
    rows, begun = [], time.process_time()
    n_classes = 0 if reals else int(table.y.max()) + 1
    for train, test in folds(table, reals, FOLDS).split(table.x, table.y, table.groups):
        estimator, x, y = make(), table.x.iloc[train], table.y[train]
        groups = None if table.groups is None else table.groups[train]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers that have not converged, columns without a value
            fitted = estimator.fit(x, y, groups) if isinstance(estimator, Tuned) else estimator.fit(x, y)
            asked, answers = table.x.iloc[test], table.y[test]
            if reals:
                error = np.square(fitted.predict(asked) - answers).mean()
                rows.append({"r2": float(1 - error / np.square(answers - y.mean()).mean())})
            else:
                rows.append(scored(of_all(fitted.predict_proba(asked), fitted.classes_, n_classes), answers))
    seconds = (time.process_time() - begun) / FOLDS
    means = {name: round(mean(value for row in rows if (value := row[name]) == value), 5) for name in rows[0]}
    return {**means, "seconds": round(seconds, 3)}


def estimators(entry: Entry, model: str | None) -> Iterator[tuple[str, Make, bool]]:
    """Name, estimator, and whether cells are made missing."""
    reals = entry.kind == "reals"
    for name, (make, grid) in OTHERS[reals].items():
        yield name, make, False
        yield f"{name}, tuned", lambda make=make, grid=grid: Tuned(make, grid, reals), False  # type: ignore[misc]
    yield f"random forest, {MISSING_SAID}", OTHERS[reals]["random forest"][0], True
    if model is not None:
        own = TabularRegressor if reals else TabularClassifier
        yield Path(model).name, lambda: own(model), False
        yield f"{Path(model).name}, {MISSING_SAID}", lambda: own(model), True


def difference(rows: dict[str, Any], ours: str, other: str, metric: str) -> dict[str, Any]:
    """The mean difference over tables with its 90 % interval, by resampling tables; and that of each table."""
    each = {
        table: round(row["scores"][ours][metric] - row["scores"][other][metric], 5)
        for table, row in rows.items()
        if metric in row["scores"].get(ours, {}) and metric in row["scores"].get(other, {})
    }
    values = np.array(list(each.values()))
    means = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    low, high = np.quantile(means, [0.05, 0.95])
    return {
        "mean": round(float(values.mean()), 5),
        "low": round(float(low), 5),
        "high": round(float(high), 5),
        "each": each,
    }


def mean_ranks(rows: dict[str, Any], metric: str, names: list[str]) -> dict[str, float]:
    """Mean rank among estimators over the tables that all of them have; 1 is best."""
    sign = -1 if metric in ("auc", "r2", "accuracy") else 1
    tables = [row["scores"] for row in rows.values() if all(metric in row["scores"].get(name, {}) for name in names)]
    ranks = [pd.Series([sign * scores[name][metric] for name in names]).rank().tolist() for scores in tables]
    means = [round(mean(of_one), 3) for of_one in zip(*ranks, strict=True)]
    return dict(zip(names, means, strict=bool(ranks)))


def compared(rows: dict[str, Any], ours: str, reals: bool) -> list[dict[str, Any]]:
    """A row for each estimator: its means over the tables of `rows`, and how far ours is above it.

    Of one that saw tables with missing cells, what it lost by them. Ranks are among the defaults, tuned linear models,
    and ours, by log loss or R2.
    """
    metric, ranked, linear = READ[reals]
    of = {table: row for table, row in rows.items() if metric in row["scores"].get(ours, {})}
    names = list(dict.fromkeys(name for row in of.values() for name in row["scores"]))
    ranks = mean_ranks(of, ranked, [ours, *OTHERS[reals], linear])
    found = []
    for name in sorted(names, key=lambda name: (name != ours, MISSING_SAID in name)):
        whole, missing, _ = name.partition(f", {MISSING_SAID}")
        to = difference(of, whole if missing else ours, name, metric)
        scores = [row["scores"][name] for row in of.values() if name in row["scores"]]
        means = {key: round(float(np.nanmean([score[key] for score in scores])), 4) for key in scores[0]}
        said = "lost" if missing else "ours_above"
        above = {} if name == ours else {said: to["mean"], "from": to["low"], "to": to["high"]}
        rank = {"mean_rank": ranks[name]} if name in ranks else {}
        found.append({"estimator": name, "tables": len(to["each"]), metric: means[metric], **above, **rank, **means})
    return found


def by_table(rows: dict[str, Any], ours: str, reals: bool) -> list[dict[str, Any]]:
    """A row for each table: ours, and how far it is above the default forest and the tuned linear model."""
    metric, _, linear = READ[reals]
    found = []
    for table, row in rows.items():
        if metric in row["scores"].get(ours, {}):
            score = {name: scores[metric] for name, scores in row["scores"].items()}
            above = {f"above {name}": round(score[ours] - score[name], 4) for name in ("random forest", linear)}
            sizes = {"rows": row["rows"], "columns": row["columns"], "grouped": row["grouped"]}
            found.append({"table": table, **sizes, metric: score[ours], **above})
    return found


def summary(rows: dict[str, Any], ours: str, reals: bool) -> dict[str, Any]:
    """Small tables, of at most 30 columns, compared; and all of them, one by one."""
    small = {table: row for table, row in rows.items() if row["columns"] <= 30}
    kind = "reals" if reals else "classes"
    return {kind: compared(small, ours, reals), f"{kind}_by_table": by_table(rows, ours, reals)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=["choice", "report"], required=True)
    parser.add_argument("--model", help="of classes: a name, a file, or the folder of a run")
    parser.add_argument("--reals", help="the same of real targets")
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="folder of the packages' archives")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result")
    parser.add_argument("--only", nargs="*", help="names of tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.results / f"tables-{args.role}.json"
    kept: dict[str, Any] = read_json(path) if path.is_file() else {"tables": {}}
    for entry in entries(args.role):
        if args.only and entry.name not in args.only:
            continue
        table, model = load(entry, args.archives), args.reals if entry.kind == "reals" else args.model
        row = kept["tables"].setdefault(entry.name, {"kind": entry.kind, "scores": {}})
        row |= {"rows": len(table.y), "columns": table.x.shape[1], "grouped": table.groups is not None}
        for name, make, missing in estimators(entry, model):
            if name in row["scores"] or (model and name.startswith(Path(model).name) and table.x.shape[1] > 64):
                continue
            spoiled = Table(spoilt(table.x), table.y, table.groups) if missing else table
            row["scores"][name] = measured(make, spoiled, entry.kind == "reals")
            print(f"{entry.name}, {name}: {row['scores'][name]}", flush=True)
        kept["environment"] = collect_environment()
        for ours, reals in ((args.model, False), (args.reals, True)):
            if ours and any(Path(ours).name in row["scores"] for row in kept["tables"].values()):
                kept |= summary(kept["tables"], Path(ours).name, reals)
        write_json(path, kept)


if __name__ == "__main__":
    main()
