"""Case study: 50 alphabets as tasks. Conditioning, sharing and weighting, each against one network per alphabet.

    python benchmarks/alphabets.py                        # every row, three seeds; an hour on one core
    python benchmarks/alphabets.py heads single --seeds 0 # some of them; the others in the file stay

All rows see the same number of images of an alphabet. The learning rate and weight decay of each network are chosen on
the validation drawers, with seed 0; weightings and surgeries take those of the plain sum ("heads"), and what is trained
on five alphabets those of a network there. Only the reported scores use the test drawers. Writes results/alphabets.json
beside this file, and the figure of gradient cosines. A finished run is not repeated.

Networks whose cost grows with the number of tasks are compared on the first five alphabets, against rows of their own.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from svg import write_svg

from metabox import Learner, OuterLoop, evaluate, run
from metabox.episodes import Split
from metabox.evaluation import interval_of
from metabox.files import read_json, write_json
from metabox.learners import PLE, CrossStitch, HardSharing, Independent, MMoE, SoftSharing
from metabox.multitask import DWA, GradientCosines, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.transfer import figure, hint, read_cosines, table
from metabox.nn.backbones import Conv4
from metabox.nn.conditioning import Add, Concat, FiLM, Gate
from metabox.tasks.multitask.alphabets import Alphabets
from metabox.training.environment import collect_environment
from metabox.training.hook import Hook

JOBS = [
    {"writes": "alphabets.json", "tier": "full", "minutes": 60, "threads": 1},
]

SMALL = partial(Conv4, width=32, downsample="stride")
SUPPORT = 20
EVERYTHING = 220  # drawings of the largest alphabet in a split
OUTER = OuterLoop(steps=600, n_tasks=16, warmup=50, validate_every=200, n_validation=50)
FIVE = OuterLoop(steps=192, n_tasks=5, warmup=16, validate_every=64, n_validation=5)
GRID = ((5e-3, 0.1), (1e-2, 0.3), (2e-2, 1.0))
"""Learning rates and weight decays to choose from."""
MORE = {
    "heads": ((1e-2, 0.1), (5e-3, 1.0), (1e-2, 1.0), (1e-2, 3.0), (2e-2, 2.0), (2e-2, 3.0), (4e-2, 0.5)),
    "single": ((1e-2, 0.1), (1e-2, 1.0)),
}
"""Further ones for the baseline and for single-task training, which all are compared with."""
RECORDED = ("heads", 1)
"""The row and seed whose gradient cosines are plotted."""


class Row(NamedTuple):
    """One line of the table: what is trained, how, and on what; `like`: the row whose settings it takes."""

    learner: Callable[..., Learner]
    weighting: Callable[[int], Any] | None = None
    n_support: int = 0
    alphabets: int | None = None
    outer: OuterLoop = OUTER
    like: str | None = None


heads = partial(HardSharing, backbone=SMALL)
experts: dict[str, Any] = {"backbone": SMALL, "expert_size": 64, "tower_size": 64}
five = partial(Row, alphabets=5, outer=FIVE)
ROWS = {
    "single": Row(Independent),
    "heads": Row(heads),
    "heads, group norm": Row(partial(HardSharing, backbone=partial(SMALL, norm="group"))),
    "concat": Row(partial(heads, condition=Concat)),
    "add": Row(partial(heads, condition=Add)),
    "gate": Row(partial(heads, condition=Gate)),
    "film": Row(partial(heads, condition=FiLM)),
    "film in the backbone, heads": Row(partial(heads, film=True)),
    "mmoe": Row(partial(MMoE, n_experts=8, **experts)),
    "ple": Row(partial(PLE, levels=1, **experts)),
    "heads, uncertainty": Row(heads, Uncertainty, like="heads"),
    "heads, gradnorm": Row(heads, GradNorm, like="heads"),
    "heads, dwa": Row(heads, DWA, like="heads"),
    "heads, random weights": Row(heads, Random, like="heads"),
    "heads, worst case": Row(heads, WorstCase, like="heads"),
    "heads, pcgrad": Row(heads, partial(Surgery, method="pcgrad"), like="heads"),
    "heads, told or inferred": Row(partial(heads, code="both"), n_support=SUPPORT, like="heads"),
    "five: single": five(Independent),
    "five: heads": five(heads),
    "five: soft sharing": five(SoftSharing, like="five: single"),
    "five: cross-stitch": five(CrossStitch, like="five: single"),
    "five: heads, mgda": five(heads, partial(Surgery, method="mgda"), like="five: heads"),
    "single, four times the steps": Row(Independent, outer=replace(OUTER, steps=4 * OUTER.steps), like="single"),
}
ByAlphabet = dict[str, float]
ByRow = dict[str, dict[str, ByAlphabet]]
"""Accuracies in percent: by row, seed and alphabet."""


def tasks_of(row: Row, n_query: int, untold: float = 0.0) -> Alphabets:
    """Supports are of people whose drawings were not trained on."""
    return Alphabets(
        row.alphabets,
        n_support=row.n_support,
        n_query=n_query,
        untold=untold,
        support_split="val" if row.n_support else None,
    )


def trained(name: str, seed: int, setting: tuple[float, float], runs: Path) -> tuple[Learner, Path]:
    row, (lr, decay) = ROWS[name], setting
    out = runs / f"{re.sub('[:, ]+', '-', name)}-lr{lr:g}-decay{decay:g}-seed{seed}"
    outer = replace(row.outer, lr=lr, weight_decay=decay)
    hooks: list[Hook] = [GradientCosines(every=3)] if (name, seed) == RECORDED else []
    tasks = tasks_of(row, 32)
    return run(tasks, row.learner, outer, weighting=row.weighting, hooks=hooks, seed=seed, out=out), out


def by_alphabet(learner: Learner, row: Row, split: Split, untold: float = 0.0) -> ByAlphabet:
    """The accuracy on all drawings of the split."""
    tasks = tasks_of(row, EVERYTHING, untold)
    scores = evaluate(learner, tasks, split=split, n_tasks=len(tasks.spec.tasks), batch=10)
    return {alphabet: round(100 * value, 2) for alphabet, value in scores.by_task("accuracy").items()}


def chosen(name: str, tuning: list[dict[str, Any]], runs: Path) -> tuple[float, float]:
    """The learning rate and weight decay of a row; adds to `tuning` if they are not chosen yet."""
    name = ROWS[name].like or name
    if not any(line["row"] == name for line in tuning):
        for setting in GRID + MORE.get(name, ()):
            accuracy = mean(by_alphabet(trained(name, 0, setting, runs)[0], ROWS[name], "val").values())
            lr, decay = setting
            tuning.append({"row": name, "lr": lr, "weight_decay": decay, "validation_percent": round(accuracy, 2)})
    of = [line for line in tuning if line["row"] == name]
    best = max(of, key=lambda line: line["validation_percent"])
    return best["lr"], best["weight_decay"]


def against_single(scores: ByRow, name: str) -> list[dict[str, Any]]:
    """The per-alphabet table of `metabox.multitask.transfer` over the seeds that both have."""
    alone = "five: single" if name.startswith("five: ") else "single"
    seeds = [seed for seed in scores[name] if seed in scores.get(alone, {})]
    if not seeds:
        return []
    multi, single = ({a: [scores[n][s][a] for s in seeds] for a in scores[n][seeds[0]]} for n in (name, alone))
    return table(multi, single, "accuracy")


def summary(scores: ByRow, parameters: dict[str, int]) -> list[dict[str, Any]]:
    lines = []
    for name in sorted(scores, key=lambda label: list(ROWS).index(label.removesuffix(" (untold)"))):
        runs = list(scores[name].values())
        accuracy = [mean(one.values()) for one in runs]
        line: dict[str, Any] = {
            "row": name,
            "parameters": parameters[name],
            "seeds": len(runs),
            "accuracy_percent": round(mean(accuracy), 2),
            "interval_95": round(interval_of(accuracy), 2) if len(runs) > 1 else None,
            "worst_alphabet_percent": round(mean(min(one.values()) for one in runs), 2),
        }
        if rows := against_single(scores, name):
            *alphabets, average = rows
            least = min(alphabets, key=lambda row: row["delta"])
            line |= {"delta_percent": average["delta"], "delta_interval_95": average["interval_95"]}
            line |= {
                "alphabets_that_lost": sum(row["delta"] < 0 for row in alphabets),
                "least_gain": f"{least['task']} {least['delta']:+.1f}",
            }
        lines.append(line)
    return lines


def draw(recorded: Path) -> list[dict[str, Any]]:
    """The figure of the gradient cosines, and the pairs of alphabets with the largest."""
    names, steps, cosines = read_cosines(recorded)
    out = Path(__file__).parents[1] / "docs" / "_static" / "alphabets-cosines.svg"
    write_svg(figure(names, steps, cosines), out)
    found = hint(cosines, names)
    print(found.share_less[:3], found.share_more[:3])
    return [
        {"hint": what, "pairs": len(pairs), "strongest": f"{a} and {b}", "cosine": round(cosine, 2)}
        for what, pairs in (("share less", found.share_less), ("share more", found.share_more))
        for a, b, cosine in pairs[:3]
    ]


def write(out: Path, content: dict[str, Any]) -> None:
    content["environment"] = collect_environment()
    content["settings"] = {"images_of_an_alphabet": 32 * OUTER.steps * OUTER.n_tasks // 50, "support": SUPPORT}
    content["summary"] = summary(content["scores"], content["parameters"])
    if "heads" in content["scores"]:
        content["heads_against_single"] = against_single(content["scores"], "heads")
    write_json(out, content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), metavar="ROW", help=f"among {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/alphabets"))
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"expected rows among {list(ROWS)}, got {sorted(unknown)}")
    out = Path(__file__).parent / "results" / "alphabets.json"
    content: dict[str, Any] = read_json(out) if out.exists() else {"tuning": [], "scores": {}, "parameters": {}}
    for seed in args.seeds:
        for name in args.rows:
            row = ROWS[name]
            learner, folder = trained(name, seed, chosen(name, content["tuning"], args.runs), args.runs)
            scores = {name: by_alphabet(learner, row, "test")}
            if row.n_support:
                scores[f"{name} (untold)"] = by_alphabet(learner, row, "test", untold=1.0)
            for label, of in scores.items():
                content["scores"].setdefault(label, {})[str(seed)] = of
                content["parameters"][label] = sum(p.numel() for p in learner.parameters())
            if (name, seed) == RECORDED:
                content["gradient_cosines"] = draw(folder / "hooks" / "cosines.json")
            write(out, content)
            print(json.dumps(next(line for line in content["summary"] if line["row"] == name)), flush=True)


if __name__ == "__main__":
    main()
