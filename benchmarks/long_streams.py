"""A stream of 10,000 steps: does its time grow linearly, and does its memory stay?

    OMP_NUM_THREADS=1 python benchmarks/long_streams.py
    OMP_NUM_THREADS=1 python benchmarks/long_streams.py --learners lstm mamba2 --steps 2000

Recall of 18-bit keys, one task, by each recurrent learner with its initial weights: pieces of a hundred pairs come in,
are predicted by `stream` from the phi before them, and then become part of phi by `adapt`. For each quarter of the
stream: seconds of the processor, the largest memory of the process in it, and the numbers that phi holds. Beside them
the quotient of the time of the last quarter to that of the second (the first warms up). Writes
results/long-streams.json beside this file after each learner; the rows of others stay.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from readings import forget_peak, memory_mb

from metabox.files import read_json, write_json
from metabox.learners import LSTM, MANN, TTT, XLSTM, GatedDeltaNet, LinearAttention, Mamba2
from metabox.learners.base import Learner
from metabox.tasks import AssociativeRecall
from metabox.tasks.place import Place
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "long-streams.json", "tier": "quick", "minutes": 2, "threads": 1},
]

RESULTS = Path(__file__).parent / "results" / "long-streams.json"
LEARNERS: dict[str, type[Learner]] = {
    "lstm": LSTM,
    "mann": MANN,
    "linearattention": LinearAttention,
    "gateddeltanet": GatedDeltaNet,
    "mamba2": Mamba2,
    "xlstm": XLSTM,
    "ttt": TTT,
}
PIECE, PARTS = 100, 4
Row = dict[str, Any]


@torch.no_grad()
def quarters(learner: Learner, tasks: AssociativeRecall, steps: int) -> list[Row]:
    """What each quarter of the stream costs."""
    learner.eval()
    phi, rows, step = None, [], 0
    for part in range(PARTS):
        forget_peak()
        spent = 0.0
        while step < steps * (part + 1) // PARTS:
            support = tasks.sample(Place(1, "test", first=step)).support
            began = time.process_time()
            learner.stream(support, phi=phi)
            phi = learner.adapt(support, phi=phi)
            spent += time.process_time() - began
            step += PIECE
        assert phi is not None
        numbers = sum(leaf.numel() for leaf in phi.values())
        rows.append({"steps": step, "cpu_seconds": spent, "peak_mb": memory_mb(), "numbers_in_phi": numbers})
    return rows


def row(name: str, steps: int) -> Row:
    tasks = AssociativeRecall(length=PIECE, key_bits=18, value_bits=8, n_query=1)
    torch.manual_seed(0)
    found = quarters(LEARNERS[name](tasks.spec), tasks, steps)
    return {
        "learner": name,
        "steps": steps,
        "numbers_in_phi": found[-1]["numbers_in_phi"],
        "phi_grew": len({part["numbers_in_phi"] for part in found}) > 1,
        **{f"cpu_seconds_to_{part['steps']}": round(part["cpu_seconds"], 2) for part in found},
        "last_quarter_to_second": round(found[-1]["cpu_seconds"] / found[1]["cpu_seconds"], 2),
        "memory_grew_mb": round(found[-1]["peak_mb"] - found[1]["peak_mb"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.steps % (PARTS * PIECE) or args.steps < PARTS * PIECE:
        parser.error(f"expected steps in multiples of {PARTS * PIECE}, got {args.steps}")
    torch.set_num_threads(1)
    rows: list[Row] = read_json(args.out)["rows"] if args.out.exists() else []
    for name in args.learners:
        rows = [kept for kept in rows if kept["learner"] != name] + [row(name, args.steps)]
        rows.sort(key=lambda kept: list(LEARNERS).index(kept["learner"]))
        write_json(args.out, {"environment": collect_environment(), "rows": rows})
        print(json.dumps(next(kept for kept in rows if kept["learner"] == name)), flush=True)


if __name__ == "__main__":
    main()
