"""ONNX graphs of a model answer as it does, for any number of tasks, examples and queries."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabox.data.preprocessing import Preprocessing
from metabox.export_onnx import export_onnx
from metabox.learners import CAML, CNP, InContext, ProtoNet
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

IMAGES = TaskSpec((1, 16, 16), Classes(3))
SCALED = TaskSpec((2,), Reals(1), scale="support")
LEARNERS: dict[str, tuple[Any, TaskSpec]] = {
    "a transformer": (lambda s: InContext(s, width=16, depth=1, heads=2, backbone=Flatten), IMAGES),
    "reals in any unit": (lambda s: CNP(s, width=16), SCALED),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Model, Path]]:
    made = {}
    for name, (make, spec) in LEARNERS.items():
        folder = tmp_path_factory.mktemp("served")
        model = Model(
            build(make, spec),
            Preprocessing(1, 16) if len(spec.x_shape) == 3 else None,
            {"train": ["ein", "zwei"]},
            temperature=1.6,
            name=name,
        )
        differences = export_onnx(model, folder)
        assert max(differences.values()) < 1e-4
        made[name] = model, folder
    return made


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 7, 1), (7, 2, 7), (3, 11, 5)])
def test_graphs_answer_as_the_model_does_at_any_size(
    name: str, sizes: tuple[int, int, int], exported: dict[str, tuple[Model, Path]]
) -> None:
    model, folder = exported[name]
    t, n, m = sizes
    episodes = make_episodes(model.spec, n_tasks=t, n_support=n, n_query=m, seed=9)
    support, classes = episodes.support, episodes.label_set(model.spec)
    adapt, predict = (onnxruntime.InferenceSession(folder / file) for file in ("adapt.onnx", "predict.onnx"))
    given = {"x": support.x, "y": support.y, "mask": support.mask, "classes": classes}
    there = {part.name for part in adapt.get_inputs()}
    phi = adapt.run(None, {key: part.numpy() for key, part in given.items() if key in there})
    named = dict(zip([part.name for part in adapt.get_outputs()], phi, strict=True))
    used = {part.name for part in predict.get_inputs()}
    named["queries"] = episodes.query.x.numpy()
    (answer,) = predict.run(None, {key: part for key, part in named.items() if key in used})
    wanted = model.learner.predict(model.learner.adapt(support, None, classes), episodes.query.x)
    if classes is not None:
        wanted = (wanted / 1.6).softmax(-1)
    np.testing.assert_allclose(answer, wanted.detach().numpy(), atol=1e-4)


def test_what_a_model_knows_beside_weights_is_in_both_graphs(exported: dict[str, tuple[Model, Path]]) -> None:
    _, folder = exported["a transformer"]
    for file in ("adapt.onnx", "predict.onnx"):
        session = onnxruntime.InferenceSession(folder / file)
        about = json.loads(session.get_modelmeta().custom_metadata_map["metabox"])
        assert about["class_names"] == {"train": ["ein", "zwei"]}
        assert about["spec"]["target"]["size"] == 3
        assert about["most_classes"] == 3
        assert about["preprocessing"]["image_size"] == 16
        assert about["temperature"] == 1.6


def test_classes_outside_a_task_have_probability_0(exported: dict[str, tuple[Model, Path]]) -> None:
    model, folder = exported["a transformer"]
    adapt, predict = (onnxruntime.InferenceSession(folder / file) for file in ("adapt.onnx", "predict.onnx"))
    x = np.random.default_rng(0).integers(256, size=(1, 4, 1, 16, 16), dtype=np.uint8)
    given = {"x": x, "y": np.array([[0, 2, 0, 2]]), "mask": np.ones((1, 4), bool)}
    phi = adapt.run(None, given | {"classes": np.array([[True, False, True]])})
    named = dict(zip([part.name for part in adapt.get_outputs()], phi, strict=True))
    (answer,) = predict.run(None, named | {"queries": x})
    assert (answer[..., 1] == 0).all()
    assert model.most_classes == answer.shape[-1] == 3


def test_a_size_that_the_exporter_has_fixed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, dynamic_shapes, **more: export(*arguments, **more))
    model = Model(build(lambda s: CNP(s, width=8), TaskSpec((2,), Reals(1))))
    with pytest.raises(ValueError, match="expected graphs for any number of tasks, examples and queries, got"):
        export_onnx(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_learner_that_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    learner = build(lambda s: CAML(s, width=16, depth=1, heads=2), TaskSpec((4,), Classes(3)))
    with pytest.raises(ValueError, match="expected a learner that ONNX can express, got CAML"):
        export_onnx(Model(learner), tmp_path)


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[onnx\]"'):
        export_onnx(Model(ProtoNet(IMAGES, backbone=Flatten)), tmp_path)
