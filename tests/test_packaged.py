"""A model over weights that come with the package names them by hash; its file does not hold them a second time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabox import model_file
from metabox.learners import ProtoNet
from metabox.model import Model
from metabox.nn.efficientnet import EfficientNetLite0
from metabox.nn.projection import Projection
from metabox.targets import Classes, TaskSpec

BACKBONE = "embed.backbone.backbone"
X = np.random.default_rng(0).integers(256, size=(4, 3, 32, 32), dtype=np.uint8)


def photographs(**options: Any) -> Model:
    backbone = partial(EfficientNetLite0, size=None, **options)
    return Model(ProtoNet(TaskSpec((3, 32, 32), Classes(2)), backbone=partial(Projection, backbone=backbone, rank=8)))


def predicted(model: Model) -> torch.Tensor:
    return model.predict(model.adapt(torch.from_numpy(X), list("abab")), torch.from_numpy(X))


def test_the_file_is_small_and_answers_with_the_same_bits(tmp_path: Path) -> None:
    model = photographs()
    path = model.save(tmp_path / "m.metabox")
    assert path.stat().st_size < 100_000
    loaded = Model.load(path)
    assert predicted(loaded).equal(predicted(model))
    assert loaded.fingerprint == model.fingerprint
    assert loaded.save(tmp_path / "again.metabox").stat().st_size == path.stat().st_size


@pytest.mark.parametrize("change", ["weights", "pretrained"])
def test_weights_that_are_no_longer_those_of_the_package_are_stored(change: str, tmp_path: Path) -> None:
    model = photographs(pretrained=change == "weights")
    if change == "weights":
        with torch.no_grad():
            next(iter(model.learner.get_submodule(BACKBONE).parameters()))[0, 0, 0, 0] += 1
    path = model.save(tmp_path / "m.metabox")
    assert path.stat().st_size > 5_000_000
    assert predicted(Model.load(path)).equal(predicted(model))


@pytest.mark.parametrize(
    "packaged",
    [
        {BACKBONE: "0" * 32},
        {BACKBONE: None},
        {"embed.backbone": "0" * 32},
        {"nothing": "0" * 32},
        {"": "0" * 32},
        {},
        [],
        None,
        [BACKBONE],
        "packaged",
        7,
    ],
)
def test_other_names_and_hashes_are_refused_in_one_line(packaged: Any, tmp_path: Path) -> None:
    path = photographs().save(tmp_path / "m.metabox")
    tensors, about = model_file.from_bytes("model", path.read_bytes(), "m")
    about["learner"]["packaged"] = packaged
    model_file.write(path, model_file.to_bytes("model", tensors, json.loads(json.dumps(about))))
    with pytest.raises(ValueError, match=r"expected (a file that names|the) weights of") as caught:
        Model.load(path)
    assert "\n" not in str(caught.value)
