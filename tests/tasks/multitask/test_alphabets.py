"""Omniglot's alphabets as tasks, on the real drawings."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabox.tasks.descriptors import Metadata, Specification, Text
from metabox.tasks.multitask.alphabet_facts import about_alphabets
from metabox.tasks.multitask.alphabets import Alphabets
from metabox.tasks.place import Place


@pytest.fixture
def alphabets(omniglot_root: str) -> Alphabets:
    return Alphabets(data_root=omniglot_root, n_query=8)


def drawing(root: str, alphabet: str, character: int, drawer: int) -> torch.Tensor:
    """One drawing, read from the archive by its name, shrunk as Omniglot is."""
    with zipfile.ZipFile(Path(root) / "omniglot" / "images_background.zip") as archive:
        folder = f"images_background/{alphabet}/character{character:02}/"
        (name,) = (n for n in archive.namelist() if n.startswith(folder) and n.endswith(f"_{drawer:02}.png"))
        image = Image.open(io.BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.Resampling.BOX)
    return torch.from_numpy(255 - np.asarray(image))


def test_fifty_alphabets_have_all_drawings_each_in_one_split(alphabets: Alphabets) -> None:
    rows = alphabets.load()
    assert len(alphabets.spec.tasks) == 50
    assert len(rows.x) == 1623 * 20
    assert rows.ways is not None
    assert (rows.ways.sum(), rows.ways.min(), rows.ways.max()) == (1623, 14, 55)
    assert {split: int((np.asarray(rows.split) == split).sum()) for split in ("train", "val", "test")} == {
        "train": 1623 * 12,
        "val": 1623 * 4,
        "test": 1623 * 4,
    }


def test_a_drawing_is_in_the_split_of_its_drawer_with_the_label_of_its_character(
    alphabets: Alphabets, omniglot_root: str
) -> None:
    rows = alphabets.load()
    greek = alphabets.spec.tasks.index("Greek")
    for character, drawer, split in (
        (1, 1, "train"),
        (7, 12, "train"),
        (7, 13, "val"),
        (3, 16, "val"),
        (24, 20, "test"),
    ):
        wanted = drawing(omniglot_root, "Greek", character, drawer)
        (found,) = (rows.x[:, 0] == wanted).flatten(1).all(1).nonzero().flatten().tolist()
        assert rows.task is not None
        assert (rows.task[found], int(rows.y[found]), rows.split[found]) == (greek, character - 1, split)


def test_every_task_has_the_same_characters_in_all_splits_and_no_others(alphabets: Alphabets) -> None:
    for split in ("train", "val", "test"):
        episodes = Alphabets(data_root=alphabets.data_root, n_query=700).sample(Place(50, split))
        alphabets.spec.check_episodes(episodes)
        assert episodes.classes is not None
        for t in range(50):
            seen = episodes.query.y[t][episodes.query.mask[t]].unique()
            if split != "train":  # there, all rows of a task
                assert seen.tolist() == list(range(int(episodes.classes[t].sum())))


def test_some_alphabets_are_chosen_by_number_or_name_and_told_in_other_ways(omniglot_root: str) -> None:
    assert Alphabets(3, data_root=omniglot_root).spec.tasks == (
        "Alphabet_of_the_Magi",
        "Angelic",
        "Anglo-Saxon_Futhorc",
    )
    two = Alphabets(["Greek", "Korean"], drawers=(10, 5, 5), descriptor=Metadata(), data_root=omniglot_root)
    with pytest.raises(ValueError, match="expected the same number of finite features"):
        _ = two.spec
    assert Alphabets(["Korean", "Greek"], data_root=omniglot_root).spec.tasks == ("Korean", "Greek")


def test_every_alphabet_is_described_in_words_and_by_field(alphabets: Alphabets) -> None:
    about = about_alphabets(list(alphabets.spec.tasks))
    assert len({one.text for one in about}) == 50
    assert all(one.text.startswith(one.name.replace("_", " ")) for one in about)
    assert {field: len({one.specification[field] for one in about}) for field in about[0].specification} == {
        "kind": 4,
        "family": 10,
        "direction": 4,
    }
    told = Alphabets(descriptor=Specification(), untrained=("Greek",), data_root=alphabets.data_root, n_query=8)
    assert told.spec.descriptor_size == 18
    test = told.sample(Place(3, "test"))
    assert test.task.tolist() == [told.spec.tasks.index("Greek")] * 3
    assert Text().vectors(about).shape == (50, 256)


def test_what_is_not_there_is_named(omniglot_root: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"20 drawers in three parts of at least 1, got \(12, 4, 5\)"):
        Alphabets(drawers=(12, 4, 5))
    with pytest.raises(ValueError, match="got Elvish"):
        _ = Alphabets(["Elvish"], data_root=omniglot_root).spec
    with pytest.raises(ValueError, match="from 1 to 50 alphabets, got 51"):
        _ = Alphabets(51, data_root=omniglot_root).spec
