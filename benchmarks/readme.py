"""Writes the README's six measured numbers from the committed results: `python benchmarks/readme.py`.

`tables` are the longer ones of docs/measured.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from manifest import manifest, older, result

from metabox.files import write_text

README = Path(__file__).parents[1] / "README.md"
START, END = (
    "<!-- measured: written by benchmarks/readme.py from benchmarks/results/*.json -->",
    "<!-- end of measured -->",
)


def machine(result: dict[str, Any]) -> str:
    facts, row = result["environment"], result["rows"][0]
    commit = row["trained_at_commit"][:8]
    return f"{facts['cores']} cores of an {facts['cpu']}, torch {facts['torch']}, {row['precision']}, commit {commit}"


def learning() -> list[str]:
    omniglot, glyphs = (result(f"{name}-5w1s-incontext.json") for name in ("omniglot", "glyphs"))
    lines = [
        "Omniglot, 5-way 1-shot, meta-test characters of the 1028/172/423 split with rotations, 15 queries per class,",
        f"`omniglot-5w1s-incontext` trained from scratch ({machine(omniglot)}).",
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


OMNIGLOT = """\
The papers' budgets differ, and most are far larger. The last column is the accuracy after the classes of the
support have exchanged their names. Seconds differ from the budget if the machine became busy with other work
after the number of steps had been set."""
CIFAR_FS = """\
5-way, 15 queries of each class, 1,000 meta-test episodes of the 20 meta-test classes, 32x32 pixels, crops and flips in
training. No outside data; a query is predicted from the support alone. Seconds differ from the budget if the core
was shared after the number of steps had been set."""


def published(title: str, script: str, minutes: int, about: str) -> list[str]:
    """Learners under one budget, each beside its claim."""
    found = result(f"{script.replace('_', '-')}-{minutes}min.json")
    rows, facts = found["rows"], found["environment"]
    commits = ", ".join(sorted({row["trained_at_commit"][:8] for row in rows}))
    lines = [
        f"{title} under one budget: each learner from scratch, {minutes} min of training on {facts['threads']} core",
        f"of an {facts['cpu']} (torch {facts['torch']}, one seed, commits {commits}).",
        *about.splitlines(),
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
    return [*lines, "", f"Repeat: `OMP_NUM_THREADS=1 python benchmarks/{script}.py RECIPE... --minutes {minutes}`."]


def functions() -> list[str]:
    """Distances to known optima."""
    optimum, linear = (result(f"{name}.json") for name in ("functions-optimum", "incontext-linear"))
    peers = result("functions-peers.json")
    gap, run, beyond, other = optimum["gap"], optimum["run"], linear["beyond_dim"], linear["run"]
    lines = [
        "Functions whose best possible answer is known. Gaussian processes (`python benchmarks/functions.py optimum`):",
        f"after {run['training_seconds'] / 60:.0f} minutes on one core `{run['recipe']}` is {gap['mean']:.4f} nats per",
        f"point above the exact posterior on average over 0 to 30 context points, {gap['largest']:.4f} at worst.",
        "Linear functions in context (`python benchmarks/incontext.py linear`): after",
        f"{other['training_seconds'] / 60:.0f} minutes `{other['recipe']}` has a squared error at most",
        f"{beyond['largest_excess_percent']:.1f} % above Bayesian ridge regression's beyond {beyond['dim']} examples.",
        "",
        "Side by side with the package `neuralprocesses` on its 1-D EQ tasks (`python benchmarks/functions.py peers`),",
        f"nats per target above the diagonal oracle after {peers['seconds_of_training']} s of training each, one core:",
        "",
        "| model | metabox | neuralprocesses |",
        "| --- | ---: | ---: |",
    ]
    gaps: dict[str, dict[str, str]] = {}
    for row in peers["gaps"]:
        cell = f"{row['gap_nats_per_target']:.4f} ± {row['interval_95']:.4f}"
        gaps.setdefault(row["model"], {})[row["package"]] = cell
    return lines + [
        f"| {model} | {of.get('metabox', '')} | {of.get('neuralprocesses', '')} |" for model, of in gaps.items()
    ]


def one_minute() -> list[str]:
    """Black-box learners and the gradient baseline after one minute."""
    rows = result("omniglot-1min.json")["rows"]
    shown = [
        f"`{row['recipe']}` {row['accuracy_percent']:.2f} ± {row['interval_95_percent']:.2f} % ({row['steps']:,} steps)"
        for row in rows
    ]
    return ["The same after one minute:", ", ".join(shown[:-1]) + f" and {shown[-1]}." if len(shown) > 1 else shown[0]]


def streams() -> list[str]:
    """Streams of Omniglot, whole recipes; nothing before they are measured."""
    if "omniglot-streams.json" not in manifest()["files"]:
        return []
    shown = (1, 2, 5, 10)
    lines = [
        "Streams of Omniglot, each recipe as it is: accuracy in percent at the k-th instance of a class.",
        "",
        f"| recipe | seed | steps | hours | {' | '.join(map(str, shown))} | published, 2nd | names exchanged, 2nd |",
        "| --- " + "| ---: " * (len(shown) + 5) + "|",
    ]
    for row in result("omniglot-streams.json")["rows"]:
        at = " | ".join(f"{row[f'instance_{k}']:.1f}" if f"instance_{k}" in row else "" for k in shown)
        lines.append(
            f"| `{row['recipe']}` | {row['seed']} | {row['steps']:,} | {row['training_seconds'] / 3600:.1f} | {at} | "
            f"{row['claim']['published']} | {row['names_exchanged_percent']:.1f} |"
        )
    return [*lines, "", "Repeat: `OMP_NUM_THREADS=1 python benchmarks/omniglot_streams.py`."]


def sampling() -> list[str]:
    found = result("sampling.json")
    lines = [
        "Sampling Omniglot episodes in memory, 15 queries per class, 32 tasks per call,",
        "compared with a bare gather of the same bytes at precomputed indices, interleaved in one run",
        "(median, quartiles). Repeat: `python benchmarks/sampling.py`.",
        "",
        "| threads | task | quarter turns as classes | episodes/s | share of the bare gather's speed |",
        "| ---: | --- | --- | ---: | ---: |",
    ]
    for row in found["results"]:
        share = row["ratio"]
        lines.append(
            f"| {row['threads']} | {row['n_way']}-way {row['n_shot']}-shot | {'yes' if row['rotations'] else 'no'} | "
            f"{row['episodes_per_second']:,.0f} | {share['median']:.2f} ({share['q1']:.2f} to {share['q3']:.2f}) |"
        )
    packing = found["packing"]
    lines += [
        "",
        f"Packing all of Omniglot takes {packing['packing_s']:.1f} s, opening the pack {packing['opening_s']:.3f} s.",
    ]
    return lines


def speed() -> list[str]:
    """Speed relative to other packages, in one run."""
    found = result("speed.json")
    about = found["steps_measured_with"]
    steps = [row for row in found["steps"] if (row["way"], row["shot"], row["tasks"]) == (5, 1, 8)]
    shares = sorted((row["gflop_per_s"] / about["product_gflop_per_s"], row["learner"]) for row in steps)
    (low, slowest), (high, fastest) = shares[0], shares[-1]

    def listed(values: list[float]) -> str:
        return ", ".join(f"{value:.1f}" for value in values)

    rows: list[tuple[str, str, list[float]]] = [
        ("episodes of Omniglot, 5w1s and 20w5s", peer, [row["times_faster_than"][peer] for row in found["sampling"]])
        for peer in sorted(found["sampling"][0]["times_faster_than"])
    ]
    names = ", ".join(row["learner"] for row in found["processes"])
    default = ", ".join(dict.fromkeys(row["default_precision"] for row in found["processes"]))
    for who, how in (("metabox by default", default), ("metabox", "float32")):
        factors = [row["times_faster"][who] for row in found["processes"]]
        rows.append((f"training steps of {names}, {how}", "neuralprocesses, float32", factors))
    snail = [row["times_faster"] for row in found["snail"]]
    rows.append(("training queries of SNAIL, 5w1s and 20w1s", "one query per sequence", snail))
    names = ", ".join(row["learner"] for row in found["memory"])
    kept = [row["times_faster"] for row in found["memory"]]
    rows.append((f"training steps of 16 tasks, {names}", "the C library's default use of memory", kept))
    return [
        f"Speed on one core of an {about['cpu']} (torch {about['torch']}, `python benchmarks/speed.py`, full tables in",
        "`docs/speed.md`). Training steps of image learners reach",
        f"{100 * low:.0f} % ({slowest}) to {100 * high:.0f} % ({fastest}) of the machine's matrix rate.",
        "",
        "| what | compared with | times as fast |",
        "| --- | --- | ---: |",
        *(f"| {what} | {beside} | {listed(factors)} |" for what, beside, factors in rows),
    ]


def versions() -> list[str]:
    """How many results are of an older version of metabox."""
    files, old = manifest()["files"], older()
    return [
        f"{len(files) - len(old)} of {len(files)} results are of the version of metabox that was measured last;",
        "the others have rows of older ones (`python benchmarks/all.py --list`), with their commits.",
    ]


def tables() -> str:
    """The tables of docs/measured.md, as Markdown."""
    parts = {
        "Learning, by budget": learning(),
        "Omniglot, one budget for all": [
            *published("Omniglot", "omniglot", 8, OMNIGLOT),
            "",
            *one_minute(),
        ],
        **({"Streams of Omniglot": found} if (found := streams()) else {}),
        "CIFAR-FS, one budget for all": published("CIFAR-FS", "cifar_fs", 8, CIFAR_FS),
        "Functions": functions(),
        "Speed": speed(),
        "Sampling": sampling(),
        "Age": versions(),
    }
    return "\n".join(line for title, lines in parts.items() for line in [f"## {title}", "", *lines, ""])


def row_of(name: str, key: str = "rows", **wanted: object) -> dict[str, Any]:
    """The one row of a result that has these values."""
    (row,) = (row for row in result(name)[key] if wanted.items() <= row.items())
    return dict(row)


def headlines() -> list[str]:
    """One line for each of a few things that were measured."""

    def percent(row: dict[str, Any]) -> str:
        return f"{row['accuracy_percent']:.2f} ± {row['interval_95_percent']:.2f} %"

    record = result("records-record.json")["rows"][0]
    five, twenty = (
        next(row for row in record["accuracies"] if row["task"] == f"Omniglot {setting}" and row["views"] > 1)
        for setting in ("5w1s", "20w1s")
    )
    lake = result("lake.json")
    runs = next(row for row in lake["runs_mean_of_seeds"] if row["views"] > 1)
    each = max(row["processor_seconds"] for row in lake["rows"])
    photos = row_of("photos.json", learner="photos", task="CIFAR-FS 5w5s")
    gap = result("functions-optimum.json")
    ours, theirs = (
        row_of("functions-peers.json", "gaps", model="ConvCNP", package=p)["gap_nats_per_target"]
        for p in ("metabox", "neuralprocesses")
    )
    of_streams = [
        row_of("omniglot-streams.json", recipe=f"omniglot-stream5-{name}", seed=0) for name in ("mann", "mann-cpu")
    ]
    default, tuned = (
        row_of("tables-report.json", "classes", estimator=name) for name in ("random forest", "random forest, tuned")
    )
    times = result("speed.json")["sampling"][0]["times_faster_than"]
    rows = [
        (
            "Omniglot 5-way and 20-way 1-shot, one network from scratch",
            f"{record['processor_seconds'] / 60:.0f} minutes of a core",
            f"{percent(five)} and {percent(twenty)}",
            "leaderboards",
        ),
        (
            "Lake's 20 runs, error (people: 4.5 %), " + f"{runs['seeds']} seeds",
            f"{each / 60:.0f} minutes of a core",
            f"{runs['error_percent']:.2f} ± {runs['interval_95_percent_over_seeds']:.2f} %",
            "leaderboards",
        ),
        ("CIFAR-FS 5-way 5-shot, model `photos`", "comes trained; features of ImageNet", percent(photos), "models"),
        (
            "Gaussian process, above the exact posterior",
            f"{gap['run']['training_seconds'] / 60:.0f} minutes of a core",
            f"{gap['gap']['mean']:.4f} nats a point",
            "functions",
        ),
        (
            "ConvCNP, above the oracle; `neuralprocesses`: " + f"{theirs:.4f}",
            "100 seconds of a core",
            f"{ours:.4f} nats a point",
            "functions",
        ),
        (
            f"{default['tables']} real tables, `tabular-small`: AUC above a random forest, default and tuned (90 %)",
            "comes trained; made-up tables",
            " and ".join(f"{row['ours_above']:.3f} ({row['from']:.3f} to {row['to']:.3f})" for row in (default, tuned)),
            "guides/tables",
        ),
        (
            f"MANN in streams of Omniglot, 2nd instance (paper: {of_streams[0]['claim']['published']} %), "
            "and behind convolutions",
            " and ".join(f"{row['training_seconds'] / 60:.0f}" for row in of_streams) + " minutes of a core",
            " and ".join(f"{row['instance_2']:.2f} ± {row['interval_95_of_instance_2']:.2f} %" for row in of_streams),
            "concepts",
        ),
        ("Drawing episodes of Omniglot", "", f"{times['easyfsl']:.0f} times as fast as `easyfsl`", "speed"),
    ]
    return [
        "| measured | training | result | more |",
        "| --- | --- | ---: | --- |",
        *(f"| {what} | {cost} | {number} | [{Path(page).name}](docs/{page}.md) |" for what, cost, number, page in rows),
    ]


def filled() -> str:
    """The README with the numbers of the committed results."""
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, "", *headlines(), "", END + after])


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if filled() == README.read_text(encoding="utf-8") else "README.md differs; run benchmarks/readme.py")
    write_text(README, filled())
