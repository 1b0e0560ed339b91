"""Draws the figures of docs/speed.md from benchmarks/results/speed.json: `python docs/figures/speed.py`."""

from __future__ import annotations

from typing import Any

from functions import RESULTS, figure

from metabox.files import read_json


def share_of_the_limits(speed: dict[str, Any]) -> None:
    """How close training steps come to the machine's matrix rate, and sampling to the bare gather."""
    limit = speed["steps_measured_with"]["product_gflop_per_s"]
    steps = [row for row in speed["steps"] if (row["way"], row["shot"], row["tasks"]) == (5, 1, 8)]
    shares = {row["learner"]: row["gflop_per_s"] / limit for row in steps}
    shares |= {f"sampling {row['way']}w{row['shot']}s": row["share_of_gather"] for row in speed["sampling"]}
    with figure("speed-limits") as axes:
        axes.bar(list(shares), list(shares.values()), color=["C0"] * len(steps) + ["C1"] * len(speed["sampling"]))
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.set_ylabel("share of the limit")
        axes.tick_params(axis="x", rotation=30)


def against_peers(speed: dict[str, Any]) -> None:
    """How many times as fast as each peer."""
    times = {
        f"{peer},\n{row['way']}w{row['shot']}s": factor
        for row in speed["sampling"]
        for peer, factor in row["times_faster_than"].items()
    }
    times |= {
        f"neuralprocesses,\n{row['learner']}": row["times_faster"]["metabox by default"] for row in speed["processes"]
    }
    times |= {f"one query a\nsequence, {row['way']}w": row["times_faster"] for row in speed["snail"]}
    with figure("speed-peers") as axes:
        axes.barh(list(times), list(times.values()))
        axes.set_xscale("log")
        axes.set_xlim(1)
        axes.set_xlabel("times as fast")
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=6)


def growth(speed: dict[str, Any]) -> None:
    """Time and memory of a training step against the sizes of the support and of the batch."""
    with figure("speed-growth", panels=3) as panels:
        for axes, (axis, what) in zip(
            panels, (("support", "training_ms"), ("support", "kept_mb"), ("tasks", "training_ms")), strict=True
        ):
            for row in (row for row in speed["growth"] if row["axis"] == axis):
                label = f"{row['learner']}, exponent {row['exponent'][what]}"
                axes.loglog(
                    row["sizes"], [point[what] for point in row["points"]], marker="o", markersize=2, label=label
                )
            axes.set_xscale("log", base=2)
            axes.set_xlabel({"support": "N, support examples", "tasks": "T, tasks"}[axis])
            axes.set_ylabel({"training_ms": "training step, ms", "kept_mb": "kept for the backward pass, MB"}[what])
            axes.legend(fontsize=5, frameon=False)


if __name__ == "__main__":
    measured = read_json(RESULTS / "speed.json")
    share_of_the_limits(measured)
    against_peers(measured)
    growth(measured)
