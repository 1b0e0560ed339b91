"""Lake's 20 runs."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabox import FewShotClassifier, Model, Place, evaluate
from metabox.discover import models
from metabox.tasks import LakeRuns, Omniglot


@pytest.fixture
def lake_root(omniglot_root: str) -> str:
    if not (Path(omniglot_root) / "omniglot" / "all_runs.zip").is_file():
        missing = "no runs of Lake: put all_runs.zip into omniglot/ of the folder that METABOX_DATA names"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    return omniglot_root


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((105, 105), level, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def archive(root: Path, leave_out: str = "", answers: str | None = None) -> Path:
    """An archive in the published layout: drawing i of a run is the (i + run)-th class, and has its grey level."""
    (root / "omniglot").mkdir()
    with zipfile.ZipFile(root / "omniglot" / "all_runs.zip", "w") as made:
        for run in range(1, 21):
            lines = []
            for i in range(20):
                answer = (i + run) % 20
                lines.append(f"run{run:02}/test/item{i + 1:02}.png run{run:02}/training/class{answer + 1:02}.png")
                for name, level in ((f"training/class{i + 1:02}", i), (f"test/item{i + 1:02}", answer)):
                    if leave_out != f"run{run:02}/{name}.png":
                        made.writestr(f"run{run:02}/{name}.png", png(10 * level))
            made.writestr(f"run{run:02}/class_labels.txt", answers or "\n".join(lines))
    return root


def test_a_drawing_that_is_asked_for_has_the_class_that_the_archive_says(tmp_path: Path) -> None:
    sampler = LakeRuns(image_size=16, data_root=str(archive(tmp_path)))
    episodes = sampler.sample(Place(3, "test", first=17))
    assert episodes.support.x.shape == episodes.query.x.shape == (3, 20, 1, 16, 16)
    shown = episodes.support.x.float().mean((2, 3, 4))
    assert torch.equal(shown.gather(1, episodes.query.y), episodes.query.x.float().mean((2, 3, 4)))
    assert episodes.query.y[0].tolist() == [(i + 18) % 20 for i in range(20)]
    assert torch.equal(sampler.sample(Place(1, "test", first=17)).query.x, episodes.query.x[:1])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Place(1, "train"), 'expected split "val" or "test" .* train on Omniglot'),
        (Place(3, "test", first=18), "expected at most 20 tasks, .* got 21"),
    ],
)
def test_the_runs_are_twenty_and_a_test_only(place: Place, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        LakeRuns(data_root=str(tmp_path)).sample(place)


def test_validation_is_upright_drawings_of_the_background_alphabets_that_omniglot_keeps(lake_root: str) -> None:
    drawn = LakeRuns(image_size=20, data_root=lake_root).sample(Place(2, "val", first=3))
    alike = {"n_way": 20, "n_shot": 1, "n_query": 1, "split": "lake", "within_groups": True, "rotations": False}
    expected = Omniglot(image_size=20, data_root=lake_root, **alike).sample(Place(2, "val", first=3))
    assert torch.equal(drawn.query.x, expected.query.x)
    assert torch.equal(drawn.query.y, expected.query.y)
    assert drawn.query.x.shape == (2, 20, 1, 20, 20)


def test_a_missing_or_other_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no such file; get .*all_runs.zip from github"):
        LakeRuns(data_root=str(tmp_path)).sample(Place(1, "test"))
    for number, (left_out, answers, words) in enumerate(
        [
            ("run07/test/item03.png", None, "got none of run07/test/item03.png"),
            ("", "run01/test/item01.png run01/training/class01.png", "an answer for each of 20 drawings in run 1"),
            ("", "words " * 40, "an answer for each of 20 drawings in run 1"),
        ]
    ):
        (root := tmp_path / str(number)).mkdir()
        with pytest.raises(ValueError, match=words):
            LakeRuns(data_root=str(archive(root, left_out, answers))).sample(Place(1, "test"))


def test_the_model_that_ships_has_the_error_of_its_card(lake_root: str) -> None:
    scores = evaluate(Model.load(models()["characters"]).learner, LakeRuns(data_root=lake_root), n_tasks=20)
    assert 100 * scores.mean("accuracy") == pytest.approx(90.0, abs=0.3)


def test_the_first_run_is_read_by_a_classifier_from_its_images(lake_root: str) -> None:
    episodes = LakeRuns(data_root=lake_root).sample(Place(1, "test"))
    classifier = FewShotClassifier("characters").fit(episodes.support.x[0], list(range(20)))
    assert (classifier.predict(episodes.query.x[0]) == episodes.query.y[0].numpy()).mean() > 0.7
