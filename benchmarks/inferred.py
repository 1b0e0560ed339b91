"""One exam for alphabets and for spam: a network that was told its task in training is told it, shown it, or both.

    OMP_NUM_THREADS=1 python benchmarks/inferred.py                            # three seeds of each
    OMP_NUM_THREADS=1 python benchmarks/inferred.py --sets spam --share 0.1    # a trial with a tenth of the steps

Each network is that of the recipe alphabets-both or spam-both, trained with z alone. In the test it answers the same
queries with z; with 1, 5 or 20 examples by which Bayes' rule infers the task; with both; and with a z that names
another task in a tenth of the episodes, alone and beside examples. The examples are validation rows: nothing was
trained on them (the alphabets' are by other people). Writes results/inferred.json beside this file; a finished run is
not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from readings import log_of

import metabox
from metabox.cli.main import main as command
from metabox.episodes import Episodes
from metabox.evaluation import interval_of
from metabox.files import read_json, write_json
from metabox.learners.base import Learner
from metabox.recipe import load_run
from metabox.tasks.multitask.alphabets import Alphabets
from metabox.tasks.multitask.spam import MadeMail
from metabox.tasks.named import FiniteTasks
from metabox.tasks.place import Place
from metabox.tasks.wrappers.base import Wrapper
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "inferred.json", "tier": "full", "minutes": 30, "threads": 1, "data": True},
]

RESULTS = Path(__file__).parent / "results" / "inferred.json"
WRONG = 10  # one task in so many is told wrongly
EVERYTHING = {"alphabets": 220, "spam": 100}  # rows of the largest task in a split
TASKS: dict[str, Callable[..., FiniteTasks]] = {"alphabets": Alphabets, "spam": MadeMail}
Row = dict[str, Any]


class Exam(NamedTuple):
    """What is given at test: the number of examples, and z: "none", "right", or "a tenth wrong"."""

    examples: int
    z: str


EXAMS = {
    "told": Exam(0, "right"),
    "shown 1": Exam(1, "none"),
    "shown 5": Exam(5, "none"),
    "shown 20": Exam(20, "none"),
    "told and shown 5": Exam(5, "right"),
    "told and shown 20": Exam(20, "right"),
    "told, a tenth wrongly": Exam(0, "a tenth wrong"),
    "told, a tenth wrongly, and shown 20": Exam(20, "a tenth wrong"),
}
WANTED = {
    "alphabets": (
        ("told", None, 82.5),
        ("shown 5", "told", -1.5),
        ("shown 1", "told", -15.0),
        ("told and shown 5", "told", -0.3),
        ("told and shown 20", "told", -0.3),
        ("told, a tenth wrongly, and shown 20", "told, a tenth wrongly", 5.0),
    ),
}
"""The least accuracy wanted: of a row, or above another row."""


class WronglyTold(Wrapper):
    """The tasks of another sampler, of which z names another task in one of WRONG rounds over all of them."""

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        z, k = episodes.descriptor, len(self.tasks.spec.tasks)
        assert z is not None
        number = torch.arange(place.first, place.first + len(z))
        wrong = (number // k + number) % WRONG == 0
        other = torch.from_numpy(place.draws("wrongly told").integers("other", 1, k - 1, 1))[:, 0]
        named = (z.argmax(1) + other) % k
        return replace(episodes, descriptor=torch.where(wrong[:, None], torch.eye(k)[named].to(z), z))


def trained(name: str, seed: int, args: argparse.Namespace) -> tuple[Learner, Path]:
    out = args.runs / f"inferred-{name}-{args.share:g}-seed{seed}"
    words = ["--seed", str(seed), "--out", str(out)] + (["--data-root", args.data_root] if args.data_root else [])
    if args.share != 1:
        steps = max(10, int(args.share * {"alphabets": 900, "spam": 2000}[name]))
        words += ["--outer.steps", str(steps), "--outer.validate_every", str(steps), "--outer.warmup", str(steps // 10)]
    if command(["train", f"{name}-both", "--n_test", "1", *words]):
        raise SystemExit(2)
    return load_run(out)[0], out


def accuracy(learner: Learner, name: str, exam: Exam, args: argparse.Namespace) -> float:
    """In percent, the mean over tasks; in as many rounds over the tasks as each is told wrongly in one of them."""
    where = {"data_root": args.data_root} if args.data_root and name == "alphabets" else {}
    tasks = TASKS[name](
        n_support=exam.examples,
        n_query=EVERYTHING[name],
        untold=float(exam.z == "none"),
        support_split="val" if exam.examples else None,
        **where,
    )
    rounds = 1 if exam == EXAMS["told"] else WRONG
    of = WronglyTold(tasks) if exam.z == "a tenth wrong" else tasks
    found = metabox.evaluate(learner, of, n_tasks=rounds * len(tasks.spec.tasks), batch=10)
    return 100 * fmean(found.by_task("accuracy").values())


def summary(scores: dict[str, dict[str, float]], name: str) -> list[Row]:
    """A line for each exam: accuracy over seeds, and the difference to "told" within a seed."""
    lines = []
    for exam in EXAMS:
        values = [of[exam] for of in scores.values()]
        above = [of[exam] - of["told"] for of in scores.values()]
        line: Row = {"given": exam, "seeds": len(values), "accuracy_percent": round(fmean(values), 2)}
        line |= {"interval_95": round(interval_of(values), 2) if len(values) > 1 else None}
        line |= {"above_told": round(fmean(above), 2)}
        lines.append(line)
    of_row = {line["given"]: line["accuracy_percent"] for line in lines}
    for row, other, least in WANTED.get(name, ()):
        line = next(line for line in lines if line["given"] == row)
        what = f"at least {least:g}" if other is None else f"at least {least:+g} to {other}"
        line |= {"wanted": what, "reached": of_row[row] - (of_row[other] if other else 0) >= least}
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0, help="of the recipe's steps, for a trial")
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    content: dict[str, Any] = read_json(args.out) if args.out.exists() else {}
    for name in args.sets:
        scores, spent = {}, []
        for seed in args.seeds:
            learner, folder = trained(name, seed, args)
            if not (kept := folder / "exam.json").exists():
                write_json(kept, {exam: accuracy(learner, name, given, args) for exam, given in EXAMS.items()})
            scores[str(seed)] = read_json(kept)
            spent.append(log_of(folder)[-1])
            content[name] = summary(scores, name)
            steps, hours = spent[-1]["step"], sum(line["seconds"] for line in spent) / 3600
            content[f"{name}_training"] = {"steps": steps, "hours_of_all_seeds": round(hours, 3)}
            write_json(args.out, content | {"environment": collect_environment()})
            print(json.dumps({"set": name, "seed": seed} | scores[str(seed)]), flush=True)


if __name__ == "__main__":
    main()
