"""Reports: the numbers against plain transcriptions, what is refused or marked, and the page in a real browser."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import SHORT, made
from PIL import Image
from scipy import stats

import metabox
from metabox import recipe
from metabox.cli.main import main
from metabox.learners import CNP, LSTM
from metabox.nn.backbones import Flatten
from metabox.objectives import QueryLoss, StreamLoss
from metabox.reports import figures, manifest, measure
from metabox.reports.collect import read_runs
from metabox.reports.compare import paired
from metabox.reports.page import as_html, as_markdown, write_report
from metabox.tasks import ClassFolder, Glyphs
from metabox.tasks.place import Place

RECIPE = "glyphs-5w1s-incontext"
QUICK = [
    *("--outer.steps", "4", "--outer.validate_every", "2", "--outer.n_validation", "4", "--n_test", "8"),
    *("--tasks.init_args.n_way", "5", "--outer.n_tasks", "2", "--learner.init_args.backbone.init_args.width", "8"),
    *("--evaluation.init_args.n_query", "3"),
]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `metabox reproduce` leaves: two runs and their report."""
    out = tmp_path_factory.mktemp("reproduced")
    assert main(["reproduce", RECIPE, *QUICK, "--seeds", "2", "--n_tasks", "4", "--out", str(out)]) == 0
    return out


