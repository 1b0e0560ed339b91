"""metabox on a GPU: device tests, whole steps beside the CPU's, sampling, a minute of training.

    python benchmarks/gpu.py --data-root DIR                           # seven minutes at most
    PYTHONPATH=. python benchmarks/gpu.py --data-root DIR              # from a checkout that is not installed
    python benchmarks/gpu.py --device cpu --quick --out cpu.json       # shows that it works, measures nothing

Rewrites results/gpu.json after every measurement. Each measurement has a process of its own with a time limit: what
fails, or does not fit into the budget, is listed with the reason, and the rest goes on.

A step is the whole step of `metabox.run`, from one call of its sampler to the next. `on` is compiled beforehand, all
recipes at once while the device tests run, and then again from the compiler's cache for the timing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_measures
from alone import Alone
from gpu_tests import device_tests, outcomes

from metabox.data.root import name_data_root
from metabox.files import read_json, write_json
from metabox.recipe import make_parser

RESULTS = Path(__file__).parent / "results" / "gpu.json"
STEPPED = (
    "gp-rbf-cnp",
    "omniglot-5w1s-incontext",
    "omniglot-5w1s-protonet",
    "omniglot-5w1s-snail",
    "omniglot-stream5-lstm",
    "omniglot-stream5-mann",
)
COMPILED = STEPPED[1:3]  # by `compile: on` too
TRAINED = "omniglot-5w1s-incontext"
PARTS = ("limits", "tests", "training", "steps", "sampling", "compiled")  # most important first


class Script:
    """Runs the parts in order within the time budget."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options, self.work, self.device = options, work, options.device
        self.began = time.monotonic()
        self.result: dict[str, Any] = {"device": options.device, "quick": options.quick, "budget_s": options.budget}
        if options.commit:
            self.result["commit"] = options.commit
        self.window = 0.2 if options.quick else 2.5
        self.rows: list[dict[str, Any]] = []
        self.compiling: dict[tuple[str, str | None], dict[str, Any]] = {}

    def left(self) -> float:
        return float(self.options.budget) - (time.monotonic() - self.began)

    def keep(self, **parts: Any) -> None:
        """Add parts to the result file, and print them in one line."""
        self.result |= parts | {"seconds": round(time.monotonic() - self.began, 1)}
        write_json(self.options.out, self.result)
        new = {name: part[-1] if isinstance(part, list) else part for name, part in parts.items()}
        print(f"[{self.result['seconds']:5.0f} s] {json.dumps(new)[:300]}", flush=True)

    def alone(self, call: Callable[..., None], *arguments: Any, limit: float) -> dict[str, Any]:
        if self.left() < 5:
            return {"left_out": f"no time: the budget of {self.options.budget:g} s is spent"}
        began = time.monotonic()
        found = Alone(call, *arguments, seconds=min(limit, self.left())).result()
        return found | {"took_s": round(time.monotonic() - began, 1)}

    def limits(self) -> None:
        arguments = (self.device, self.options.quick, self.options.data_root)
        found = self.alone(gpu_measures.limits, *arguments, limit=40)
        if "bf16_product_tflop_per_s" not in found and Alone.method == "fork":
            Alone.method = "spawn"  # something initialised CUDA before the fork
            found = self.alone(gpu_measures.limits, *arguments, limit=60) | {"forked": found}
        self.keep(limits=found)

    def tests(self) -> None:
        """Run the device tests; meanwhile compile once all that will be timed compiled."""
        reports, limit = self.work / "reports", min(self.options.test_seconds, self.left())
        ran = Alone(device_tests, self.options.data_root, limit, str(reports), seconds=limit + 5)
        ways = self.ways() if self.device == "cuda" and "compiled" in self.options.parts else []
        warm = {
            way: Alone(gpu_measures.step, way[0], self.device, way[1], 0.1, seconds=limit)
            for way in ways
            if way[1] != "graphs"
        }
        found = ran.result()
        self.compiling = {way: child.result() for way, child in warm.items()}
        self.keep(tests=found | outcomes(reports))
        first = {
            f"{name}, {how}": c.get("first_step_s", c.get("left_out")) for (name, how), c in self.compiling.items()
        }
        self.keep(compiling={"processes_at_once": len(warm), "first_step_s": first})

    def ways(self) -> list[tuple[str, str | None]]:
        """What is compiled, most important first; the recipe that is trained is first, unchanged."""
        named = [name for name in COMPILED if name in self.options.recipes]
        graphs = [*named, *(name for name in self.options.recipes if name not in named)]
        on = [(name, "on") for name in named if name != self.options.train]
        return [(self.options.train, None), *((name, "graphs") for name in graphs[:2]), *on] + [
            (name, "graphs") for name in graphs[2:]
        ]

    def measure(self, name: str, device: str, how: str | None) -> dict[str, Any]:
        """Time the steps of a recipe; returns a row of the table of steps."""
        row: dict[str, Any] = {"recipe": name, "device": device, "compile": how or "as the recipe says"}
        before = self.compiling.get((name, how), {})
        if "left_out" in before:
            row["left_out"] = f"while the device tests ran: {before['left_out']}"
        else:
            limit = 120 if self.options.quick else 20 if how == "off" else 40  # the machine may be busy
            row |= self.alone(gpu_measures.step, name, device, how, self.window, limit=limit)
        if "step_ms" in row:
            row["tasks_per_s"] = round(1e3 * row["tasks"] / row["step_ms"]["mean"], 1)
        self.rows.append(row)
        self.compare()
        self.keep(steps=self.rows)
        return row

    def compare(self) -> None:
        """Compare each row with the device's peak, and with the eager steps of the same recipe."""
        eager = {(r["recipe"], r["device"]): r for r in self.rows if r["compile"] == "off" and "step_ms" in r}
        peak = self.result.get("limits", {}).get("bf16_product_tflop_per_s")
        for row in (r for r in self.rows if "step_ms" in r):
            ms, here = row["step_ms"]["mean"], eager.get((row["recipe"], row["device"]))
            if here and "gflop" in here and peak and row["device"] == self.device:
                row["share_of_bf16_peak"] = round(here["gflop"] / ms / peak, 5)
            if here and here is not row:
                row["times_as_fast_as_eager"] = round(here["step_ms"]["mean"] / ms, 2)
            cpu = eager.get((row["recipe"], "cpu"))
            if cpu and row["device"] != "cpu":
                row["times_as_fast_as_cpu"] = round(cpu["step_ms"]["mean"] / ms, 2)

    def steps(self) -> None:
        for name in self.options.recipes:
            for device in dict.fromkeys(("cpu", self.device)):
                if not any((r["recipe"], r["device"], r["compile"]) == (name, device, "off") for r in self.rows):
                    self.measure(name, device, "off")

    def sampling(self) -> None:
        devices = dict.fromkeys(("cpu", self.device))
        arguments = (self.options.data_root, self.options.quick)
        self.keep(
            sampling={device: self.alone(gpu_measures.sampling, device, *arguments, limit=15) for device in devices}
        )

    def training(self) -> None:
        """Train as in the recipe; without compiling, if that takes too long on this machine."""
        for how in (None, "off"):
            row = self.measure(self.options.train, self.device, how)
            if "step_ms" in row:
                steps = max(20, int(1e3 * self.options.train_seconds / row["step_ms"]["mean"]))
                arguments = (self.options.train, steps, self.device, how, str(self.work / "runs"))
                limit = self.options.train_seconds + 60
                self.keep(training=self.alone(gpu_measures.training, *arguments, limit=limit))
                return
        self.keep(training={"left_out": "no step could be timed"})

    def compiled(self) -> None:
        if self.device != "cuda":
            self.keep(compiled={"left_out": "compiled steps are measured on CUDA"})
            return
        for name, how in self.ways():
            if how is not None:  # the other is measured by `training`
                self.measure(name, self.device, how)


