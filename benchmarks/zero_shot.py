"""Zero-shot: tasks that were never trained, told by their description alone, for every learner that is told a task.

    python benchmarks/zero_shot.py --data-root DIR          # both parts, twelve minutes of one core
    python benchmarks/zero_shot.py regressions --seeds 0    # one of them; the other in the file stays

`regressions`: `DescribedRegressions`, 64 tasks trained and 16 held out by name. `gap_to_oracle` is the distance to the
best zero-shot predictor, in nats per query; the row "told nothing" has one description for all tasks.

`alphabets`: those of Omniglot, 40 trained and 10 held out by name. Chance is one of the characters of an alphabet.
Labels of characters follow the order of the alphabet, which a description can tell, and their shapes do not.

Every learner has the same steps and rows, and the settings of SETTINGS, which were not searched for each. The score is
that of the test rows of the tasks held out, after training chose its weights on validation rows of the others. A
finished run is not repeated. Writes results/zero-shot.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from metabox import Learner, OuterLoop, evaluate, run
from metabox.evaluation import Scores, interval_of
from metabox.files import read_json, write_json
from metabox.learners import PLE, CrossStitch, HardSharing, HyperNetwork, Independent, MMoE, SoftSharing
from metabox.nn.backbones import MLP, Conv4
from metabox.nn.conditioning import Add, Concat, FiLM, Gate
from metabox.tasks.descriptors import Descriptor, Metadata, Specification, Text
from metabox.tasks.multitask.alphabets import Alphabets
from metabox.tasks.multitask.regressions import DescribedRegressions
from metabox.tasks.named import FiniteTasks
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "zero-shot.json", "tier": "full", "minutes": 12, "threads": 1, "data": True},
]

OUT = Path(__file__).parent / "results" / "zero-shot.json"
Row = dict[str, Any]


class Nothing(Descriptor):
    """The same of all tasks."""

    def vectors(self, tasks: Any) -> Tensor:
        return torch.ones(len(tasks), 1)


small = partial(MLP, width=64, depth=2)
heads = partial(HardSharing, backbone=small)
FAMILY: dict[str, Callable[..., Learner]] = {
    "heads": heads,
    "concatenation at the input": partial(heads, condition=Concat, at="input"),
    "concatenation at all layers": partial(heads, condition=Concat, at="all"),
    "addition at the input": partial(heads, condition=Add, at="input"),
    "addition at all layers": partial(heads, condition=Add, at="all"),
    "gate at all layers": partial(heads, condition=Gate, at="all"),
    "FiLM at all layers": partial(heads, condition=FiLM, at="all"),
    "independent": partial(Independent, width=64),
    "soft sharing": partial(SoftSharing, width=64),
    "MMoE": partial(MMoE, expert_size=32, tower_size=32),
    "CGC, PLE of one level": partial(PLE, levels=1),
    "hypernetwork": partial(HyperNetwork, backbone=small, width=64),
    "cross-stitch": partial(CrossStitch, width=16),  # every row through all networks
}
image = partial(Conv4, width=32, downsample="stride")
OF_IMAGES: dict[str, Callable[..., Learner]] = {
    "heads": partial(HardSharing, backbone=image),
    "concatenation at the input": partial(HardSharing, backbone=image, condition=Concat, at="input"),
    "FiLM in the backbone, heads": partial(HardSharing, backbone=image, film=True),
    "gate": partial(HardSharing, backbone=image, condition=Gate),
}
SETTINGS = {
    "regressions": OuterLoop(
        steps=600, n_tasks=16, lr=1e-2, weight_decay=1.0, warmup=30, validate_every=200, n_validation=64
    ),
    "alphabets": OuterLoop(
        steps=200, n_tasks=16, lr=1e-2, weight_decay=0.3, warmup=20, validate_every=100, n_validation=40
    ),
}
HELD_OUT = (
    *("Armenian", "Bengali", "Cyrillic", "Futurama", "Gujarati", "Hebrew", "Japanese_(katakana)"),
    *("Mkhedruli_(Georgian)", "Ojibwe_(Canadian_Aboriginal_Syllabics)", "Syriac_(Serto)"),
)


def regressions(descriptor: Descriptor, n_query: int, root: str | None) -> FiniteTasks:
    untrained = tuple(f"task-{k}" for k in range(64, 80))
    return DescribedRegressions(n_query=n_query, descriptor=descriptor, untrained=untrained)


def alphabets(descriptor: Descriptor, n_query: int, root: str | None) -> FiniteTasks:
    return Alphabets(descriptor=descriptor, n_query=n_query, untrained=HELD_OUT, data_root=root)


PARTS: dict[str, tuple[Any, dict[str, Callable[..., Learner]], dict[str, Descriptor], int, int]] = {
    "regressions": (regressions, FAMILY, {"metadata": Metadata(), "text": Text()}, 32, 50),
    "alphabets": (alphabets, OF_IMAGES, {"specification": Specification(), "text": Text()}, 32, 220),
}
"""Tasks, learners, ways to tell a task, and the queries of a training step and of an evaluation."""


def measured(part: str, name: str, how: str, seed: int, args: argparse.Namespace) -> Row:
    """Train and evaluate once."""
    sampler, learners, ways, trained_on, judged_on = PARTS[part]
    told = Nothing() if how == "nothing" else ways[how]
    tasks, judged = (sampler(told, n, args.data_root) for n in (trained_on, judged_on))
    out = args.runs / f"{part}-{re.sub('[ ,]+', '-', name)}-{how}-seed{seed}"
    learner = run(tasks, learners[name], SETTINGS[part], evaluation=judged, seed=seed, out=out)
    held_out = len(tasks.spec.untrained)
    new = evaluate(learner, judged, split="test", n_tasks=held_out, batch=10)
    old = evaluate(learner, judged, split="val", n_tasks=len(tasks.spec.trained), batch=10)
    size = sum(p.numel() for p in learner.parameters())
    return {"parameters": size, "new": numbers(new), "old": numbers(old)}


def numbers(scores: Scores) -> dict[str, float]:
    return {
        name: scores.mean(name) for name in ("gap_to_oracle", "squared_error", "accuracy") if name in scores.per_task
    }


def row(part: str, name: str, how: str, args: argparse.Namespace) -> Row:
    """A learner with one kind of descriptor, over seeds."""
    runs = [measured(part, name, how, seed, args) for seed in args.seeds]
    found: Row = {"learner": name, "told": how, "parameters": runs[0]["parameters"], "seeds": len(runs)}
    for metric in runs[0]["new"]:
        values = [one["new"][metric] for one in runs]
        found[metric] = round(mean(values), 4)
        if metric != "squared_error":
            found[f"{metric}_interval_95"] = round(interval_of(values), 4) if len(values) > 1 else None
            found[f"{metric}_of_trained_tasks"] = round(mean(one["old"][metric] for one in runs), 4)
    return found


def part_of(part: str, args: argparse.Namespace, content: Row) -> None:
    """Measure the rows of a part one by one, and write each."""
    _, learners, ways, *_ = PARTS[part]
    content[f"{part}_measured_with"] = facts(part, args.data_root) | collect_environment()
    content[part] = []
    for name, how in [("heads", "nothing"), *((name, how) for name in learners for how in ways)]:
        content[part].append(row(part, name, how, args))
        print(json.dumps(content[part][-1]), flush=True)
        write_json(OUT, content)


def facts(part: str, root: str | None) -> Row:
    """What scores are to be compared with."""
    tasks = PARTS[part][0](Nothing(), 220, root)
    if part == "regressions":
        return {"noise_variance": round(tasks.noise**2, 4), "trained": 64, "held_out": 16}
    rows = tasks.load()
    chance = mean(1 / int(rows.ways[rows.spec.tasks.index(name)]) for name in HELD_OUT)
    return {"chance": round(chance, 4), "trained": 40, "held_out": ", ".join(HELD_OUT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS), help=" ".join(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/zero-shot"))
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"expected parts among {list(PARTS)}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    content = read_json(OUT) if OUT.exists() else {}
    for part in args.parts:
        part_of(part, args, content)


if __name__ == "__main__":
    main()
