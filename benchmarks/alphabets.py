"""Case study: 50 alphabets as tasks. Conditioning, sharing and weighting, each against one network per alphabet.

    python benchmarks/alphabets.py                        # every row, three seeds; about an hour on one core
    python benchmarks/alphabets.py heads single --seeds 0 # some of them; the others in the file stay

All see the same number of images, and their networks have the same layers up to what is compared. The learning rate and
the weight decay of the plain sum ("heads") and of single-task training are chosen on the validation drawers; all others
take those of the plain sum. The test drawers are for the numbers that are written: results/alphabets.json beside this
file, and the figure of gradient cosines. A run that is finished is not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from metabox import Learner, OuterLoop, evaluate, run
from metabox.data.alphabets import Alphabets
from metabox.environment import facts
from metabox.episodes import Split
from metabox.files import read_json, write_json, write_whole
from metabox.learners import PLE, HardSharing, Independent, MMoE
from metabox.nn.backbones import Conv4
from metabox.nn.conditioning import Add, Concat, FiLM, Gate
from metabox.transfer import figure, hint, read_cosines, table
from metabox.weighting import DWA, GradNorm, Random, Surgery, Uncertainty, WorstCase

SMALL = partial(Conv4, width=32, downsample="stride")
SUPPORT = 20
EVERYTHING = 1000  # queries: more than any alphabet has in a split
OUTER = OuterLoop(steps=600, n_tasks=16, warmup=50, validate_every=200, n_validation=50)
GRID: list[dict[str, Any]] = [{"lr": lr, "weight_decay": decay} for lr in (2e-3, 5e-3, 1e-2) for decay in (1e-4, 0.1)]


class Row(NamedTuple):
    """One line of the table: what is trained, how, and on what."""

    learner: Callable[..., Learner]
    weighting: Callable[[int], Any] | None = None
    n_support: int = 0
    untold: float = 0.0


heads = partial(HardSharing, backbone=SMALL)
experts = {"backbone": SMALL, "expert_size": 64, "tower_size": 64}
ROWS = {
    "single": Row(partial(Independent, width=32)),
    "heads": Row(heads),
    "concat": Row(partial(heads, condition=Concat)),
    "add": Row(partial(heads, condition=Add)),
    "gate": Row(partial(heads, condition=Gate)),
    "film": Row(partial(heads, condition=FiLM)),
    "film in the backbone, heads": Row(partial(heads, film=True)),
    "mmoe": Row(partial(MMoE, n_experts=8, **experts)),
    "ple": Row(partial(PLE, levels=1, **experts)),
    "heads, uncertainty": Row(heads, Uncertainty),
    "heads, gradnorm": Row(heads, GradNorm),
    "heads, dwa": Row(heads, DWA),
    "heads, random weights": Row(heads, Random),
    "heads, worst case": Row(heads, WorstCase),
    "heads, pcgrad": Row(heads, partial(Surgery, method="pcgrad")),
    "heads, code inferred": Row(partial(heads, code="inferred"), n_support=SUPPORT),
    "heads, code told and inferred": Row(partial(heads, code="both"), n_support=SUPPORT, untold=0.5),
}
TUNED = ("heads", "single")


def trained(name: str, seed: int, outer: OuterLoop, out: Path) -> Learner:
    row = ROWS[name]
    tasks = Alphabets(n_support=row.n_support, n_query=32, untold=row.untold)
    return run(tasks, row.learner, outer, weighting=row.weighting, seed=seed, out=out)


def by_alphabet(learner: Learner, name: str, split: Split, untold: float = 0.0) -> dict[str, float]:
    """The accuracy on all drawings of the split, in percent."""
    tasks = Alphabets(n_support=ROWS[name].n_support, n_query=EVERYTHING, untold=untold)
    scores = evaluate(learner, tasks, split=split, n_tasks=len(tasks.spec.tasks), batch=10)
    return {alphabet: round(100 * value, 2) for alphabet, value in scores.by_task("accuracy").items()}


def tune(runs: Path) -> list[dict[str, Any]]:
    """Validation accuracies over GRID, one seed."""
    found = []
    for name in TUNED:
        for i, setting in enumerate(GRID):
            learner = trained(name, 0, replace(OUTER, **setting), runs / f"{name}-tune{i}")
            found.append(
                {"row": name, **setting, "validation_percent": mean(by_alphabet(learner, name, "val").values())}
            )
    return found


def chosen(tuning: list[dict[str, Any]], name: str) -> OuterLoop:
    of = [line for line in tuning if line["row"] == (name if name in TUNED else "heads")]
    best = max(of, key=lambda line: line["validation_percent"])
    return replace(OUTER, lr=best["lr"], weight_decay=best["weight_decay"])


def against_single(scores: dict[str, dict[str, dict[str, float]]], name: str) -> list[dict[str, Any]]:
    """The per-alphabet table of `metabox.transfer` over the seeds that both have."""
    seeds = [seed for seed in scores[name] if seed in scores["single"]]
    multi, single = ({a: [scores[n][s][a] for s in seeds] for a in scores[n][seeds[0]]} for n in (name, "single"))
    return table(multi, single)


def summary(scores: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    lines = []
    for name, of_seeds in scores.items():
        line: dict[str, Any] = {"row": name, "seeds": len(of_seeds)}
        line["accuracy_percent"] = round(mean(mean(one.values()) for one in of_seeds.values()), 2)
        line["worst_alphabet_percent"] = round(mean(min(one.values()) for one in of_seeds.values()), 2)
        if set(of_seeds) & set(scores.get("single", {})):
            *alphabets, average = against_single(scores, name)
            line |= {"delta_percent": average["delta"], "delta_interval_95": average["interval_95"]}
            line["alphabets_that_lost"] = sum(row["delta"] < 0 for row in alphabets)
        lines.append(line)
    return lines


def write(out: Path, content: dict[str, Any]) -> None:
    scores = content["scores"]
    content |= {"environment": facts(), "settings": {"steps": OUTER.steps, "images_of_a_step": 32 * OUTER.n_tasks}}
    content["summary"] = summary(scores)
    if {"heads", "single"} <= set(scores):
        content["heads_against_single"] = against_single(scores, "heads")
    write_json(out, content)


def draw(recorded: Path) -> str:
    """The figure of the gradient cosines, and what they hint at."""
    names, steps, cosines = read_cosines(recorded)
    drawing = figure(names, steps, cosines)
    out = Path(__file__).parents[1] / "docs" / "_static" / "alphabets-cosines.svg"
    write_whole(out, lambda tmp: drawing.savefig(tmp, format="svg"))
    return str(hint(cosines, names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS), metavar="ROW", help=f"among {', '.join(ROWS)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/alphabets"))
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"expected rows among {list(ROWS)}, got {sorted(unknown)}")
    out = Path(__file__).parent / "results" / "alphabets.json"
    content: dict[str, Any] = read_json(out) if out.exists() else {"tuning": tune(args.runs), "scores": {}}
    for seed in args.seeds:
        for name in args.rows:
            outer = replace(chosen(content["tuning"], name), cosines_every=20 if (name, seed) == ("heads", 0) else 0)
            folder = args.runs / f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}"
            learner = trained(name, seed, outer, folder)
            scores = {name: by_alphabet(learner, name, "test")}
            if ROWS[name].untold:
                scores = {f"{name}: told": scores[name], f"{name}: not told": by_alphabet(learner, name, "test", 1.0)}
            for label, of in scores.items():
                content["scores"].setdefault(label, {})[str(seed)] = of
            if outer.cosines_every:
                content["hint"] = draw(folder / "cosines.json")
            write(out, content)
            print(json.dumps(content["summary"][-1]), flush=True)


if __name__ == "__main__":
    main()