@pytest.fixture
def runs(reproduced: Path, tmp_path: Path) -> list[Path]:
    """Copies of the two runs, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in sorted((reproduced / "runs").iterdir())]


def result_of(run: Path) -> dict[str, Any]:
    (path,) = (run / "results").glob("test-seed0-*.json")
    return json.loads(path.read_text())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def claim(run: Path, **about: Any) -> Path:
    """Give a run a claim, as if it had been trained with it."""
    (run / "manifest.json").unlink(missing_ok=True)
    with (run / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write(f"claim: {json.dumps({'metric': 'accuracy', 'value': 50, 'source': 'A paper'} | about)}\n")
    return run


# Numbers


def test_the_seeds_of_a_recipe_stand_side_by_side_each_with_its_interval_over_tasks(reproduced: Path) -> None:
    ((row,),) = [table["rows"] for table in json.loads((reproduced / "report.json").read_text())["claims"]]
    means = []
    for seed, said in enumerate(row["seeds"]):
        accuracy = 100 * np.array(result_of(reproduced / "runs" / f"{RECIPE}-seed{seed}")["per_task"]["accuracy"])
        assert (said["seed"], len(accuracy)) == (seed, 8)
        assert said["mean"] == pytest.approx(accuracy.mean())
        assert said["interval_95"] == pytest.approx(stats.t.ppf(0.975, 7) * accuracy.std(ddof=1) / 8**0.5)
        assert said["changed_files"] == []
        assert (said["steps"], said["commit"]) == (
            4,
            result_of(reproduced / "runs" / f"{RECIPE}-seed0")["trained_on"]["git_commit"],
        )
        means.append(accuracy.mean())
    assert row["mean"] == pytest.approx(np.mean(means))
    assert row["spread"] == pytest.approx(np.std(means, ddof=1))  # of the two runs, not of their sixteen tasks


@pytest.mark.parametrize(
    ("shift", "interval", "verdict"),
    [(0, None, "reproduced"), (60, None, "short by 60.00"), (-60, None, "above by 60.00"), (60, 100, "reproduced")],
)
def test_the_verdict_weighs_the_difference_against_both_intervals(
    runs: list[Path], shift: float, interval: float | None, verdict: str
) -> None:
    ours = 100 * np.mean(result_of(runs[0])["per_task"]["accuracy"])
    content = write_report([claim(runs[0], value=float(ours + shift), interval=interval)], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"] == verdict


def test_of_a_loss_less_is_better(runs: list[Path]) -> None:
    content = write_report([claim(runs[0], metric="nll", value=100.0)], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"].startswith("above by 9")


def test_a_metric_that_was_not_measured_is_not_judged(runs: list[Path]) -> None:
    content = write_report([claim(runs[0], metric="accuracy_instance_2")], runs[0] / "out", n_tasks=0)
    assert content["claims"][0]["rows"][0]["verdict"] == "not judged: accuracy_instance_2 has no interval here"


def test_a_paired_comparison_is_the_t_interval_of_the_differences() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0.6, 0.1, 40), generator.normal(0.5, 0.1, 40)
    got = paired(one.tolist(), other.tolist())
    low, high = stats.ttest_1samp(one - other, 0).confidence_interval(0.95)
    assert got["difference"] == pytest.approx((low + high) / 2)
    assert got["interval_95"] == pytest.approx((high - low) / 2)
    assert got["t_test_p"] == pytest.approx(stats.ttest_1samp(one - other, 0).pvalue)
    assert got["wilcoxon_p"] == pytest.approx(stats.wilcoxon(one, other).pvalue)


def test_runs_that_no_task_tells_apart_have_no_p_value() -> None:
    assert paired([0.5, 0.25], [0.5, 0.25]) == {
        "difference": 0.0,
        "interval_95": None,
        "t_test_p": None,
        "wilcoxon_p": None,
    }
    assert paired([0.75, 0.5], [0.5, 0.25])["t_test_p"] == 0  # the same everywhere, and no warning


def test_only_other_recipes_on_the_same_tasks_are_compared(runs: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[0], tmp_path / "other"))
    edit(other / "recipe.yaml", f"name: {RECIPE}", "name: other")
    names = [
        (pair["one"], pair["other"]) for pair in write_report([*runs, other], tmp_path / "a", n_tasks=0)["comparisons"]
    ]
    assert names == [(f"{RECIPE}, seed 0", "other, seed 0"), (f"{RECIPE}, seed 1", "other, seed 0")]
    (path,) = (other / "results").glob("*.json")
    edit(path, '"data": "', '"data": "other ')
    assert write_report([*runs, other], tmp_path / "b", n_tasks=0)["comparisons"] == []


def test_a_score_that_a_task_does_not_have_is_left_out(runs: list[Path], tmp_path: Path) -> None:
    values = [0.5, None, 0.75, 1.0, None, 0.25, 0.5, 0.0]
    for run, shift in zip(runs, (0.0, 0.25), strict=True):
        (path,) = (run / "results").glob("*.json")
        result = json.loads(path.read_text())
        result["per_task"]["accuracy"] = [None if value is None else value + shift for value in values]
        path.write_text(json.dumps(result))
        (run / "manifest.json").unlink()
    edit(runs[1] / "recipe.yaml", f"name: {RECIPE}", "name: other")
    content = write_report(runs, tmp_path / "out", n_tasks=0)
    there = [value for value in values if value is not None]
    accuracy = next(score for score in content["runs"][0]["scores"] if score["metric"] == "accuracy")
    assert (accuracy["mean"], accuracy["n_tasks"]) == (pytest.approx(np.mean(there)), 6)
    assert content["comparisons"][0]["difference"] == pytest.approx(-0.25)
    assert content["comparisons"][0]["t_test_p"] < 0.01


def test_named_tasks_stand_in_a_table_of_their_own_the_worst_first(runs: list[Path], tmp_path: Path) -> None:
    (path,) = (runs[0] / "results").glob("*.json")
    result = json.loads(path.read_text())
    result["tasks"] = ["ann", "bob"] * 4
    result["per_task"]["accuracy"] = [1.0, 0.5, 1.0, 0.25, 0.75, 0.5, 0.75, 0.25]
    path.write_text(json.dumps(result))
    content = write_report(runs[:1], tmp_path / "out", n_tasks=0)
    found = [(row["name"], row["mean"], row["n_tasks"]) for row in content["runs"][0]["by_task"]]
    assert found == [("bob", 0.375, 4), ("ann", 0.875, 4)]
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert [line.split("|")[1:3] for line in lines if line.startswith(("| bob", "| ann"))] == [
        [" bob ", f" 37.50 ± {stats.t.ppf(0.975, 3) * 100 * np.std([0.5, 0.25, 0.5, 0.25], ddof=1) / 2:.2f} % "],
        [" ann ", f" 87.50 ± {stats.t.ppf(0.975, 3) * 100 * np.std([1, 1, 0.75, 0.75], ddof=1) / 2:.2f} % "],
    ]


def test_a_title_says_what_was_measured_and_what_sets_it_apart(runs: list[Path], tmp_path: Path) -> None:
    content = write_report([claim(runs[0])], tmp_path / "out", n_tasks=0)
    assert "## A paper: accuracy, Glyphs, 5-way, 1-shot\n" in as_markdown(content)
    content["claims"][0]["protocol"] |= {"transductive": True, "pretrained": "first (ab)"}
    assert "## A paper: accuracy, Glyphs, 5-way, 1-shot, transductive, pre-trained by first \\(ab\\)\n" in as_markdown(
        content
    )


# What is measured anew


@pytest.fixture
def rebuilt(reproduced: Path) -> recipe.Rebuilt:
    folder = reproduced / "runs" / f"{RECIPE}-seed0"
    parser = recipe.make_parser(folder / "recipe.yaml")
    return recipe.rebuild(parser, recipe.parse(parser, []), folder)


def test_the_reliability_diagram_adds_up_to_the_calibration_error() -> None:
    confidence, correct = torch.rand(2, 400, generator=torch.Generator().manual_seed(0))
    correct = (correct < 0.5).float()
    bins = measure.reliability(measure.Predicted(torch.zeros(400), confidence, correct, torch.zeros(400)))
    error = sum(b["predictions"] * abs(b["confidence"] - b["correct"]) for b in bins) / 400
    assert sum(b["predictions"] for b in bins) == 400
    assert error == pytest.approx(metabox.evaluation.calibration_error(confidence, correct), abs=1e-6)


def test_a_prediction_goes_with_the_task_and_the_drawing_that_it_is_of(rebuilt: recipe.Rebuilt) -> None:
    got = measure.predict(rebuilt, 2)
    assert got.task.tolist() == [0] * 15 + [1] * 15
    assert got.origin.equal(rebuilt.tasks.sample(Place(2, "test")).origin[:, 5:].flatten())


def test_the_worst_tasks_come_first_and_their_worst_predictions_too(rebuilt: recipe.Rebuilt) -> None:
    tasks = measure.worst(rebuilt, measure.predict(rebuilt, 8))
    accuracy = metabox.evaluate(rebuilt.learner, rebuilt.tasks, n_tasks=8).per_task["accuracy"]
    assert [task["percent"] for task in tasks] == pytest.approx([100 * a for a in sorted(accuracy)[:3]])
    for task in tasks:
        assert accuracy[task["task"]] == pytest.approx(task["percent"] / 100)
        assert [image["label"] for image in task["support"]] == [f"class {c}" for c in range(5)]
        right = [image["label"] == image["predicted"] for image in task["predictions"]]
        assert len(right) == 12
        assert not right[0] or all(right)


def test_pictures_hold_the_pixels_of_the_task(rebuilt: recipe.Rebuilt) -> None:
    (task, *_) = measure.worst(rebuilt, measure.predict(rebuilt, 8))
    episodes = rebuilt.tasks.sample(Place(1, "test", first=task["task"]))
    content = base64.b64decode(task["support"][0]["image"].removeprefix("data:image/png;base64,"))
    place = episodes.support.y[0].tolist().index(0)
    assert torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).equal(episodes.support.x[0, place, 0])


def test_pictures_bear_the_names_of_their_classes(tmp_path: Path) -> None:
    # Each class has one grey, so that a picture tells its class.
    for c, name in enumerate(("cat", "dog", "owl")):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((8, 8), 50 * c, dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "splits.json").write_text(json.dumps({"test": ["cat", "dog", "owl"]}))
    splits = str(tmp_path / "splits.json")
    tasks = ClassFolder(str(tmp_path / "set"), splits=splits, channels=1, n_way=3, n_shot=1, n_query=2)
    made_up = recipe.Rebuilt(CNP(tasks.spec, backbone=Flatten).eval(), tasks, QueryLoss, {})
    for task in measure.worst(made_up, measure.predict(made_up, 4)):
        for image in (*task["support"], *task["predictions"]):
            grey = np.array(Image.open(io.BytesIO(base64.b64decode(image["image"].partition(",")[2]))))
            assert image["label"] == ("cat", "dog", "owl")[grey[0, 0] // 50]


def test_errors_are_counted_by_class_and_by_folder(tmp_path: Path) -> None:
    for group in "ab":
        made(tmp_path / "set" / group, [f"class{c}" for c in range(3)])
    names = [f"{group}/class{c}" for group in "ab" for c in range(3)]
    (tmp_path / "splits.json").write_text(json.dumps({"test": names}))
    tasks = ClassFolder(str(tmp_path / "set"), splits=str(tmp_path / "splits.json"), n_way=3, n_shot=1, n_query=2)
    episodes = tasks.sample(Place(4, "test"))
    origin = episodes.origin[:, 3:].flatten()
    correct = (torch.arange(24) % 3 > 0).float()
    got = measure.errors(tasks, measure.Predicted(torch.zeros(24), torch.ones(24), correct, origin))

    images, expected = tasks.images, {}
    for source, right in zip(origin.tolist(), correct.tolist(), strict=True):
        (c,) = [c for c in range(6) for i in range(4) if images.ids(np.array([c]), np.array([i]))[0] == source]
        for name in (images.class_name(c), images.class_name(c).split("/")[0]):
            n, wrong = expected.get(name, (0, 0))
            expected[name] = (n + 1, wrong + (right == 0))
    said = {row["name"]: (row["queries"], row["wrong"]) for row in got["classes"] + got["groups"]}
    assert said == expected
    assert [row["percent"] for row in got["classes"]] == sorted(
        (row["percent"] for row in got["classes"]), reverse=True
    )


def test_an_endless_set_has_no_errors_by_class(rebuilt: recipe.Rebuilt) -> None:
    assert measure.errors(rebuilt.tasks, measure.predict(rebuilt, 2)) == {"classes": [], "groups": []}


def test_the_map_of_phi_is_its_principal_components(rebuilt: recipe.Rebuilt) -> None:
    got = measure.phi_map(rebuilt, 6)
    support = rebuilt.tasks.sample(Place(6, "test")).support
    with torch.no_grad():
        phi = rebuilt.learner.adapt(support)
    rows = np.stack(
        [
            np.concatenate([leaf[t].double().numpy().ravel() for leaf in phi.values() if leaf.is_floating_point()])
            for t in range(6)
        ]
    )
    rows -= rows.mean(0)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(np.abs(got["places"]), np.abs(u[:, :2] * s[:2]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["share"], s[:2] ** 2 / (s**2).sum(), rtol=1e-5)


def test_a_learner_that_reads_a_sequence_has_a_curve_over_instances() -> None:
    tasks = Glyphs(n_way=2, n_shot=2, n_query=1, image_size=8)
    for make, objective in ((LSTM, StreamLoss), (CNP, QueryLoss)):
        learner = make(tasks.spec, backbone=Flatten).eval()
        got = measure.instances(recipe.Rebuilt(learner, tasks, objective, {}), 3)
        assert [point["k"] for point in got] == ([1, 2, 3] if make is LSTM else [])


def test_accuracy_is_measured_at_shots_and_ways_beyond_the_trained(reproduced: Path) -> None:
    (first, _) = json.loads((reproduced / "report.json").read_text())["runs"]
    assert [point["n_shot"] for point in first["measured"]["shots"]["points"]] == [1, 2, 3, 5, 10]
    assert [point["n_way"] for point in first["measured"]["ways"]["points"]] == [2, 5]  # it was built for five
    assert first["measured"]["ways"]["trained"] == [5, 5]
    learner, _ = metabox.load_run(reproduced / "runs" / f"{RECIPE}-seed0")
    scores = metabox.evaluate(learner, Glyphs(n_way=2, n_shot=1, n_query=3), n_tasks=4)
    assert first["measured"]["ways"]["points"][0]["percent"] == pytest.approx(100 * scores.mean("accuracy"))


def test_without_the_weights_a_report_says_what_is_missing(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "best.safetensors").unlink()
    (run,) = write_report(runs[:1], tmp_path / "out", n_tasks=4)["runs"]
    assert run["measured"] is None
    assert "found no such file" in run["not_measured"]
    assert "found no such file" in (tmp_path / "out" / "report.html").read_text()


# What is refused, and what is marked


def test_runs_of_one_claim_with_other_protocols_are_refused_with_the_reason(runs: list[Path]) -> None:
    for run in runs:
        claim(run)
    (path,) = (runs[1] / "results").glob("*.json")
    for file, name in ((path, '"n_query": 3'), (runs[1] / "recipe.yaml", "n_query: 3")):
        edit(file, name, name.replace("3", "4"))
    with pytest.raises(
        ValueError, match=r"expected .* one protocol, got init_args.n_query: 3 against 4 in .*report them apart"
    ):
        read_runs(runs)


def test_recipes_of_one_claim_with_other_protocols_are_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "tasks: {{class_path: Glyphs, init_args: {{n_way: 2, n_shot: 1, n_query: {n_query}}}}}\n"
        "learner: {{class_path: {learner}}}\n"
        "claim: {{metric: accuracy, value: 50, source: A paper}}\n"
    )
    for name, learner, n_query in (("one", "ProtoNet", 1), ("other", "CNP", 2)):
        (tmp_path / f"{name}.yaml").write_text(text.format(learner=learner, n_query=n_query))
    asked = ["reproduce", *(str(tmp_path / f"{name}.yaml") for name in ("one", "other"))]
    asked += [*SHORT, "--seeds", "1", "--n_tasks", "0", "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "init_args.n_query: 1 against 2 in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*asked, "--tasks.init_args.n_query", "3"]) == 0  # now both are alike


def test_runs_without_a_claim_stand_in_one_table_for_each_protocol(runs: list[Path]) -> None:
    (path,) = (runs[1] / "results").glob("*.json")
    for file, name in ((path, '"n_query": 3'), (runs[1] / "recipe.yaml", "n_query: 3")):
        edit(file, name, name.replace("3", "4"))
    assert [[run.seed for run in table] for table in read_runs(runs)] == [[0], [1]]


def test_a_seed_cannot_be_counted_twice(runs: list[Path], tmp_path: Path) -> None:
    again = shutil.copytree(runs[0], tmp_path / "again")
    with pytest.raises(ValueError, match="expected every run once"):
        read_runs([runs[0], again])


@pytest.mark.parametrize("name", ["recipe.yaml", "best.safetensors", "metrics.jsonl", "environment.json", "results"])
def test_a_file_that_was_changed_after_the_run_is_marked(runs: list[Path], name: str) -> None:
    assert manifest.changes(runs[0]) == []
    path = next((runs[0] / "results").glob("*.json")) if name == "results" else runs[0] / name
    path.write_bytes(path.read_bytes() + b"\n")
    said = path.relative_to(runs[0]).as_posix()
    assert manifest.changes(runs[0]) == [f"{said} (changed)"]
    path.unlink()
    assert manifest.changes(runs[0]) == [f"{said} (missing)"]


def test_a_changed_run_is_not_judged_and_the_page_says_why(runs: list[Path], tmp_path: Path) -> None:
    claim(runs[0])
    (path,) = (runs[0] / "results").glob("*.json")
    manifest.record(runs[0], path, trained=True)
    edit(path, '"accuracy": [', '"accuracy":  [')
    ((row,),) = [table["rows"] for table in write_report(runs[:1], tmp_path / "out", n_tasks=0)["claims"]]
    assert row["verdict"] == "not judged: files were changed after the run"
    for form in ("html", "md"):
        assert f"CHANGED AFTER THE RUN: results/{path.name}" in (
            tmp_path / "out" / f"report.{form}"
        ).read_text().replace("\\", "")


def test_neither_evaluating_nor_training_again_makes_changed_files_good(runs: list[Path]) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "val": {"accuracy": 1.0}}\n')
    (runs[0] / "results" / "test-seed5-000000.json").write_text("{}")
    for again in (["evaluate", str(runs[0])], ["train", RECIPE, *QUICK, "--out", str(runs[0])]):
        assert main(again) == 0
        assert manifest.changes(runs[0]) == ["metrics.jsonl (changed)", "results/test-seed5-000000.json (added)"]


def test_a_run_that_nothing_was_recorded_of_is_marked_as_such(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "manifest.json").unlink()
    write_report(runs[:1], tmp_path / "out", n_tasks=0)
    assert "not recorded (no manifest.json)" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("results", None, "got 0 among 0"),
        ("results/odd.json", "{", "expected JSON"),
        ("results/odd.json", '{"summary": {}}', "expected a result of `metabox evaluate`"),
        ("metrics.jsonl", "[]\n", "expected a step in every line"),
        ("metrics.jsonl", "{\n", "expected a JSON object in every line"),
        ("manifest.json", "[1]", "manifest.json as it was written"),
        ("manifest.json", "null", "manifest.json as it was written"),
        ("manifest.json", '{"files": {"recipe', "expected JSON"),
        ("recipe.yaml", "outer: 3", "tasks, learner"),
        ("recipe.yaml", None, "expected the folder of a run"),
    ],
)
def test_a_folder_without_a_whole_run_is_named(
    runs: list[Path], name: str, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs[0] / name
    if content is None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        path.write_text(content)
    assert main(["report", str(runs[0]), "--out", str(runs[0] / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert str(runs[0]) in said or name == "recipe.yaml"
    assert not (runs[0] / "out").exists()


# The page

EVIL = (
    '<img src=x onerror="alert(1)"></script><script>alert(2)</script> $x_{1$ [a](javascript:alert(3)) `b` | "c"\'; '
    "$(touch d)"
)


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))


@pytest.fixture
def evil(runs: list[Path], tmp_path: Path) -> Path:
    """The report of a run whose every text is an attack."""
    (path,) = (runs[0] / "results").glob("*.json")
    result = json.loads(path.read_text())
    result["trained_on"] |= {"cpu": EVIL, "git_commit": EVIL, "torch": EVIL}
    result |= {"data": EVIL, "weights": {"step": EVIL, "seconds": EVIL}}
    result["protocol"]["batch_norm"] = EVIL
    path.write_text(json.dumps(result))
    claim(runs[0], source=EVIL, protocol=EVIL)
    write_report(runs[:1], tmp_path / "evil", n_tasks=3)
    return tmp_path / "evil"


def test_texts_of_strangers_stay_texts_in_the_page(evil: Path) -> None:
    page = Page((evil / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
    assert "&lt;script&gt;" in (evil / "report.html").read_text()


def test_texts_of_strangers_stay_texts_in_markdown(evil: Path) -> None:
    lines = (evil / "report.md").read_text().splitlines()
    shown = [line for line in lines if "script" in line and not line.startswith("    ")]
    assert len(shown) > 5
    for line in shown:
        assert not re.search(r"(?<!\\)[<`$\[]", line)
    columns, checked = 0, 0
    for line in lines:  # of a table: as many cells as its head has
        cells = len(re.findall(r"(?<!\\)\|", line))
        columns = cells if set(line) <= set("|-: ") and line else columns
        if line.startswith("| ") and columns:
            checked += 1
            assert cells == columns or not line.strip("| -:")
        columns = columns if line.startswith("|") else 0
    assert checked


def test_a_page_needs_no_network_and_no_script(reproduced: Path) -> None:
    page = Page((reproduced / "report.html").read_text())
    assert {"link", "script", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "url(http" not in (reproduced / "report.html").read_text()
    policies = [
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_figure_and_image_has_a_text_alternative_and_ids_are_unique(reproduced: Path) -> None:
    page = Page((reproduced / "report.html").read_text())
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawn) == 2 + 2 * 4  # two learning curves; of each run shots, ways, reliability, phi
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 30 for a in drawn)
    assert all(a["alt"] for tag, a in page.tags if tag == "img")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    inside = [a["xlink:href"] for tag, a in page.tags if tag == "use"]
    assert {reference[1:] for reference in inside} <= set(ids)


def test_the_three_forms_are_made_from_the_json_alone(reproduced: Path) -> None:
    content = json.loads((reproduced / "report.json").read_text())
    assert as_html(content) == (reproduced / "report.html").read_text()
    assert as_markdown(content) == (reproduced / "report.md").read_text()


def test_a_name_that_begins_with_an_underscore_or_that_no_font_has_is_in_the_legend() -> None:
    lines = [{"step": 1, "val": {"nll": 1.0}}]
    picture = figures.learning_curves({"_hidden": lines, "\u4e2d\x07 $x_{$": lines}, "val nll")
    assert picture is not None
    texts = " ".join(re.findall(r"<t(?:ext|span)[^>]*>([^<]*)<", picture.svg))
    assert "_hidden" in texts
    assert "$x_{$" in texts


# In a browser

FRAME = """<body><script>onmessage = (event) => { document.body.textContent = event.data; };</script>
<iframe src="page.html" style="width: {width}px; height: 800px; border: 0"></iframe></body>"""
PROBE = """<script>
const parse = (text) => text.match(/[0-9.]+/g).slice(0, 3).map((v) => {
  const c = v / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
const light = (text) => { const [r, g, b] = parse(text); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const paper = light(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("svg text")].map((t) => contrast(light(getComputedStyle(t).fill), paper));
const words = [...document.querySelectorAll("p, td, th, dt, dd, li, h1, h2, h3")].map(
  (t) => contrast(light(getComputedStyle(t).color), paper));
parent.postMessage(JSON.stringify({
  paper, width: innerWidth, wide: document.documentElement.scrollWidth,
  texts: Math.min(...texts), words: Math.min(...words)}), "*");
</script></body>"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_legible_in_a_browser(reproduced: Path, tmp_path: Path, width: int, dark: bool) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium: install Debian's package of that name to see the page in a browser")
    text = (reproduced / "report.html").read_text()
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", PROBE)  # the page itself lets no script run
    (tmp_path / "page.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)))  # no window is as narrow as a phone
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--window-size=1400,900", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    options += ["--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path / 'frame.html'}"]
    done = subprocess.run([browser, *options], capture_output=True, text=True)
    found = json.loads(re.search(r"<body>(\{.*?\})</body>", done.stdout)[1])
    assert found["width"] == width
    assert found["wide"] <= width, "the page scrolls sideways"
    assert (found["paper"] < 0.1) == dark
    assert found["texts"] >= 4.5, "WCAG's contrast of text, in figures"
    assert found["words"] >= 4.5, "WCAG's contrast of text"
