"""What a report measures anew: calibration, worst tasks, errors by class, maps, curves."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import made
from PIL import Image
from report_cases import RECIPE

import metabox
from metabox import recipe
from metabox.learners import CNP, LSTM
from metabox.nn.backbones import Flatten
from metabox.objectives import QueryLoss, StreamLoss
from metabox.reports import measure
from metabox.tasks import ClassFolder, Glyphs
from metabox.tasks.place import Place


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
    # Each class has one grey on top, so that a picture tells its class.
    for c, name in enumerate(("cat", "dog", "owl")):
        folder = tmp_path / "set" / name
        folder.mkdir(parents=True)
        for i in range(4):
            grey = np.full((8, 8), 50 * c, dtype=np.uint8)
            grey[-1] = 255  # images of one colour all over are refused
            Image.fromarray(grey).save(folder / f"{i}.png")
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
