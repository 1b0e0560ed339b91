"""Writes the README's section of measured numbers from the committed results: `python benchmarks/readme.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from metabox.files import read_json, write_text

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
START, END = (
    "<!-- measured: written by benchmarks/readme.py from benchmarks/results/*.json -->",
    "<!-- end of measured -->",
)


def machine(result: dict[str, Any]) -> str:
    facts, row = result["environment"], result["rows"][0]
    commit = row["trained_at_commit"][:8]
    return f"{facts['cores']} cores of an {facts['cpu']}, torch {facts['torch']}, {row['precision']}, commit {commit}"


def learning() -> list[str]:
    omniglot, glyphs = (read_json(RESULTS / f"{name}-5w1s-incontext.json") for name in ("omniglot", "glyphs"))
    lines = [
        "Omniglot, 5-way 1-shot, meta-test characters of the 1028/172/423 split with rotations, 15 queries per class,",
        f"`omniglot-5w1s-incontext` trained from nothing ({machine(omniglot)}).",
        "The interval is over episodes.",
        "",
        "| budget: training time | steps | accuracy | calibration error | episodes |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in omniglot["rows"]:
        lines.append(
            f"| {row['training_seconds'] / 60:.1f} min | {row['steps']:,} | {row['accuracy_percent']:.2f} ± "
            f"{row['interval_95_percent']:.2f} % | {row['calibration_error']:.3f} | {row['test_episodes']:,} |"
        )
    (row,) = glyphs["rows"]
    steps = " ".join(str(row["steps"]) for row in omniglot["rows"])
    lines += [
        "",
        f"The first command above, on glyphs that it never saw, 5-way 1-shot: {row['accuracy_percent']:.2f} ± "
        f"{row['interval_95_percent']:.2f} % after {row['training_seconds'] / 60:.1f} minutes of training.",
        f"Repeat: `python benchmarks/budget.py omniglot-5w1s-incontext --steps {steps}`",
        "and `python benchmarks/budget.py glyphs-5w1s-incontext`.",
    ]
    return lines


def published(minutes: int) -> list[str]:
    """Learners under one budget, each beside its claim."""
    result = read_json(RESULTS / f"omniglot-{minutes}min.json")
    rows, facts = result["rows"], result["environment"]
    commits = ", ".join(sorted({row["trained_at_commit"][:8] for row in rows}))
    lines = [
        f"Omniglot under one budget: each learner from nothing, {minutes} min of training on {facts['threads']} core",
        f"of an {facts['cpu']} (torch {facts['torch']}, one seed, commits {commits}).",
        "The papers had budgets of their own, mostly far larger. `stream5` is the sequence of Santoro et al. 2016,",
        "scored at the 2nd instance of a class, 20 % being chance; all else is 5-way 1-shot. The last column is the",
        "accuracy after the classes of the support have exchanged their names. Seconds differ from the budget where",
        "the machine was busy with other work after the steps had been counted out.",
        "",
        "| recipe | seconds | steps | measured % | published % | short by | names exchanged % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        claim = row["claim"]
        measured, printed, short = f"{row['accuracy_percent']:.2f} ± {row['interval_95_percent']:.2f}", "", ""
        if claim:
            printed, short = f"{claim['published']:.1f}, {claim['source']}", f"{claim['short_by']:.2f}"
            measured = measured if claim["metric"] == "accuracy" else f"{claim['measured']:.2f}"
        lines.append(
            f"| `{row['recipe']}` | {row['training_seconds']:.0f} | {row['steps']:,} | {measured} | {printed} | "
            f"{short} | {100 * row['memorisation']['accuracy_renamed']:.1f} |"
        )
    return [*lines, "", f"Repeat: `OMP_NUM_THREADS=1 python benchmarks/omniglot.py RECIPE... --minutes {minutes}`."]


def one_minute() -> list[str]:
    """Black boxes and the gradient baseline after one minute."""
    rows = read_json(RESULTS / "omniglot-1min.json")["rows"]
    shown = [
        f"`{row['recipe']}` {row['accuracy_percent']:.2f} ± {row['interval_95_percent']:.2f} % ({row['steps']:,} steps)"
        for row in rows
    ]
    return ["The same after one minute:", ", ".join(shown[:-1]) + f" and {shown[-1]}." if len(shown) > 1 else shown[0]]


def sampling() -> list[str]:
    result = read_json(RESULTS / "sampling.json")
    lines = [
        "Sampling Omniglot episodes in memory, 15 queries per class, 32 tasks a call,",
        "beside the bare gather of the same bytes with indices known beforehand, interleaved in one run",
        "(median, quartiles). Repeat: `python benchmarks/sampling.py`.",
        "",
        "| threads | task | quarter turns as classes | episodes/s | share of the bare gather's speed |",
        "| ---: | --- | --- | ---: | ---: |",
    ]
    for row in result["results"]:
        share = row["ratio"]
        lines.append(
            f"| {row['threads']} | {row['n_way']}-way {row['n_shot']}-shot | {'yes' if row['rotations'] else 'no'} | "
            f"{row['episodes_per_second']:,.0f} | {share['median']:.2f} ({share['q1']:.2f} to {share['q3']:.2f}) |"
        )
    packing = result["packing"]
    lines += [
        "",
        f"Packing all of Omniglot takes {packing['packing_s']:.1f} s, opening the pack {packing['opening_s']:.3f} s.",
    ]
    return lines


def filled() -> str:
    """The README as the committed results would have it."""
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return "\n".join(
        [before + START, "", *learning(), "", *published(8), "", *one_minute(), "", *sampling(), "", END + after]
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if filled() == README.read_text(encoding="utf-8") else "README.md differs; run benchmarks/readme.py")
    write_text(README, filled())
