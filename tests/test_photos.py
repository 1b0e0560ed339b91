"""The model `photos` as a user meets it: three lines on Pillow's images, names of classes, and none of these."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from metabox import FewShotClassifier
from metabox.discover import models
from metabox.files import read_json
from metabox.shipped import find_model

COLOURS = {"lawn": (40, 160, 50), "sea": (20, 80, 190), "sand": (220, 190, 120)}
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "photos.json"


def picture(name: str, seed: int) -> Image.Image:
    """A sky over ground of the class's colour, both noisy; the horizon and the size differ."""
    draws = np.random.default_rng(seed)
    width, height = (int(side) for side in draws.integers(90, 160, 2))
    image = Image.new("RGB", (width, height), (180, 210, 240))
    horizon = int(height * draws.uniform(0.3, 0.5))
    ImageDraw.Draw(image).rectangle((0, horizon, width, height), COLOURS[name])
    noisy = np.asarray(image) + draws.normal(0, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def some(n: int, first: int) -> tuple[list[Image.Image], list[str]]:
    labels = [name for name in COLOURS for _ in range(n)]
    return [picture(name, first + i) for i, name in enumerate(labels)], labels


def test_three_lines_name_pictures_of_new_classes() -> None:
    (x, y), (asked, answers) = some(3, 0), some(4, 100)
    classifier = FewShotClassifier("photos").fit(x, y)
    assert classifier.classes_.tolist() == sorted(COLOURS)
    assert classifier.score(asked, answers) >= 11 / 12
    proba = classifier.predict_proba(asked)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    assert classifier.predict(asked, unknown=1.0).tolist() == [None] * 12


def test_more_classes_than_in_training_come_one_at_a_time() -> None:
    x, y = some(1, 0)
    classifier = FewShotClassifier("photos").fit(x[:2], y[:2])
    classifier.partial_fit([x[2]], [y[2]])
    assert classifier.predict(x).tolist() == y
    noise = np.random.default_rng(0).integers(256, size=(80, 32, 32, 3), dtype=np.uint8)
    assert FewShotClassifier("photos").fit(noise, list(range(40)) * 2).predict_proba(noise[:2]).shape == (2, 40)


def test_the_file_holds_no_second_copy_of_the_backbone() -> None:
    assert models()["photos"].stat().st_size < 1_000_000
    model = find_model("photos")
    assert {split: len(names) for split, names in model.class_names.items()} == {"train": 64, "val": 16, "test": 20}
    assert model.most_classes is None
    assert model.licence


@pytest.mark.parametrize("words", ["ImageNet", "Apache 2.0", "CIFAR-FS", "outside data"])
def test_the_card_tells_the_source(words: str) -> None:
    assert words in find_model("photos").card


def test_every_number_of_the_cards_table_is_that_of_the_results() -> None:
    result = read_json(RESULTS)
    rows = [line for line in find_model("photos").card.splitlines() if re.match(r"\| (class mean|photos)", line)]
    expected = [(row["accuracy_percent"], row["interval_95_percent"]) for row in (*result["rows"], *result["exam"])]
    assert [tuple(float(cell) for cell in row.split("|")[3:5]) for row in rows] == expected
    assert all(row["outside_data"] == "ImageNet" for row in (*result["rows"], *result["exam"], *result["validation"]))
