"""The two-task toy problem of CAGrad (Liu et al. 2021, section 5): where does each weighting end?

    python benchmarks/conflict.py                      # every method from three start points; writes a JSON file
    python benchmarks/conflict.py --methods pcgrad     # one, the others in the file stay

Losses, start points and optimizer (Adam) are those of the authors' code; it takes 100000 steps of 0.001, this script
fewer and longer ones. The Pareto set is -7 <= x1 <= 7 at x2 = -8.36, and the minimum of the mean loss is its middle.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from metabox.files import read_json, write_json
from metabox.multitask.surgery import METHODS, Surgery
from metabox.multitask.weights import Fixed
from metabox.training.environment import collect_environment
from metabox.training.weighting import Weighting

JOBS = [
    {"writes": "conflict.json", "tier": "full", "minutes": 15, "threads": 1},
]

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))
RESULT = Path(__file__).parent / "results" / "conflict.json"


def losses(x: Tensor) -> Tensor:
    """Two valleys above x2 = 0, two bowls below."""
    slope = torch.tanh(-x[1])
    valley = torch.stack([0.5 * (-x[0] - 7) - slope, 0.5 * (-x[0] + 3) + slope + 2]).abs().clamp(min=5e-6).log() + 6
    bowl = torch.stack([(-x[0] + 7).square(), (-x[0] - 7).square()]) / 10 + 0.01 * (-x[1] - 8).square() - 20
    return valley * torch.tanh(x[1] / 2).clamp(min=0) + bowl * torch.tanh(-x[1] / 2).clamp(min=0)


def walk(weighting: Weighting, start: tuple[float, float], steps: int, lr: float) -> list[float]:
    x, share = nn.Parameter(torch.tensor(start)), torch.full([2], 0.5)
    optimizer = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        weighting.backward(losses(x), share, [x], torch.Tensor.backward)
        optimizer.step()
    return x.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["sum", *METHODS], choices=["sum", *METHODS])
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--lr", type=float, default=0.005)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_json(RESULT)["rows"] if RESULT.exists() else []
    for method in args.methods:
        rows = [row for row in rows if row["method"] != method]
        for start in STARTS:
            began = time.perf_counter()
            weighting = Fixed(2) if method == "sum" else Surgery(2, method)
            end = walk(weighting, start, args.steps, args.lr)
            row = {
                "method": method,
                "start": str(start),
                "end": str(tuple(round(value, 2) for value in end)),
                "mean_loss": round(float(losses(torch.tensor(end)).mean()), 3),
                "in_pareto_set": abs(end[0]) <= 7.1 and math.isclose(end[1], -8.36, abs_tol=0.2),
                "steps": args.steps,
                "lr": args.lr,
                "ms_per_step": round(1000 * (time.perf_counter() - began) / args.steps, 2),
            }
            print(row, flush=True)
            rows.append(row)
        write_json(RESULT, {"environment": collect_environment(), "rows": rows})


if __name__ == "__main__":
    main()
