"""Tables of published recipes under one common budget of training time, each result beside its claim."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from budget import row
from readings import log_of

from metabox.cli.main import main as metabox
from metabox.discover import recipes
from metabox.files import read_json, write_json
from metabox.training.environment import collect_environment


def seconds_per_step(recipe: str, more: list[str]) -> float:
    """The mean time of a training step, without the first ten."""
    with tempfile.TemporaryDirectory() as folder:
        short = ["--outer.steps", "40", "--outer.validate_every", "10", "--outer.n_validation", "1", "--n_test", "1"]
        if metabox(["train", recipe, *short, "--out", folder, *more]):
            raise SystemExit(2)
        lines = log_of(folder)
        at = {line["step"]: line["seconds"] for line in lines if "val" in line}
    return float(at[40] - at[10]) / 30


def steps_for(recipe: str, seconds: float, kept: Path, more: list[str]) -> int:
    """How many steps fit; measured once and then kept, so that a stopped run resumes with the same number."""
    if not kept.exists():
        write_json(kept, {"steps": max(100, int(seconds / seconds_per_step(recipe, more)))})
    return int(read_json(kept)["steps"])


def table(title: str, usual: str, about: str) -> None:
    """Train, evaluate, and write results/TITLE-MINUTESmin.json beside this file.

    A recipe is trained unchanged, with as many steps as fit into the budget: the time of a step is measured first, so
    that the schedule of the learning rate ends in time. Validation is not counted. A stopped run resumes when the
    script is called again, and a finished one is not repeated.

    Args:
        title: start of the file's name.
        usual: pattern of the recipes that are trained by default, such as "cifarfs-*-cpu".
        about: the help text of the script.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help=f"by default all {usual}")
    parser.add_argument("--minutes", type=float, default=8, help="of training for each recipe and seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    more = ["--data-root", args.data_root] if args.data_root else []
    names = args.recipes or [name for name in recipes() if Path(name).match(usual)]
    out = Path(__file__).parent / "results" / f"{title}-{args.minutes:g}min.json"
    rows: list[dict[str, Any]] = read_json(out)["rows"] if out.exists() else []
    for name in names:
        for seed in args.seeds:
            steps = steps_for(name, 60 * args.minutes, args.runs / f"{name}-{args.minutes:g}min.json", more)
            got = row(name, steps, seed, args.runs, [*more, "--outer.warmup", str(min(500, steps // 10))])
            rows = [r for r in rows if (r["recipe"], r["seed"]) != (name, seed)] + [got]
            rows.sort(key=lambda r: (-r["accuracy_percent"], r["recipe"]))
            write_json(out, {"minutes_of_training": args.minutes, "environment": collect_environment(), "rows": rows})
            print(json.dumps(got))
