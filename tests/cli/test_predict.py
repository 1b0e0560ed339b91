"""`metabox predict` answers for images of classes that a folder shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabox import __version__
from metabox.cli.main import main
from metabox.data.preprocessing import Preprocessing
from metabox.learners import DenseMultiTask, ProtoNet
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.targets import Binary, Classes, Direction, Part, Parts, Reals, TaskSpec

SHADES = {"coal": 20, "ash": 120, "snow": 235}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a support of three shades of grey with the litter of file managers, and an image of each to ask for."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Model(ProtoNet(TaskSpec((1, 8, 8), Classes(3)), backbone=Flatten), Preprocessing(1, 8)).save("m.metabox")
    random = np.random.default_rng(0)
    for name, level in SHADES.items():
        (tmp_path / "support" / name).mkdir(parents=True)
        for i in range(3):
            pixels = (level + random.integers(-9, 9, (12, 10, 3))).astype(np.uint8)
            file = tmp_path / "support" / name / f"{i}.png" if i else tmp_path / f"{name}.jpg"
            Image.fromarray(pixels).save(file)
    (tmp_path / "support" / "ash" / ".DS_Store").write_bytes(b"")
    (tmp_path / "support" / "ash" / "Thumbs.db").write_bytes(b"")
    return tmp_path


ASKED = [f"{name}.jpg" for name in SHADES]


def test_a_table_shows_label_and_probability(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "m.metabox", "--support", "support", *ASKED]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "label", "probability"]
    assert [row.split()[:2] for row in rows] == [[f"{name}.jpg", name] for name in SHADES]
    assert all(0.9 < float(row.split()[2]) <= 1 for row in rows)


def test_json_has_every_probability_and_what_was_saved_needs_no_support(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "m.metabox", *ASKED, "--support", "support", "--json", "--save", "pets.metabox"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"] == ["ash", "coal", "snow"]
    for row, name in zip(found["images"], SHADES, strict=True):
        assert (row["image"], row["label"]) == (f"{name}.jpg", name)
        assert row["probabilities"][name] == row["probability"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert main(["predict", "pets.metabox", *ASKED, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == found["images"]


def test_an_image_of_no_class_is_said_to_be_unknown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cool = Model.load("m.metabox")
    Model(cool.learner, cool.preprocessing, temperature=100.0).save("cool.metabox")
    assert main(["predict", "cool.metabox", "coal.jpg", "--support", "support", "--unknown", "0.999"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1] == "(unknown)"


WRONG = {
    "no model": (["photographs", "coal.jpg", "--support", "support"], "expected a model's name"),
    "no support": (["m.metabox", "coal.jpg"], "expected what `save` of FewShotClassifier wrote in m.metabox"),
    "no folder": (["m.metabox", "coal.jpg", "--support", "nowhere"], "expected a folder with a folder of images"),
    "no image": (["m.metabox", "lost.jpg", "--support", "support"], "(lost.jpg): no such file"),
    "no images": (["m.metabox", "--support", "support"], "expected IMAGE, got nothing"),
    "a folder of loose images": (["m.metabox", "coal.jpg", "--support", "support/ash"], "expected <class>/<image>"),
    "an odd threshold": (["m.metabox", "coal.jpg", "--support", "support", "--unknown", "7"], "unknown"),
    "no device": (["m.metabox", "coal.jpg", "--support", "support", "--device", "toaster"], "expected a device"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, said = WRONG[name]
    assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"metabox {__version__}\n"


@pytest.fixture
def rooms(here: Path) -> Model:
    """A model with parts of several kinds, at every pixel and once."""
    parts = (
        Part("kind", Classes(3)),
        Part("age", Reals(1)),
        Part("tags", Binary(2)),
        Part("depth", Reals(1), (8, 8)),
        Part("normal", Direction(3), (8, 8)),
    )
    torch.manual_seed(0)
    spec = TaskSpec((1, 8, 8), Parts(parts), scale="training")
    learner = DenseMultiTask(spec, backbone=Flatten)
    learner.scaler.y[:] = torch.tensor([[50.0, 3.0], [10.0, 2.0]])  # type: ignore[union-attr]  # of age and depth
    model = Model(learner, Preprocessing(1, 8))
    model.save(here / "rooms.metabox")
    return model


def test_predictions_of_a_model_with_parts_are_by_part_and_in_the_units_of_y(rooms: Model, here: Path) -> None:
    params = rooms.predict(rooms.without_examples(), [here / asked for asked in ASKED])
    got = rooms.parts(params)
    assert {name: list(one.shape) for name, one in got.items()} == {
        "kind": [3, 3], "age": [3, 1], "tags": [3, 2], "depth": [3, 1, 8, 8], "normal": [3, 3, 8, 8],
    }  # fmt: skip
    torch.testing.assert_close(got["kind"].sum(1), torch.ones(3))
    assert ((got["tags"] > 0) & (got["tags"] < 1)).all()
    target = rooms.spec.target
    age = target.split_params(params)[1]  # type: ignore[attr-defined]
    torch.testing.assert_close(got["age"][:, 0], 50 + 10 * age[:, 0])
    torch.testing.assert_close(got["normal"].norm(dim=1), torch.ones(3, 8, 8))
    depth = target.split_params(params)[3]  # type: ignore[attr-defined]
    torch.testing.assert_close(got["depth"].flatten(1), 3 + 2 * depth[:, :64])


def test_the_table_has_a_column_for_each_part(rooms: Model, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "rooms.metabox", *ASKED]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["image", "kind", "age", "tags", "depth", "normal"]
    assert [row.split()[0] for row in rows] == ASKED
    assert all("8x8 pixels" in row for row in rows)
    assert main(["predict", "rooms.metabox", *ASKED, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert np.shape(found["images"][0]["depth"]) == (1, 8, 8)
    assert found["images"][1]["image"] == ASKED[1]


def test_a_model_without_parts_has_none(here: Path) -> None:
    with pytest.raises(ValueError, match="expected a model whose target has parts"):
        Model.load("m.metabox").parts(torch.zeros(1, 3))
