"""The content of a report as blocks, for a page, a Markdown file or another medium."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metabox.reports import figures
from metabox.reports.figures import Picture
from metabox.reports.metrics import scale


@dataclass(frozen=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[str]]
    kind: str = "table"


@dataclass(frozen=True)
class Facts:
    title: str
    pairs: list[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Code:
    title: str
    text: str
    folded: bool = False
    kind: str = "code"


@dataclass(frozen=True)
class Task:
    """A task in pictures: images of the support, and images of queries with their predictions."""

    title: str
    support: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    kind: str = "task"


CURVES = ("val accuracy", "val accuracy_instance_2", "val nll", "train loss")
"""The learning curves of a report, of what runs have."""

Block = Table | Facts | Code | Picture | Task


@dataclass(frozen=True)
class Section:
    title: str
    note: str = ""
    blocks: list[Block] = field(default_factory=list)


def sections(content: dict[str, Any]) -> list[Section]:
    """The sections of a report's content, as gathered by `page.write_report`, in reading order."""
    runs = content["runs"]
    return [
        *(_claim(table) for table in content["claims"]),
        *([_comparisons(content["comparisons"])] if content["comparisons"] else []),
        _curves(runs),
        *(_run(run) for run in runs),
        _recipes([row for table in content["claims"] for row in table["rows"]]),
    ]


def _claim(table: dict[str, Any]) -> Section:
    claim, row = table["claim"], table["rows"][0]
    unit = row["unit"]
    published = "none"
    if claim:
        interval = "" if claim["interval"] is None else f" ± {claim['interval']:g}"
        published = f"{claim['value']:g}{interval} {unit}".strip() + ("" if claim["verified"] else " (not verified)")
    rows = [
        [
            row["recipe"],
            published,
            "; ".join(
                f"{_number(seed['mean'], seed['interval_95'], unit)} (seed {seed['seed']})" for seed in row["seeds"]
            ),
            _spread(row),
            row["verdict"],
        ]
        for row in table["rows"]
    ]
    columns = ["recipe", "published", "ours, ± over test tasks", "over seeds: mean, standard deviation", "verdict"]
    title = f"{claim['source'] if claim else 'Nothing published'}: {row['metric']}, {_subject(table['protocol'])}"
    protocol = "; ".join(f"{name.removeprefix('init_args.')} {value}" for name, value in table["protocol"].items())
    note = f"Our protocol: {protocol}." + (f" The claim's: {claim['protocol']}." if claim and claim["protocol"] else "")
    note += f" What others got: {'; '.join(claim['others'])}." if claim and claim["others"] else ""
    blocks: list[Block] = [Table("", columns, rows)]
    for row in table["rows"]:
        blocks += [Facts(row["recipe"], _facts(row)), Code("Repeat", _commands(row))]
    return Section(title, note, blocks)


def _subject(protocol: dict[str, Any]) -> str:
    """What was measured, in a few words; unusual properties come last."""
    words = [str(protocol.get("class_path", "tasks")).rpartition(".")[2]]
    counts = [(protocol.get(f"init_args.{name}"), label) for name, label in (("n_way", "way"), ("n_shot", "shot"))]
    words += [f"{str(count).strip('[]').replace(', ', ' to ')}-{label}" for count, label in counts if count is not None]
    words += ["transductive"] if protocol.get("transductive") else []
    words += [f"pre-trained by {protocol['pretrained']}"] if protocol.get("pretrained") else []
    return ", ".join(words)


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    seeds = row["seeds"]
    pairs = [
        ("the recipe, and how it differs from the paper", row["about_the_recipe"]),
        ("differs from the package's recipe", "; ".join(row["differs_from_the_recipe"])),
        ("budget", f"{_count(row['steps'], 'step')} of {_count(row['tasks_per_step'], 'task')}"),
        ("steps made, best step", _each(seeds, lambda s: f"{s['steps']}, {s['best_step']}")),
        ("training time", _each(seeds, lambda s: _time(s["training_seconds"]))),
        ("hardware", _each(seeds, lambda s: s["hardware"])),
        ("versions", _each(seeds, lambda s: s["versions"])),
        ("commit", _each(seeds, _commit)),
        ("data", _each(seeds, lambda s: s["data"])),
        ("files", _each(seeds, _files)),
    ]
    return [(name, value) for name, value in pairs if value]


def _each(seeds: list[dict[str, Any]], say: Any) -> str:
    """One text for all seeds if they agree, else one for each."""
    texts = [str(say(seed)) for seed in seeds]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{text} (seed {seed['seed']})" for text, seed in zip(texts, seeds, strict=True))


def _commit(seed: dict[str, Any]) -> str:
    return (
        f"{seed['commit'] or 'unknown'}{' and changes that were not committed' if seed['uncommitted_changes'] else ''}"
    )


def _files(seed: dict[str, Any]) -> str:
    changed = seed["changed_files"]
    if changed is None:
        return "not recorded (no manifest.json): whether they are as they were is not known"
    return f"CHANGED AFTER THE RUN: {', '.join(changed)}" if changed else "as they were when the run ended"


