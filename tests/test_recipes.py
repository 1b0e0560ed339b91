"""Every recipe of the package: it reads, its claim says where it is from, and it takes a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import SHORT

from metabox import recipe
from metabox.cli import main
from metabox.discover import recipes, subclasses
from metabox.files import read_json

BY_HAND = ("celeba", "census", "nyuv2", "miniimagenet", "tieredimagenet", "cub")
"""Sets that everyone must get for themselves. Their readers' tests take a step on made-up files in the same layout."""


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_what_it_is_and_its_claim_says_where_it_is_from(name: str, monkeypatch) -> None:
    monkeypatch.delenv("METABOX_DATA", raising=False)  # reading a recipe opens no data
    path = recipe.find(name)
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# ")
    assert len(first) <= 120
    config = recipe.parse(recipe.make_parser(path), [])
    learner = config.learner.class_path.rpartition(".")[2]
    assert learner in {found.name for found in subclasses("Learner")}
    if config.claim:
        assert 0 < config.claim.value <= 100
        assert any(character.isdigit() for character in config.claim.source)
        assert "table" in config.claim.source
        assert config.claim.protocol
        metric, _, instance = config.claim.metric.partition("_instance_")
        assert metric == "accuracy"
        assert not instance or config.objective.class_path.endswith("StreamLoss")


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_takes_a_step_and_is_evaluated_or_says_where_to_get_its_data(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch, capsys
) -> None:
    if any(real in name for real in ("omniglot", "alphabets", "cifarfs", "completion")):
        monkeypatch.setenv("METABOX_DATA", request.getfixturevalue("omniglot_root"))
    if name.startswith(BY_HAND):
        monkeypatch.setenv("METABOX_DATA", str(tmp_path))
    parsed = recipe.parse(recipe.make_parser(recipe.find(name)), [])
    learner = next(found for found in subclasses("Learner") if parsed.learner.class_path.endswith(f".{found.name}"))
    if learner.load().requires:
        pytest.importorskip(learner.load().requires)
    if name.startswith(BY_HAND):
        capsys.readouterr()  # what an optional package says when it is imported, as gym does
        assert main(["train", name, *SHORT, "--out", str(tmp_path / "run")]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("metabox: error: expected ")
        assert name.partition("-")[0] in line.lower()
        assert "METABOX_DATA" in line
        return
    if "pretrained" in name:  # its first half
        monkeypatch.chdir(tmp_path)
        assert main(["train", name.partition("-")[0] + "-pretrain-conv4-cpu", *SHORT]) == 0
    assert main(["train", name, *SHORT, "--out", str(tmp_path)]) == 0
    result = read_json(next((tmp_path / "results").glob("*.json")))
    if parsed.claim:
        assert parsed.claim.metric in result["summary"]
        assert "accuracy_renamed" in result["memorisation"]
