"""`metabox list`: what is there, in columns that fit the terminal, and no sentence cut."""

from __future__ import annotations

import pytest

from metabox.cli.listing import KINDS, listing
from metabox.cli.main import main
from metabox.discover import _first_sentence, card, models, recipes, subclasses, title

ALL = {
    "learners": {found.name: found.summary for found in subclasses("Learner")},
    "backbones": {found.name: found.summary for found in subclasses("Backbone")},
    "datasets": {found.name: found.summary for found in subclasses("EpisodeSampler")},
    "models": {name: card(path).partition(":")[0] for name, path in models().items()},
    "recipes": {name: title(path) for name, path in recipes().items()},
}


def read(text: str) -> dict[str, dict[str, str]]:
    """Names and summaries of each kind, lines that go on joined."""
    kinds: dict[str, dict[str, str]] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            names = kinds.setdefault(line.removesuffix(":"), {})
        elif line.startswith("   "):
            names[name] += f" {line.strip()}"
        else:
            name, _, says = line.strip().partition(" ")
            names[name] = says.strip()
    return kinds


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_all_kinds_are_listed_with_whole_summaries_in_aligned_columns_within_the_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert read(said) == ALL
    assert {"Conv4", "Flatten", "MLP", "ResNet12", "SNAILEmbedding", "TorchVision"} <= set(ALL["backbones"])
    for kind, rows in ALL.items():
        start = 4 + max(map(len, rows))
        lines = listing(kind).splitlines()[1:]
        assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)
        assert columns == "40" or max(map(len, lines)) <= int(columns)  # a long word may stick out


def test_without_a_terminal_each_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert len(listing("learners").splitlines()) == 1 + len(ALL["learners"])
    assert read(listing()) == ALL


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_and_a_part_of_the_names_narrow_the_list(kind: str) -> None:
    assert read(listing(kind)) == {kind: ALL[kind]}
    word = next(reversed(ALL[kind]))[2:6]
    kept = {name: says for name, says in ALL[kind].items() if word.lower() in name.lower()}
    for way in (word, word.upper(), word.lower()):
        assert read(listing(kind, way)) == {kind: kept}
    assert 0 < len(kept) < len(ALL[kind])


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("", ""),
        ("One line.", "One line."),
        ("One sentence. Another.", "One sentence."),
        ("A sentence\nof two lines. Another.\n\nMore.", "A sentence of two lines."),
        ("No full stop\n\nMore. And more.", "No full stop"),
        (
            "After Finn et al. 2017, et al. (2018) and e.g. SNAIL. More.",
            "After Finn et al. 2017, et al. (2018) and e.g. SNAIL.",
        ),
        ("Which is it? This one.", "Which is it?"),
        ("y = 0.5 x, at x = 1. `x` is given.", "y = 0.5 x, at x = 1."),
    ],
)
def test_a_summary_is_the_whole_first_sentence(docstring: str, sentence: str) -> None:
    assert _first_sentence(docstring) == sentence
