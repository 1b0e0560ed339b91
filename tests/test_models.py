"""The models that come with the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from metabox import FewShotClassifier, Model, TabularClassifier, TabularRegressor, discover

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


@pytest.mark.parametrize("name", ["tabular-small", "tabular-small-reals"])
def test_the_card_of_a_model_of_tables_has_the_numbers_of_its_result(name: str) -> None:
    result, card = json.loads((RESULTS / f"{name}.json").read_text()), Model.load(discover.models()[name]).card
    for row in result["curve"]:
        assert f"| {row['minutes']} | {row['steps']} |" in card
    assert result["run"]["trained_on"]["git_commit"] in card
    assert result["curve"][-1]["steps"] == result["run"]["steps"]


def test_the_models_of_tables_are_small() -> None:
    assert sum(discover.models()[name].stat().st_size for name in ("tabular-small", "tabular-small-reals")) < 6e6


def test_thirty_rows_of_a_real_table_are_enough_to_tell_most_others() -> None:
    x, y = load_wine(return_X_y=True)
    few, others = train_test_split(np.arange(len(y)), train_size=30, stratify=y, random_state=0)
    classifier = TabularClassifier().fit(x[few], y[few])
    assert classifier.score(x[others], y[others]) > 0.9
    assert log_loss(y[others], classifier.predict_proba(x[others])) < 0.4


def test_a_real_number_is_predicted_about_as_well_as_by_ridge_regression_and_better_than_by_a_forest() -> None:
    x, y = load_diabetes(return_X_y=True)
    score = TabularRegressor().fit(x[:300], y[:300]).score(x[300:], y[300:])
    assert score > Ridge().fit(x[:300], y[:300]).score(x[300:], y[300:]) - 0.03
    assert score > RandomForestRegressor(random_state=0).fit(x[:300], y[:300]).score(x[300:], y[300:])


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (190, 80)])
def test_characters_are_told_apart_on_paper_of_any_shade(paper: int, ink: int) -> None:
    support = [drawn("cross", 255, 0), drawn("seven", 0, 255)]
    classifier = FewShotClassifier("characters").fit(support, ["cross", "seven"])
    wanted = [name for name in LINES for _ in range(5)]
    queries = [drawn(name, paper, ink, seed) for seed, name in enumerate(wanted, start=1)]
    assert classifier.predict(queries).tolist() == wanted
    assert classifier.predict_proba(queries).max(1).min() > 0.8
