"""`TabularClassifier` and `TabularRegressor` take tables as people have them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from metabox import FewShotClassifier, TabularClassifier, TabularRegressor
from metabox.learners import CNP, TabularTransformer
from metabox.model import Model
from metabox.targets import Bars, Classes, Target, TaskSpec

pd = pytest.importorskip("pandas")
SMALL: dict[str, Any] = {"cell": 16, "column_depth": 1, "induced": 4, "row_depth": 1, "width": 32, "depth": 1}
N = 30


def model(target: Target, columns: int = 64) -> Model:
    torch.manual_seed(0)
    return Model(TabularTransformer(TaskSpec((columns,), target, scale="support"), **SMALL))


@pytest.fixture
def classifier() -> TabularClassifier:
    return TabularClassifier(model(Classes(10)))


@pytest.fixture
def regressor() -> TabularRegressor:
    return TabularRegressor(model(Bars(1, 20)))


def frame(seed: int = 0) -> Any:
    """Thirty rows of numbers, strings, categories, booleans and nullable numbers, some of them missing."""
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], N).astype(object)
    colour[3] = None
    size = rng.normal(size=N)
    size[5] = np.nan
    return pd.DataFrame(
        {
            "size": size,
            "colour": colour,
            "kind": pd.Categorical(rng.choice(["a", "b"], N)),
            "old": rng.random(N) < 0.5,
            "count": pd.array([pd.NA, *rng.integers(0, 9, N - 1).tolist()], dtype="Int64"),
            "sure": pd.array([pd.NA, *(rng.random(N - 1) < 0.5).tolist()], dtype="boolean"),
        }
    )


Y = np.where(np.arange(N) % 3 == 0, "no", "yes")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_the_checks_of_scikit_learn_pass_without_exception(kind: Any) -> None:
    results = check_estimator(kind(), on_skip=None)
    assert sum(result["status"] == "passed" for result in results) > 45


def test_a_data_frame_of_all_kinds_is_learned_and_answered(classifier: TabularClassifier) -> None:
    x = frame()
    proba = classifier.fit(x, Y).predict_proba(x)
    assert proba.shape == (N, 2)
    assert classifier.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-6)
    assert classifier.feature_names_in_.tolist() == list(x.columns)
    one = np.concatenate([classifier.predict_proba(x.iloc[i : i + 1]) for i in range(N)])
    np.testing.assert_allclose(one, proba, rtol=0, atol=1e-6)  # where a row stands in its batch may change its rounding
    again = clone(classifier).fit(x, Y)
    assert np.array_equal(again.predict_proba(x), proba), "the same bits each time"


def test_units_and_the_order_of_rows_and_columns_do_not_matter(classifier: TabularClassifier) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 4)), np.arange(N) % 3
    proba = classifier.fit(x, y).predict_proba(x)
    order, columns = rng.permutation(N), [2, 0, 3, 1]
    unit = np.array([1e-9, 1.0, 1e3, 1e9])
    other = clone(classifier).fit((x * unit + 1e9 * unit)[order][:, columns], y[order])
    np.testing.assert_allclose(other.predict_proba((x * unit + 1e9 * unit)[:, columns]), proba, atol=1e-4)
    np.testing.assert_allclose(clone(classifier).fit(x * unit, y).predict_proba(x * unit), proba, atol=1e-5)


def test_missing_only_when_asked_and_categories_never_seen_are_missing_values(classifier: TabularClassifier) -> None:
    x = frame()
    classifier.fit(x, Y)
    strange, gone = x.copy(), x.copy()
    strange["colour"], gone["colour"] = "ultraviolet", None
    assert np.array_equal(classifier.predict_proba(strange), classifier.predict_proba(gone))
    numbers = np.random.default_rng(0).normal(size=(N, 3))
    classifier.fit(numbers, Y)
    numbers[:, 1] = np.nan
    assert np.isfinite(classifier.predict_proba(numbers)).all()


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_a_column_that_is_empty_or_constant_in_the_examples_changes_nothing_or_little(
    classifier: TabularClassifier, value: float
) -> None:
    x = np.random.default_rng(0).normal(size=(N, 3))
    with_it = np.insert(x, 1, value, axis=1)
    proba = classifier.fit(with_it, Y).predict_proba(with_it)
    assert np.isfinite(proba).all()
    with_it[:, 1] = 3.0
    assert np.isfinite(classifier.predict_proba(with_it)).all()
    if np.isnan(value):
        np.testing.assert_allclose(classifier.predict_proba(with_it), proba, atol=1e-6)
        np.testing.assert_allclose(clone(classifier).fit(x, Y).predict_proba(x), proba, atol=1e-5)


def test_one_row_one_class_and_a_constant_target_are_answered(
    classifier: TabularClassifier, regressor: TabularRegressor
) -> None:
    x = np.random.default_rng(0).normal(size=(N, 3))
    assert classifier.fit(x[:1], ["a"]).predict_proba(x).tolist() == [[1.0]] * N
    for rows, value in ((1, 5.0), (N, 300.0), (N, 1e6), (N, 0.0)):
        mean, std = regressor.fit(x[:rows], np.full(rows, value)).predict(x, return_std=True)
        np.testing.assert_allclose(mean, value, rtol=1e-9, atol=1e-9)
        assert (std < 1e-5).all()


@pytest.mark.parametrize(("unit", "origin"), [(1.0, 1e9), (1e39, 0.0), (1e-90, 0.0), (1e90, -3e91)])
def test_targets_in_any_unit_are_answered_in_it(regressor: TabularRegressor, unit: float, origin: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 3)), rng.normal(size=N)
    mean, std = regressor.fit(x, y).predict(x, return_std=True)
    quantiles = regressor.predict_quantiles(x)
    other = clone(regressor).fit(x, y * unit + origin)
    there, spread = other.predict(x, return_std=True)
    np.testing.assert_allclose((there - origin) / unit, mean, atol=1e-4)
    np.testing.assert_allclose(spread / unit, std, rtol=1e-4)
    np.testing.assert_allclose((other.predict_quantiles(x) - origin) / unit, quantiles, atol=1e-4)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([1e160] * N, r"expected y between -1e\+100 and 1e\+100, got 1e\+160"),
        (np.array(["2020-01-01"] * N, dtype="datetime64[D]"), "expected y as real numbers, got dates"),
        ([1 + 2j] * N, "expected y as real numbers, got complex"),
        ([10**400] * N, "expected y as numbers, got something else"),
    ],
)
def test_targets_that_are_no_real_numbers_are_refused(regressor: Any, y: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        regressor.fit(np.zeros((N, 3)), y)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (pd.array(["a", pd.NA] * (N // 2), dtype="string"), "expected a label for each row, got <NA> in row 1"),
        (np.array([1, "a"] * (N // 2), dtype=object), "expected labels of one kind, got strings beside others"),
    ],
)
def test_labels_of_several_kinds_and_missing_ones_are_refused(classifier: Any, y: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        classifier.fit(np.zeros((N, 3)), y)
    assert classifier.fit(np.zeros((N, 3)), np.array([3, 5] * (N // 2), dtype=object)).classes_.tolist() == [3, 5]


def test_a_fit_that_fails_leaves_the_estimator_as_it_was(classifier: TabularClassifier) -> None:
    x = np.random.default_rng(0).normal(size=(N, 3))
    before = classifier.fit(x, np.arange(N) % 3).predict_proba(x)
    for call in (
        lambda: classifier.fit(x * 0.01 + 7, np.arange(N) % 11),
        lambda: classifier.fit(x[:, :2], [None] * N),
        lambda: classifier.partial_fit(x * 9, np.arange(N) % 11),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
        assert np.array_equal(classifier.predict_proba(x), before)


def test_no_connection_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr("socket.socket.connect", refused)
    x, y = load_iris(return_X_y=True)
    assert TabularClassifier().fit(x[::3], y[::3]).score(x[1::3], y[1::3]) > 0.9


@pytest.mark.parametrize("size", [1e300, 1e-200])
def test_huge_and_tiny_numbers_are_told_apart(classifier: TabularClassifier, size: float) -> None:
    x, y = np.random.default_rng(0).normal(size=(N, 3)), np.arange(N) % 3
    proba = classifier.fit(x, y).predict_proba(x)
    np.testing.assert_allclose(clone(classifier).fit(x * size, y).predict_proba(x * size), proba, atol=1e-5)


def with_(column: str, values: Any) -> Any:
    x = frame()
    x[column] = values
    return x


DATES = pd.date_range("2020-01-01", periods=N)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (lambda: with_("when", DATES), "column 'when', got dates"),
        (lambda: with_("when", DATES.astype(object)), "column 'when', got dates"),
        (lambda: with_("when", DATES - DATES[0]), "column 'when', got dates"),
        (lambda: pd.concat([with_("note", [f"{i} {k}" for i in range(N)]) for k in range(2)]), "free text or a name"),
        (lambda: with_("when", DATES.strftime("%d.%m.%Y")), "column 'when', got dates"),
        (lambda: with_("when", DATES.strftime("%Y-%m-%d %H:%M")), "column 'when', got dates"),
        (lambda: [[1.0, np.timedelta64(i, "D")] for i in range(N)], "column 1, got dates"),
        (lambda: [[10**400, 1]] * N, "numbers below 1.8e308 in column 0, got a larger one"),
        (lambda: with_("note", [f"this one is number {i % 20}" for i in range(N)]), "free text or a name"),
        (lambda: with_("mixed", [1, "?"] * (N // 2)), "numbers or strings in column 'mixed', got both"),
        (lambda: with_("size", np.inf), "column 'size', got infinity"),
        (lambda: np.zeros((N, 65)), "at most 64 columns for this model, got 65"),
    ],
)
def test_what_is_no_number_and_no_category_is_refused_by_name(classifier: Any, x: Callable[[], Any], said: str) -> None:
    table = x()
    with pytest.raises(ValueError, match=said):
        classifier.fit(table, np.resize(Y, len(table)))


def test_too_many_classes_and_other_models_are_refused_by_name(classifier: Any, regressor: Any) -> None:
    x = np.random.default_rng(0).normal(size=(N, 3))
    with pytest.raises(ValueError, match="expected at most 10 classes for this model, got 11; put rare ones together"):
        classifier.fit(x, np.arange(N) % 11)
    for size in (0, "x"):
        with pytest.raises(ValueError, match="expected batch_size as a whole number of at least 1"):
            clone(classifier).fit(x, Y).set_params(batch_size=size).predict(x)
    with pytest.raises(ValueError, match="expected a model of classes"):
        TabularClassifier(regressor.model).fit(x, Y)
    with pytest.raises(ValueError, match="whose learner is TabularTransformer, got CNP"):
        TabularClassifier(Model(CNP(TaskSpec((3,), Classes(3)), width=8))).fit(x, Y)
    with pytest.raises(NotFittedError):
        classifier.predict(x)


def test_a_column_that_changes_its_kind_is_refused_by_name(classifier: TabularClassifier) -> None:
    empty = with_("size", None)
    proba = classifier.fit(empty, Y).predict_proba(empty)
    for values in (1.0, "large"):  # it is not known of which kind an empty column is
        assert np.array_equal(classifier.predict_proba(with_("size", values)), proba)
    classifier.fit(frame(), Y)
    with pytest.raises(ValueError, match="expected strings in column 'colour', as in the examples, got numbers"):
        classifier.predict(with_("colour", 1.0))
    with pytest.raises(ValueError, match="expected numbers in column 'size', as in the examples, got strings"):
        classifier.predict(with_("size", "large"))
    with pytest.raises(ValueError, match="expected numbers in column 'size', as in the examples, got strings"):
        classifier.partial_fit(with_("size", "large"), Y)


def test_rows_and_their_categories_are_added(classifier: TabularClassifier) -> None:
    x = frame()
    x.loc[20:, "colour"] = "white"  # a level that the first rows do not have
    classifier.partial_fit(x[:20], Y[:20]).partial_fit(x[20:], Y[20:])
    whole = clone(classifier).fit(x, Y)
    assert np.array_equal(classifier.predict_proba(x), whole.predict_proba(x))


def test_a_saved_estimator_answers_the_same_and_takes_no_further_rows(
    classifier: TabularClassifier, regressor: TabularRegressor, tmp_path: Path
) -> None:
    x = frame()
    again = TabularClassifier.load(classifier.fit(x, Y).save(tmp_path / "c.metabox"))
    assert np.array_equal(again.predict_proba(x), classifier.predict_proba(x))
    with pytest.raises(ValueError, match=r"FewShotClassifier wrote in .*, got an estimator of tables"):
        FewShotClassifier.load(tmp_path / "c.metabox")
    with pytest.raises(ValueError, match="got a saved one, which has none"):
        again.partial_fit(x, Y)
    y = np.arange(N) * 1e6
    other = TabularRegressor.load(regressor.fit(x, y).save(tmp_path / "r.metabox"))
    assert np.array_equal(other.predict(x), regressor.predict(x))
    plain = Model(TabularTransformer(TaskSpec((3,), Classes(3)), **SMALL)).save(tmp_path / "plain.metabox")
    with pytest.raises(ValueError, match="expected what `save` of TabularClassifier wrote"):
        TabularClassifier.load(plain)


def test_a_pickle_holds_the_hash_of_the_weights_and_not_the_weights(tmp_path: Path) -> None:
    made, x = model(Classes(3)), load_iris().data[::10]
    path = made.save(tmp_path / "m.metabox")
    classifier = TabularClassifier(str(path)).fit(x, np.arange(15) % 3)
    content = pickle.dumps(classifier)
    assert made.fingerprint.encode() in content
    weight = next(iter(made.learner.parameters())).numpy().tobytes()
    assert weight not in content
    assert np.array_equal(pickle.loads(content).predict_proba(x), classifier.predict_proba(x))
    with torch.no_grad():
        next(iter(made.learner.parameters())).add_(1)
    Model(made.learner).save(path)
    with pytest.raises(ValueError, match="expected the weights that this estimator was fitted with"):
        pickle.loads(content)


def test_set_output_of_a_pipeline_hands_on_data_frames(classifier: TabularClassifier) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    x = frame()[["size", "old"]]
    pipeline = make_pipeline(SimpleImputer(), classifier).set_output(transform="pandas")
    pipeline.fit(x, Y)
    assert pipeline[-1].feature_names_in_.tolist() == ["size", "old"]
    assert set(pipeline.predict(x)) <= {"no", "yes"}


def test_quantiles_of_a_regressor_are_in_the_unit_of_y(regressor: TabularRegressor) -> None:
    x, y = frame(), 1e6 + 10 * np.arange(N)
    low, high = regressor.fit(x, y).predict_quantiles(x, (0.1, 0.9)).T
    mean, std = regressor.predict(x, return_std=True)
    assert (low < high).all()
    assert (np.abs(mean - y.mean()) < 1e3).all()
    assert ((std > 0) & (std < 1e4)).all()
    with pytest.raises(ValueError, match="expected a model of classes"):
        FewShotClassifier(regressor.model).fit(np.zeros((N, 64)), Y)
