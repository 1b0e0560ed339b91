"""Draws the figures of docs/functions.md and docs/incontext.md, from benchmarks/results and one trained run.

    python docs/figures/functions.py --run runs/benchmarks/gp-rbf-convcnp-cpu

The run is what `python benchmarks/functions.py optimum` trains.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from metabox.episodes import Examples
from metabox.files import read_json
from metabox.learners.base import Learner
from metabox.recipe import load_run
from metabox.tasks import GaussianProcess
from metabox.tasks.functions.kernels import RBF
from metabox.tasks.place import Place

STATIC = Path(__file__).parents[1] / "_static"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
plt.rcParams |= {"svg.hashsalt": "metabox", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


@contextmanager
def figure(name: str, panels: int = 1, **options: Any) -> Iterator[Any]:
    """Axes that are saved as a file in docs/_static; the same picture gives the same bytes."""
    drawing, axes = plt.subplots(1, panels, figsize=(8, 2.8), layout="constrained", **options)
    yield axes
    drawing.savefig(STATIC / f"{name}.svg", metadata={"Date": None})
    plt.close(drawing)


def posterior(support: Examples, at: np.ndarray, tasks: GaussianProcess) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of y at inputs `at [n]` given one task's support, in closed form."""
    x, y = support.x[0, :, 0].double().numpy(), support.y[0, :, 0].double().numpy()

    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * (a[:, None] - b) ** 2 / 0.25**2)

    noise = tasks.noise[0] ** 2
    weights = np.linalg.solve(k(x, x) + noise * np.eye(len(x)), k(x, at)).T
    return weights @ y, np.sqrt(1 + noise - (weights * k(at, x)).sum(1))


def predictions(learner: Learner) -> None:
    """Predictions for three functions with few, some and many points seen."""
    at = np.linspace(-2, 2, 200)
    with figure("functions-posterior", 3, sharey=True) as axes:
        for axis, n in zip(axes, (3, 8, 20), strict=True):
            tasks = GaussianProcess(kernel=RBF(), noise=0.05**0.5, n_support=n, n_query=1, max_points=None)
            support = tasks.sample(Place(1, "test")).support
            x = torch.from_numpy(at).float()[None, :, None]
            with torch.no_grad():
                mean, scale = tasks.spec.target.mean_and_scale(learner.predict(learner.adapt(support), x))
            exact, deviation = posterior(support, at, tasks)
            ours, width = mean[0, :, 0].numpy(), scale[0, :, 0].numpy()
            axis.fill_between(at, ours - 2 * width, ours + 2 * width, color="C0", alpha=0.25, lw=0)
            axis.plot(at, ours, "C0", label="ConvCNP")
            axis.plot(at, exact, "k--", lw=1, label="exact posterior")
            axis.plot(at, exact - 2 * deviation, "k:", at, exact + 2 * deviation, "k:", lw=1)
            axis.plot(support.x[0, :, 0], support.y[0, :, 0], "k.", ms=5)
            axis.set(title=f"{n} points", xlabel="x")
        axes[0].legend(frameon=False, loc="upper left")


def gap_by_contexts() -> None:
    rows = read_json(RESULTS / "functions-optimum.json")["contexts"]
    n, gap, half = (
        np.array([row[name] for row in rows]) for name in ("contexts", "gap_nats_per_target", "interval_95")
    )
    with figure("functions-gap") as axis:
        axis.fill_between(n, gap - half, gap + half, alpha=0.25, lw=0)
        axis.plot(n, gap, ".-")
        axis.axhline(0.01, color="k", ls=":", lw=1)
        axis.set(
            xlabel="points seen",
            ylabel="gap to the exact posterior\n(nats per point)",
            ylim=(0, None),
            xticks=range(0, 31, 5),
        )


def errors_by_prefix() -> None:
    rows = read_json(RESULTS / "incontext-linear.json")["prefixes"]
    with figure("incontext-linear") as axis:
        for name, style in (("least_squares", "C1:"), ("squared_error", "C0.-"), ("ridge", "k--")):
            label = {"squared_error": "in-context transformer"}.get(name, name.replace("_", " "))
            axis.plot([row["examples"] for row in rows], [row[name] for row in rows], style, label=label)
        axis.set(xlabel="examples seen", ylabel="squared error", ylim=(0, 8), xticks=range(0, 21, 5))
        axis.legend(frameon=False)


def remedies() -> None:
    rows = read_json(RESULTS / "incontext-remedies.json")["remedies"]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    with figure("incontext-remedies", len(problems)) as axes:
        for axis, problem in zip(axes, problems, strict=True):
            for row in (row for row in rows if row["problem"] == problem):
                tasks = 128 if row["remedy"].startswith("4 times") else 32
                steps, _, nll = zip(*row["curve"], strict=True)
                style = {"color": "k", "ls": "--"} if row["remedy"] == "none" else {}
                axis.plot([tasks * step for step in steps], nll, label=row["remedy"], **style)
            axis.axhline(row["left_below_nll"], color="0.7", lw=1)
            axis.set(title=problem, xlabel="training tasks", ylabel="validation loss (nats)")
            axis.legend(frameon=False, fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    args = parser.parse_args()
    predictions(load_run(args.run)[0])
    gap_by_contexts()
    errors_by_prefix()
    remedies()


if __name__ == "__main__":
    main()
