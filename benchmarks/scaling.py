"""A model on paper of training on many devices, from the measured steps of one: `python benchmarks/scaling.py`.

The time of a step on W devices, with as many tasks on each as before, is t(W) = t(1) + max(0, r - overlap * t(1)),
where r = 2 (W - 1) / W * bytes / bandwidth + 2 (W - 1) * latency is the time of the ring all-reduce and `overlap` the
share of a step (of its backward pass) that hides the all-reduce. Bandwidths are assumptions, written beside the result;
steps and numbers of parameters are those of results/speed.json. Writes results/scaling.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metabox.files import read_json, write_json

JOBS = [
    {"writes": "scaling.json", "tier": "quick", "minutes": 1, "after": "speed.json"},
]

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"10 Gbit/s Ethernet": (1.25, 50e-6), "200 Gbit/s InfiniBand": (25.0, 10e-6)}  # GB/s, seconds a hop
OVERLAP = 0.5  # less than the backward pass, two thirds of a step
FASTER = (1, 100)  # how many times faster than the measured core a device may be


def all_reduce_ms(n_bytes: float, devices: int, gb_per_s: float, latency: float) -> float:
    """Milliseconds of a ring all-reduce."""
    return 1e3 * (2 * (devices - 1) / devices * n_bytes / (gb_per_s * 1e9) + 2 * (devices - 1) * latency)


def efficiency(step_ms: float, reduce_ms: float) -> float:
    """Tasks per second on W devices, as a share of W times those on one."""
    return step_ms / (step_ms + max(0.0, reduce_ms - OVERLAP * step_ms))


def rows(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = []
    for step in (s for s in steps if (s["way"], s["shot"], s["tasks"]) == (5, 1, 8)):
        for network, (gb_per_s, latency) in NETWORKS.items():
            for faster in FASTER:
                step_ms, n_bytes = step["training_step_ms"]["median"] / faster, 4 * step["parameters"]
                row = {
                    "learner": step["learner"],
                    "network": network,
                    "device": f"{faster} x the measured core",
                    "step_ms": round(step_ms, 2),
                    "reduced_mb": round(n_bytes / 1e6, 2),
                }
                for devices in (8, 64):
                    reduce_ms = all_reduce_ms(n_bytes, devices, gb_per_s, latency)
                    row |= {
                        f"all_reduce_ms_{devices}": round(reduce_ms, 2),
                        f"efficiency_{devices}": round(efficiency(step_ms, reduce_ms), 3),
                    }
                table.append(row)
    return table


if __name__ == "__main__":
    speed = read_json(RESULTS / "speed.json")
    about = {"overlap": OVERLAP, **{f"{name}, GB/s": gb for name, (gb, _) in NETWORKS.items()}}
    names = ("cpu", "threads", "torch", "git_commit", "git_tree")
    measured = {name: speed["steps_measured_with"][name] for name in names}
    write_json(RESULTS / "scaling.json", {"assumed": about, "measured": measured, "rows": rows(speed["steps"])})