def show(result: dict[str, Any]) -> None:
    """Print a summary of the result."""
    tests = result.get("tests", {})
    print(f"\ntests: {tests.get('passed')} passed, {len(tests.get('failed', []))} failed {tests.get('left_out', '')}")
    for failure in tests.get("failed", []):
        print(f"  {failure['test']}: {failure['why'][:160]} ({failure.get('at')})")
    columns = ("recipe", "device", "compile", "step_ms", "tasks_per_s", "kernels", "launches", "host_waits", "busy_ms")
    more = ("share_of_bf16_peak", "times_as_fast_as_cpu", "times_as_fast_as_eager", "first_step_s", "left_out", "said")
    for row in result.get("steps", []):
        shown = row | ({"step_ms": row["step_ms"]["median"]} if "step_ms" in row else {})
        print(" ".join(f"{key}={shown[key]}" for key in (*columns, *more) if key in shown))
    for device, rates in result.get("sampling", {}).items():
        print(device, {n: r["tasks_per_s"] if isinstance(r, dict) else r for n, r in rates.items()})
    for part in ("limits", "compiling", "training"):
        kept = {k: v for k, v in result.get(part, {}).items() if k not in ("environment", "claim")}
        print(f"{part}: {json.dumps(kept)[:1500]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="made in this order")
    parser.add_argument("--recipes", nargs="+", default=list(STEPPED), help="whose steps are timed")
    parser.add_argument("--train", default=TRAINED, help="the recipe that is trained")
    parser.add_argument("--data-root", help="folder that holds omniglot/; else METABOX_DATA")
    parser.add_argument("--budget", type=float, default=400, help="seconds in all")
    parser.add_argument("--test-seconds", type=float, default=90, help="of the device tests")
    parser.add_argument("--train-seconds", type=float, default=60, help="of training")
    parser.add_argument("--quick", action="store_true", help="short measurements: show that it works")
    parser.add_argument("--commit", help="of a copy of the files without git")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.data_root = options.data_root or os.environ.get("METABOX_DATA")
    options.data_root = options.data_root and str(Path(options.data_root).resolve())
    name_data_root(options.data_root)
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")  # many processes compile at once
    make_parser()  # imports every class, once for all processes
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        script = Script(options, Path(work))
        try:
            for part in PARTS:
                if part in options.parts:
                    getattr(script, part)()
        finally:
            reports = Path(work) / "reports.txt"
            if reports.exists() and script.result["tests"]["failed"]:  # the full output of pytest
                options.out.with_suffix(".tests.txt").write_text(reports.read_text(encoding="utf-8"), encoding="utf-8")
    show(read_json(options.out))


if __name__ == "__main__":
    main()