def _commands(row: dict[str, Any]) -> str:
    others = [str(seed["seed"]) for seed in row["seeds"][1:]]
    command: str = row["command"]
    return command + (f"  # and with --seed {', '.join(others)}" if others else "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _number(mean: float | None, interval: float | None, unit: str) -> str:
    if mean is None:
        return "not measured"
    return f"{mean:.2f}{'' if interval is None else f' ± {interval:.2f}'}{f' {unit}' if unit else ''}"


def _spread(row: dict[str, Any]) -> str:
    if row["spread"] is None:
        return "one seed"
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{row['mean']:.2f}, {row['spread']:.2f}{unit}"


def _comparisons(pairs: list[dict[str, Any]]) -> Section:
    def row(pair: dict[str, Any]) -> list[str]:
        times, unit = scale(pair["metric"])
        interval = None if pair["interval_95"] is None else times * pair["interval_95"]
        tests = [("the same" if pair[p] is None else f"{pair[p]:.2g}") for p in ("t_test_p", "wilcoxon_p")]
        return [pair["one"], pair["other"], pair["metric"], _number(times * pair["difference"], interval, unit), *tests]

    columns = ["run", "against", "metric", "difference, paired ±", "p, paired t", "p, Wilcoxon"]
    note = (
        "Pairs of runs on exactly the same test tasks: the mean over tasks of the first score minus the second, with "
        f"its 95% interval. The interval is over tasks: another seed of training may differ by more. "
        f"{_count(len(pairs), 'comparison')}; the p values are not corrected for their number."
    )
    return Section("Comparisons on the same tasks", note, [Table("", columns, [row(pair) for pair in pairs])])


def _curves(runs: list[dict[str, Any]]) -> Section:
    curves = {run["label"]: run["curve"] for run in runs}
    drawn = [figures.learning_curves(curves, name) for name in CURVES]
    blocks: list[Block] = [picture for picture in drawn if picture]
    return Section(
        "Learning curves", "" if blocks else "No line of metrics.jsonl holds a loss or a validation.", blocks
    )


def _run(run: dict[str, Any]) -> Section:
    measured = run["measured"]
    blocks: list[Block] = _scores(run)
    if run["others"]:
        rows = [
            [o["split"], str(o["seed"]), str(o["n_tasks"]), o["scores"], "; ".join(o["differs"])] for o in run["others"]
        ]
        blocks += [Table("Other evaluations", ["split", "list", "tasks", "scores", "differs from the first"], rows)]
    if measured is None:
        return Section(run["label"], run["not_measured"], blocks)
    for name, label in (("n_shot", "shots"), ("n_way", "ways")):
        if found := measured.get(label):
            blocks += [figures.accuracy_along(name, label, found)] if found["points"] else []
    if points := measured.get("instances"):
        blocks += [figures.by_instance(points)]
    if bins := measured.get("reliability"):
        blocks += [figures.reliability(bins)]
    if measured["phi"]:
        blocks += [figures.phi_map(measured["phi"])]
    for name, found in (measured.get("errors") or {}).items():
        rows = [[row["name"], str(row["queries"]), str(row["wrong"]), f"{row['percent']:.1f}"] for row in found]
        title = "Errors by class, most first" if name == "classes" else "Errors by the folder of a class"
        blocks += [Table(title, ["name", "queries", "wrong", "wrong, %"], rows)] if rows else []
    for task in measured.get("worst") or []:
        title = f"Test task {task['task']}: {task['percent']:.1f} % right"
        blocks += [Task(title, task["support"], task["predictions"])]
    note = (
        "The scores are those of the run. All else was measured for this report, on the first "
        f"{_count(measured['tasks'], 'task')} of the test list. The figures by shots and ways have other tasks, "
        "with up to five queries per class, and all else as in the evaluation."
    )
    return Section(run["label"], note, blocks)


def _scores(run: dict[str, Any]) -> list[Block]:
    """Every metric on the recipe's test tasks, and the main one on each named task."""

    def cells(name: str, score: dict[str, Any]) -> list[str]:
        times, unit = scale(score["metric"])
        interval = score["interval_95"]
        shown = _number(times * score["mean"], None if interval is None else times * interval, unit)
        return [name, shown, str(score["n_tasks"])]

    rows = [cells(score["metric"].replace("_", " "), score) for score in run["scores"]]
    rows += [[name.replace("_", " "), f"{value:.3f}", "all together"] for name, value in run["pooled"].items()]
    blocks: list[Block] = [Table("Scores", ["metric", "mean, ± over test tasks", "test tasks"], rows)]
    if run["by_task"]:
        metric = run["by_task"][0]["metric"].replace("_", " ")
        rows = [cells(score["name"], score) for score in run["by_task"]]
        blocks += [Table(f"By named task: {metric}, worst first", ["task", "mean, ±", "rows of test tasks"], rows)]
    return blocks


def _recipes(rows: list[dict[str, Any]]) -> Section:
    note = (
        "Each recipe.yaml with every option, as it was in the run of the first seed. Save it as a file and repeat the "
        "run by `metabox train FILE`."
    )
    return Section("Resolved recipes", note, [Code(row["recipe"], row["text"], folded=True) for row in rows])
