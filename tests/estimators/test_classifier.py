"""`FewShotClassifier` is a classifier of scikit-learn, on vectors and on images."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from made_up import made
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator

from metabox import FewShotClassifier
from metabox.data.preprocessing import Preprocessing
from metabox.learners import CNP, InContext, ProtoNet
from metabox.model import Model
from metabox.nn.backbones import Conv4, Flatten
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import build

IMAGES = TaskSpec((1, 16, 16), Classes(3))


def shades(n: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of three shades of grey, n of each, in a random order."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.repeat(["black", "grey", "white"], n))
    level = np.select([y == "black", y == "grey"], [40, 128], 215)
    return (level[:, None, None] + random.integers(-9, 9, (3 * n, 20, 20))).astype(np.uint8), y


X, Y = shades()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(ProtoNet(IMAGES, backbone=Flatten), Preprocessing(1, 16))


@pytest.fixture
def limited() -> Model:
    learner = build(lambda s: InContext(s, backbone=partial(Conv4, width=8), width=16, depth=1, heads=2), IMAGES)
    return Model(learner, Preprocessing(1, 16))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_checks_of_scikit_learn_pass_on_vectors() -> None:
    model = Model(ProtoNet(TaskSpec((32,), Classes(5)), backbone=Flatten), padded=True)
    results = check_estimator(FewShotClassifier(model), on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 50


def encoded(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def files(images: np.ndarray, folder: Path) -> list[str]:
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(images))]


KINDS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "one array": lambda x, _: x,
    "with a channel": lambda x, _: x[..., None],
    "in colour": lambda x, _: np.repeat(x[..., None], 3, -1),
    "floats": lambda x, _: x / 255,
    "whole numbers": lambda x, _: x.astype(np.int64),
    "a list of arrays": lambda x, _: list(x),
    "images": lambda x, _: encoded(x),
    "paths": files,
    "objects of Path": lambda x, f: [Path(name) for name in files(x, f)],
    "an array of paths": lambda x, f: np.array(files(x, f)),
    "a column of paths": lambda x, f: np.array(files(x, f), dtype=object)[:, None],
    "a mixture": lambda x, f: [x[0], Image.fromarray(x[1]), *files(x[2:], f)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind_give_the_same_predictions(kind: str, model: Model, tmp_path: Path) -> None:
    wanted = FewShotClassifier(model).fit(X, Y).predict_proba(X)
    given = KINDS[kind](X, tmp_path)
    assert np.array_equal(FewShotClassifier(model).fit(given, Y).predict_proba(given), wanted)


def test_labels_and_columns_stay_those_of_the_user(model: Model) -> None:
    classifier = FewShotClassifier(model).fit(X, Y)
    assert classifier.classes_.tolist() == ["black", "grey", "white"]
    test, labels = shades(seed=1)
    assert classifier.score(test, labels) == 1
    proba = classifier.predict_proba(test)
    assert np.array_equal(classifier.classes_[proba.argmax(1)], labels)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    numbers = np.select([Y == "black", Y == "grey"], [30, 10], 20)
    other = FewShotClassifier(model).fit(X, numbers)
    assert other.classes_.tolist() == [10, 20, 30]
    np.testing.assert_allclose(other.predict_proba(test), proba[:, [1, 2, 0]], rtol=1e-6)


def test_one_by_one_is_as_all_at_once_in_any_order(limited: Model) -> None:
    for views in (1, 3):
        classifier = FewShotClassifier(limited, views=views, batch_size=5).fit(X, Y)
        proba = classifier.predict_proba(X)
        alone = np.concatenate([classifier.predict_proba(X[i : i + 1]) for i in range(len(X))])
        np.testing.assert_allclose(alone, proba, atol=1e-5)
        np.testing.assert_allclose(classifier.predict_proba(X[::-1])[::-1], proba, atol=1e-5)
    assert len(classifier.predict(X)) == len(X)


def test_the_order_of_the_examples_does_not_matter(limited: Model) -> None:
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = FewShotClassifier(limited).fit(X[order], Y[order])
    np.testing.assert_allclose(
        shuffled.predict_proba(X), FewShotClassifier(limited).fit(X, Y).predict_proba(X), atol=1e-5
    )


def test_inputs_stay_unchanged(model: Model) -> None:
    images, labels, pictures = X.copy(), Y.copy(), encoded(X)
    FewShotClassifier(model, views=2).fit(images, labels).predict(images)
    FewShotClassifier(model).fit(pictures, labels).predict(pictures)
    assert np.array_equal(images, X)
    assert np.array_equal(labels, Y)
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(pictures, X, strict=True))


def test_a_clone_is_not_fitted_and_keeps_the_parameters(model: Model) -> None:
    classifier = FewShotClassifier(model, views=2).fit(X, Y)
    fresh = clone(classifier)
    assert fresh.get_params() == classifier.get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    with pytest.raises(NotFittedError):
        fresh.save("x.metabox")
    assert fresh.set_params(views=3).views == 3


def test_examples_and_classes_are_added(model: Model) -> None:
    two = Y != "white"
    classifier = FewShotClassifier(model).partial_fit(X[two], Y[two])
    assert classifier.classes_.tolist() == ["black", "grey"]
    classifier.partial_fit(X[~two], Y[~two])
    whole = FewShotClassifier(model).fit(np.concatenate([X[two], X[~two]]), np.concatenate([Y[two], Y[~two]]))
    assert classifier.classes_.tolist() == whole.classes_.tolist()
    assert np.array_equal(classifier.predict_proba(X), whole.predict_proba(X))
    assert FewShotClassifier(model).partial_fit(X[two], Y[two], ["white", "red"]).classes_.tolist() == [
        *("black", "grey", "red", "white")
    ]
    with pytest.raises(ValueError, match="expected labels of one kind"):
        classifier.partial_fit(X[:1], [3])


@pytest.mark.parametrize("kept", ["a file", "a pickle", "joblib"])
def test_a_kept_classifier_predicts_the_same(kept: str, model: Model, tmp_path: Path) -> None:
    classifier = FewShotClassifier(model, views=2).fit(X, Y)
    if kept == "a file":
        again = FewShotClassifier.load(classifier.save(tmp_path / "pets.metabox"))
        with pytest.raises(ValueError, match="expected an estimator with its examples, got a saved one"):
            again.partial_fit(X, Y)
    elif kept == "a pickle":
        again = pickle.loads(pickle.dumps(classifier))
        again.partial_fit(X[:1], ["new"])
        again.fit(X, Y)
    else:
        joblib.dump(classifier, tmp_path / "it")
        again = joblib.load(tmp_path / "it")
    assert np.array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.classes_.tolist() == classifier.classes_.tolist()
    assert np.array_equal(again.predict(X), classifier.predict(X))


def test_it_works_in_the_tools_of_scikit_learn(model: Model, tmp_path: Path) -> None:
    paths = files(X, tmp_path)
    assert cross_val_score(FewShotClassifier(model), paths, Y, cv=2).tolist() == [1, 1]
    pipeline = make_pipeline(FunctionTransformer(lambda x: x[:, ::-1]), FewShotClassifier(model))
    assert pipeline.fit(X, Y).score(X, Y) == 1
    search = GridSearchCV(FewShotClassifier(model), {"views": [1, 2]}, cv=2).fit(X, Y)
    assert search.best_params_["views"] == 1
    tags = get_tags(FewShotClassifier(model))
    assert tags.estimator_type == "classifier"
    assert (tags.input_tags.two_d_array, tags.input_tags.string, tags.target_tags.required) == (False, True, True)


def test_what_is_like_no_class_is_unknown(model: Model) -> None:
    test, labels = shades(1, seed=1)
    classifier = FewShotClassifier(model).fit(X, Y)
    between = np.full((1, 20, 20), 171, dtype=np.uint8)
    soft = FewShotClassifier(Model(model.learner, model.preprocessing, temperature=50.0)).fit(X, Y)
    most = soft.predict_proba(between).max()
    assert most < soft.predict_proba(test).max(1).min()
    got = soft.predict(np.concatenate([test, between]), unknown=most + 1e-6)
    assert got.tolist() == [*labels, None]
    assert classifier.predict(test, unknown=0.0).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="unknown"):
        classifier.predict(test, unknown=2)


WRONG: dict[str, tuple[Callable[[Model], Any], str]] = {
    "too many classes": (lambda m: FewShotClassifier(m).fit(X[:4], list("abcd")), "expected at most 3 classes"),
    "no labels": (lambda m: FewShotClassifier(m).fit(X, None), "requires y"),
    "labels of another length": (lambda m: FewShotClassifier(m).fit(X, Y[:3]), "expected a label for each of 12"),
    "real labels": (lambda m: FewShotClassifier(m).fit(X, np.linspace(0, 1, 12)), "Unknown label type"),
    "no views": (lambda m: FewShotClassifier(m, views=0).fit(X, Y), "expected views"),
    "flat images": (lambda m: FewShotClassifier(m).fit(X.reshape(12, -1), Y), "expected images as an array"),
    "a name": (lambda m: FewShotClassifier("no such model").fit(X, Y), "got 'no such model'"),
    "a model of reals": (
        lambda m: FewShotClassifier(Model(CNP(TaskSpec((2,), Reals(1))))).fit(X, Y),
        "expected a model of classes",
    ),
    "a text as image": (lambda m: FewShotClassifier(m).fit([*X[:11], "readme.md"], Y), r"number 11 \(readme.md\)"),
    "views of vectors": (
        lambda m: FewShotClassifier(Model(ProtoNet(TaskSpec((2,), Classes(2)))), views=2).fit(np.eye(2), ["a", "b"]),
        "expected 1 view of inputs that are no uint8 images, got 2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_answered(name: str, limited: Model) -> None:
    use, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        use(limited)


def test_a_model_is_given_by_its_file_and_its_learners_class_may_be_of_a_plugin(model: Model, tmp_path: Path) -> None:
    path = str(model.save(tmp_path / "m.metabox"))
    classifier = FewShotClassifier(path).fit(X, Y)
    assert np.array_equal(classifier.predict_proba(X), FewShotClassifier(model).fit(X, Y).predict_proba(X))
    (tmp_path / "mine.py").write_text("from metabox.learners import ProtoNet\nclass Mine(ProtoNet):\n    pass\n")
    program = (
        "import sys; sys.path.insert(0, '.'); from mine import Mine; from metabox import Model, TaskSpec, Classes\n"
        "Model(Mine(TaskSpec((2,), Classes(2)))).save('own.metabox')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    x = [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(ValueError, match=r"class of metabox or of a plugin, got 'mine\.Mine'"):
        FewShotClassifier(tmp_path / "own.metabox").fit(x, ["a", "b"])
    own = FewShotClassifier(tmp_path / "own.metabox", plugins=(str(tmp_path / "mine.py"),)).fit(x, ["a", "b"])
    assert own.predict_proba(x).shape == (2, 2)


def test_it_is_imported_only_when_it_is_used(tmp_path: Path) -> None:
    program = "import sys, json, metabox; print(json.dumps([m in sys.modules for m in ('torch', 'sklearn')]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [False, False]


def test_an_encoded_image_in_memory_is_none(model: Model) -> None:
    stream = io.BytesIO()
    Image.fromarray(X[0]).save(stream, "png")
    with pytest.raises(ValueError, match="which is no path, Pillow image or array"):
        FewShotClassifier(model).fit([stream.getvalue(), *X[1:]], Y)


def test_folders_of_images_are_no_images(model: Model, tmp_path: Path) -> None:
    folder = made(tmp_path / "images", ["a"])
    with pytest.raises(ValueError, match=r"number 0 \(.*images/a\): no such file"):
        FewShotClassifier(model).fit([folder / "a"], ["a"])
