"""The models that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from metabox import FewShotClassifier, Model, discover

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
LINES = {"cross": [(20, 50, 80, 50), (50, 20, 50, 80)], "seven": [(20, 20, 80, 20), (80, 20, 40, 80)]}


def drawn(name: str, paper: int, ink: int, seed: int = 0) -> Image.Image:
    """A character of two strokes, never twice the same, on paper that is wider than high."""
    rng, image = np.random.default_rng(seed), Image.new("L", (140, 100), paper)
    for line in LINES[name]:
        a, b, c, d = (np.array(line) + rng.integers(-5, 6, 4)).tolist()
        ImageDraw.Draw(image).line((a + 20, b, c + 20, d), fill=ink, width=6)
    return image.filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize("name", discover.models())
def test_a_model_that_ships_names_licence_and_result_and_is_small(name: str) -> None:
    path = discover.models()[name]
    model = Model.load(path)
    assert (model.name, bool(model.licence)) == (name, True)
    assert model.card == discover.card(path)
    assert "`python benchmarks/" in model.card
    assert path.stat().st_size < 8e6


def test_the_card_of_characters_has_the_numbers_of_its_result() -> None:
    result, card = (
        json.loads((RESULTS / "characters.json").read_text()),
        Model.load(discover.models()["characters"]).card,
    )
    for row in result["rows"]:
        assert f"| {row['task']} | {row['accuracy_percent']} | {row['interval_95_percent']} |" in card
    assert result["run"]["trained_on"]["git_commit"] in card
    assert re.search(r"\bno real image\b", card)


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (190, 80)])
def test_characters_are_told_apart_on_paper_of_any_shade(paper: int, ink: int) -> None:
    support = [drawn("cross", 255, 0), drawn("seven", 0, 255)]
    classifier = FewShotClassifier("characters").fit(support, ["cross", "seven"])
    wanted = [name for name in LINES for _ in range(5)]
    queries = [drawn(name, paper, ink, seed) for seed, name in enumerate(wanted, start=1)]
    assert classifier.predict(queries).tolist() == wanted
    assert classifier.predict_proba(queries).max(1).min() > 0.8
