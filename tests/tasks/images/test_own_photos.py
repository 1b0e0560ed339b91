"""Tasks of your own photographs have the way, shots and size that the folder allows."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from made_up import SHORT, made, png

from metabox import FewShotClassifier
from metabox.cli.main import main
from metabox.tasks import OwnPhotos
from metabox.tasks.place import Place

CASES: dict[str, tuple[list[int], dict[str, int], tuple[int, tuple[int, int], int]]] = {
    "many classes of many images": ([20] * 40, {}, (5, (1, 5), 15)),
    "few images": ([4] * 20, {}, (3, (1, 2), 2)),
    "two images": ([2] * 40, {}, (5, (1, 1), 1)),
    "of very different sizes": ([3, 30, 30, 30] * 10, {}, (5, (1, 5), 15)),
    "five classes, whose images are split": ([30] * 5, {}, (5, (1, 2), 3)),
    "a larger way": ([20] * 100, {"most_way": 12, "most_shot": 1}, (12, (1, 1), 15)),
    "what is given stays": ([20] * 40, {"n_way": 2, "n_query": 3}, (2, (1, 5), 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_tasks_are_as_large_as_the_folder_allows(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, options, (way, shot, query) = CASES[name]
    content = png(0, size=40, channels=3)
    for c, n in enumerate(sizes):
        (tmp_path / "own" / f"class{c}").mkdir(parents=True)
        for i in range(n):
            (tmp_path / "own" / f"class{c}" / f"{i}.png").write_bytes(content)
    monkeypatch.setattr("metabox.tasks.images.folder.open_pack", lambda *_: None)
    monkeypatch.setattr("metabox.tasks.images.folder.StoredImages", lambda *_: None)
    monkeypatch.setattr(OwnPhotos, "_large_enough", lambda *_: None)
    tasks = OwnPhotos(str(tmp_path / "own"), **options)  # type: ignore[arg-type]
    tasks.load()
    assert (tasks.n_way, tasks.n_shot, tasks.n_query) == ((way, way), shot, (query, query))
    assert tasks.image_size == 40
    said = f"tasks of {way} classes, 1 to {shot[1]} shots and {query} queries, 40 pixels a side"
    assert said in caplog.text


def test_every_split_of_a_small_folder_can_be_drawn(tmp_path: Path) -> None:
    tasks = OwnPhotos(str(made(tmp_path / "own", list("abcdefg"), each=5, size=12)), channels=1)
    for split in ("train", "val", "test"):
        episodes = tasks.sample(Place(3, split))
        assert episodes.query.mask.any(1).all()
        assert tuple(episodes.support.x.shape[2:]) == (1, 28, 28)  # the least that a network sees something in
    with pytest.raises(ValueError, match="expected two classes of two images at least in each split"):
        OwnPhotos(str(made(tmp_path / "two", ["a", "b"], each=2))).spec  # noqa: B018


def test_the_recipe_learns_new_classes_from_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING)
    made(tmp_path / "own", list("abcdefg"), each=4, channels=3, size=40)
    short = [*SHORT, "--tasks.most_way", "2", "--learner.backbone.size", "32"]
    assert main(["train", "folder-photos", "--tasks.path", "own", "--out", "run", *short]) == 0
    assert "tasks of 2 classes" in caplog.text
    new = made(tmp_path / "new", ["x", "y", "z"], each=2, channels=3, size=50)
    files = sorted(new.rglob("*.png"))
    classifier = FewShotClassifier("run").fit(files, [file.parent.name for file in files])
    assert classifier.score(files, [file.parent.name for file in files]) == 1
