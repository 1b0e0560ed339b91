"""A model file holds all that a trained learner needs, and reading a damaged or hostile one executes nothing."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import made

from metabox import model_file
from metabox.adaptation import Adaptation
from metabox.cli.main import main
from metabox.data.preprocessing import Preprocessing
from metabox.learners import CNP, InContext, ProtoNet
from metabox.model import Model, load_file
from metabox.nn.backbones import Conv4, Flatten
from metabox.nn.pretrained import TorchVision
from metabox.shipped import find_model
from metabox.targets import Bars, Classes, Reals, TaskSpec
from metabox.testing import build

IMAGES = TaskSpec((1, 16, 16), Classes(3))
VECTORS = TaskSpec((4,), Classes(3))
X = np.random.default_rng(0).integers(256, size=(6, 16, 16), dtype=np.uint8)
Y = ["cat", "dog", "eel"] * 2


def small(spec: TaskSpec) -> InContext:
    from functools import partial

    backbone = partial(Conv4, width=8) if len(spec.x_shape) == 3 else None
    return InContext(spec, backbone=backbone, width=16, depth=1, heads=2)


@pytest.fixture
def model() -> Model:
    return Model(
        build(small, IMAGES),
        Preprocessing(1, 16, inverted=True),
        {"train": ["a", "b"]},
        temperature=1.7,
        name="small",
        licence="MIT",
        card="Drawn by a test.",
    )


@pytest.mark.parametrize("norm", ["batch", "transductive"])
def test_queries_that_are_normalised_together_are_answered_together(norm: str) -> None:
    from functools import partial

    made = Model(build(partial(ProtoNet, backbone=partial(Conv4, width=8, norm=norm)), IMAGES), Preprocessing(1, 16))
    learned = made.adapt(X, Y)
    torch.testing.assert_close(made.predict(learned, X, batch=2), made.predict(learned, X, batch=6))


def test_what_is_saved_is_loaded_with_the_same_bits(model: Model, tmp_path: Path) -> None:
    learned = model.adapt(X, Y)
    loaded, again = load_file(model.save(tmp_path / "m.metabox", learned))
    assert again is not None
    assert torch.equal(loaded.predict(again, X), model.predict(learned, X))
    assert again.classes == ("cat", "dog", "eel")
    for name in ("preprocessing", "class_names", "temperature", "name", "licence", "card", "padded", "spec"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.fingerprint == model.fingerprint
    assert not loaded.learner.training


@pytest.mark.parametrize(
    "learner",
    [
        CNP(TaskSpec((2,), Reals(1), scale="training")),
        InContext(TaskSpec((2,), Bars(1, 8), scale="support"), width=16, depth=1, heads=2),
    ],
)
def test_statistics_of_scale_and_borders_are_part_of_the_file(learner: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        for buffer in learner.buffers():
            if buffer.is_floating_point():
                buffer.mul_(3)
    model = Model(learner)
    x, y = np.linspace(0, 6000, 10).reshape(5, 2), [5001, 5002, 5003, 5004, 5003.5]
    loaded = Model.load(model.save(tmp_path / "m.metabox"))
    assert torch.equal(loaded.predict(loaded.adapt(x, y), x), model.predict(model.adapt(x, y), x))


def test_a_pretrained_backbone_is_loaded_from_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    def refuse(*_: Any, weights: Any = None, **__: Any) -> Any:
        assert weights is None, "would be downloaded"
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 196, 5))

    from torchvision import models

    monkeypatch.setattr(models, "get_model", refuse)
    spec = TaskSpec((3, 16, 16), Classes(3))
    learner = ProtoNet(spec, backbone=partial(TorchVision, name="resnet18"))
    config = learner.config["backbone"]
    config["weights"] = "IMAGENET1K_V1"  # as if it had been trained from them
    loaded = Model.load(Model(learner).save(tmp_path / "m.metabox"))
    backbone = loaded.learner.embed.backbone
    assert backbone.mean.flatten()[0] == pytest.approx(0.485)
    assert "IMAGENET1K_V1" in backbone.origin


def test_an_adaptation_is_saved_without_the_examples_and_tells_its_size(model: Model, tmp_path: Path) -> None:
    learned = model.adapt(X, Y, classes=["eel", "dog", "cat", "fox"][:3])
    path = learned.save(tmp_path / "pets.metabox")
    assert repr(learned) == f"Adaptation(3 classes, phi of {learned.n_bytes / 1e3:.1f} kB)"
    assert path.stat().st_size < learned.n_bytes + 3000
    again = Adaptation.load(path)
    assert again.classes == ("eel", "dog", "cat")
    assert torch.equal(model.predict(again, X), model.predict(learned, X))
    other = Model(build(small, IMAGES))
    with torch.no_grad():
        next(other.learner.parameters()).add_(1)
    with pytest.raises(ValueError, match="expected an adaptation of this model, got that of another one"):
        other.predict(again, X)


def test_a_run_becomes_a_model_that_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "images", [f"class{i}" for i in range(6)])
    monkeypatch.chdir(tmp_path)
    short = ["--outer.steps", "1", "--outer.n_tasks", "1", "--outer.warmup", "0", "--n_test", "1"]
    short += ["--outer.validate_every", "1", "--outer.n_validation", "1", "--outer.accumulate", "1"]
    tasks = json.dumps(
        {
            "class_path": "ClassFolder",
            "init_args": {"path": str(folder), "channels": 1, "image_size": 16, "n_way": 2, "n_shot": 1, "n_query": 1},
        }
    )
    own = ["--tasks", tasks, "--evaluation", tasks, "--learner", "ProtoNet", "--out", "run"]
    assert main(["train", "glyphs-5w1s-incontext", *own, *short]) == 0
    x = sorted((folder / "class0").glob("*.png"))
    for path in folder.rglob("*.png"):
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    model = Model.from_run("run", licence="MIT")
    model.save("m.metabox")
    x = [tmp_path / f"class{c}-{i}.png" for c in range(2) for i in range(4)]
    for loaded in (model, Model.load("m.metabox"), find_model("run"), find_model("m.metabox")):
        assert loaded.predict(loaded.adapt(x, ["a"] * 4 + ["b"] * 4), x).shape == (8, 2)
        assert loaded.preprocessing is not None
        assert set(loaded.class_names) == {"train", "val", "test"}
        assert loaded.name == "run"


def test_models_of_the_package_are_listed_if_the_name_is_another(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a model's name, .*, got 'fotos'; .* with "):
        find_model("fotos")
    with pytest.raises(ValueError, match="expected a model's name, its file, the folder of a run, or a Model, got"):
        find_model(3)


def test_a_copy_shares_the_weights_and_a_pickle_has_its_own(model: Model) -> None:
    assert copy.deepcopy(model) is model
    loaded = pickle.loads(pickle.dumps(model))
    learned = model.adapt(X, Y)
    assert torch.equal(loaded.predict(learned, X), model.predict(learned, X))


@pytest.mark.cuda
def test_what_was_on_a_gpu_is_loaded_without_one(model: Model, tmp_path: Path) -> None:
    there = Model(copy.deepcopy(model.learner)).to("cuda")
    loaded, learned = load_file(there.save(tmp_path / "m.metabox", there.adapt(X, Y)))
    assert loaded.device.type == "cpu"
    assert learned is not None
    torch.testing.assert_close(loaded.predict(learned, X), there.predict(there.adapt(X, Y), X).cpu())
    assert pickle.loads(pickle.dumps(there)).device.type == "cpu"


WRONG_USE: dict[str, tuple[Any, str]] = {
    "four classes": (lambda m: m.adapt(X[:4], list("abcd")), "expected at most 3 classes for this model"),
    "a label too few": (lambda m: m.adapt(X, Y[:-1]), "expected a class for each of 6 inputs, got 5"),
    "a class twice": (lambda m: m.adapt(X, Y, ["cat", "cat", "dog", "eel"]), "expected classes that are all different"),
    "a class left out": (lambda m: m.adapt(X, Y, ["cat", "dog"]), "include those of y"),
    "one image": (lambda m: m.predict(m.adapt(X, Y), X[0]), "put a single image into a list"),
    "no image": (lambda m: m.predict(m.adapt(X, Y), []), "expected at least one image, got none"),
    "no file": (lambda m: m.predict(m.adapt(X, Y), ["a.png"]), r"number 0 \(a.png\): no such file"),
    "floats of another range": (lambda m: m.predict(m.adapt(X, Y), X * 1.0), "floats from 0 to 1"),
    "no views": (lambda m: m.adapt(X, Y, views=0), "expected views"),
    "no adaptation": (lambda m: m.predict({}, X), "expected an Adaptation"),
    "another suffix": (lambda m: m.save("m.pt"), "expected a file name that ends in .metabox"),
    "no temperature": (lambda m: replace(m, temperature=0.0), "temperature"),
}


@pytest.mark.parametrize("name", WRONG_USE)
def test_wrong_use_is_answered(name: str, model: Model) -> None:
    use, said = WRONG_USE[name]
    with pytest.raises(ValueError, match=said):
        use(model)


def test_a_model_that_needs_a_descriptor_is_refused() -> None:
    model = Model(build(CNP, TaskSpec((4,), Classes(3), descriptor_size=2)))
    with pytest.raises(ValueError, match="that learns from examples alone, got one that needs a descriptor"):
        model.adapt(np.zeros((3, 4)), list("abc"))


# Damaged and hostile files.


def changed(path: Path, change: Any) -> Path:
    """The model file with other metadata (or tensors), and a hash that fits."""
    tensors, about = model_file.from_bytes("model", path.read_bytes(), "")
    change(about, tensors)
    return model_file.write(path.with_stem("changed"), model_file.to_bytes("model", tensors, about))


def test_every_flipped_byte_and_every_cut_is_noticed(model: Model, tmp_path: Path) -> None:
    content = model.save(tmp_path / "m.metabox", model.adapt(X, Y)).read_bytes()
    positions = [*range(40), *range(40, len(content), len(content) // 60)]
    for at in positions:
        flipped = content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :]
        for damaged in (flipped, content[:at]):
            with pytest.raises(ValueError, match="expected"):
                model_file.from_bytes("model", damaged, "m")


HOSTILE: dict[str, Any] = {
    "a function": lambda a, t: a.update(learner={"class_path": "os.system", "init_args": {"command": "touch ran"}}),
    "a class of torch": lambda a, t: a.update(learner={"class_path": "torch.nn.Linear", "init_args": {}}),
    "no learner": lambda a, t: a.update(learner={"class_path": "metabox.nn.backbones.Conv4", "init_args": {}}),
    "a run elsewhere": lambda a, t: a["learner"]["init_args"].update(
        backbone={"class_path": "metabox.from_run.FromRun", "init_args": {"run": "."}}
    ),
    "a huge width": lambda a, t: a["learner"]["init_args"].update(width=2**40),
    "a width that fits in memory": lambda a, t: a["learner"]["init_args"].update(width=2**14),
    "no end of layers": lambda a, t: a["learner"]["init_args"].update(depth=10**12),
    "a file name as learner": lambda a, t: a.update(learner="/etc/passwd"),
    "no description": lambda a, t: a.update(learner=None),
    "deep": lambda a, t: a.update(spec=json.loads("[" * 500 + "]" * 500)),
    "a spec of another kind": lambda a, t: a.update(spec={"class": "os.system", "command": "touch ran"}),
    "a huge spec": lambda a, t: a["spec"].update(x_shape=[2**40, 2, 2]),
    "another temperature": lambda a, t: a.update(temperature="hot"),
    "a long card": lambda a, t: a.update(card="x" * 2_000_000),
    "names of no split": lambda a, t: a.update(class_names={"all": ["a"]}),
    "weights left out": lambda a, t: t.pop(next(iter(t))),
    "other tensors": lambda a, t: t.update(extra=torch.zeros(3)),
    "phi without classes": lambda a, t: t.update({"phi.x": torch.zeros(1, 3)}),
    "classes that repeat": lambda a, t: (
        a.update(adaptation={"classes": ["a", "a"]}),
        t.update({"phi.x": torch.zeros(1, 3)}),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(
    name: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed(model.save(tmp_path / "m.metabox"), HOSTILE[name])
    read: list[object] = []
    monkeypatch.setattr("metabox.recipe.load_run", lambda *given: read.append(given))
    with pytest.raises(ValueError, match="expected"):
        load_file(path)
    assert not read
    assert sorted(os.listdir()) == ["changed.metabox", "m.metabox"]


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ():
        yield from leaves(content[key], (*path, key))


def test_any_other_value_anywhere_is_read_or_refused(model: Model, tmp_path: Path) -> None:
    path = model.save(tmp_path / "m.metabox", model.adapt(X, Y))
    tensors, about = model_file.from_bytes("model", path.read_bytes(), "")
    odd = [None, -1, 10**30, 1.5, "x", [], {}]
    for number, place in enumerate(leaves(about)):
        other = copy.deepcopy(about)
        parent = other
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = odd[number % len(odd)]
        path.write_bytes(model_file.to_bytes("model", tensors, other))
        with suppress(ValueError):
            load_file(path)


def test_other_files_are_no_models(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4", b"\xff" * 100, (2**63).to_bytes(8, "little") + b"{}", b"\2" + b"\0" * 7 + b"{}"):
        (tmp_path / "m.metabox").write_bytes(content)
        with pytest.raises(ValueError, match="expected a model of metabox in"):
            Model.load(tmp_path / "m.metabox")
    os.mkfifo(tmp_path / "pipe.metabox")
    with pytest.raises(ValueError, match="found no such file"):
        Model.load(tmp_path / "pipe.metabox")


def test_weights_lose_nothing_in_half_precision(tmp_path: Path) -> None:
    learner = ProtoNet(VECTORS, backbone=Flatten)
    learner.register_buffer("exact", torch.tensor([0.5, 1.0]))
    learner.register_buffer("fine", torch.tensor([0.1, 1e-9]))
    tensors, _ = model_file.from_bytes("model", model_file.to_bytes("model", dict(learner.state_dict()), {}), "")
    assert tensors["exact"].dtype == torch.float16
    assert torch.equal(tensors["fine"], learner.fine)
