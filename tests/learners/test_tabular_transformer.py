"""`TabularTransformer`: what must not change its predictions does not, and what is missing is said to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metabox import Place, Reals, TaskSpec
from metabox.episodes import Episodes, Examples
from metabox.learners import CNP, TabularTransformer
from metabox.nn.tabular import CellFeatures, beside, class_numbers
from metabox.objectives import QueryLoss
from metabox.targets import Bars
from metabox.tasks import TabularPrior
from metabox.testing.cases import build, outputs

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
NAN = torch.nan


def tables(target: Any = "classes", **options: Any) -> Episodes:
    """Four tables of 40 rows and 6 columns with categories and missing values."""
    prior = TabularPrior(target, n_rows=40, n_columns=6, n_classes=(2, 4), missing=0.9, categorical=0.5, **options)
    return prior.sample(Place(4))


OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with its neighbours": {"neighbours": True},
    "with levers": {"key_heads": 2, "scaled": True},
    "with an additive model": {"additive": True},
}


def learner(target: Any = "classes", options: str = "as it is") -> Any:
    spec = TabularPrior(target, n_columns=(1, 8), n_classes=(2, 4)).spec
    spec = spec if target == "classes" else TaskSpec((8,), Bars(n_bars=10), scale="support")
    return build(lambda s: TabularTransformer(s, cell=16, width=32, depth=2, **OPTIONS[options]), spec).double()


def doubled(e: Episodes) -> Episodes:
    def of(part: Examples) -> Examples:
        return replace(part, x=part.x.double(), y=part.y.double() if part.y.is_floating_point() else part.y)

    return replace(e, support=of(e.support), query=of(e.query))


def changed(e: Episodes, change: Any) -> Episodes:
    """The same with another x, in support and query."""
    return replace(e, support=replace(e.support, x=change(e.support.x)), query=replace(e.query, x=change(e.query.x)))


def with_column(x: Tensor, at: int, value: float) -> Tensor:
    return torch.cat([x[..., :at], torch.full_like(x[..., :1], value), x[..., at:]], -1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["classes", "reals"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x[..., [3, 0, 5, 1, 4, 2]], id="columns in another order"),
        pytest.param(lambda x: x * torch.tensor([2.0, 0.1, 7, 30, 1, 0.5]) - 3, id="columns in other units"),
        pytest.param(lambda x: with_column(x, 0, NAN), id="a column that the table does not have, first"),
        pytest.param(lambda x: with_column(with_column(x, 3, NAN), 7, NAN), id="two of them"),
    ],
)
def test_predictions_do_not_depend_on(target: Any, options: Any, change: Any) -> None:
    made, e = learner(target, options), doubled(tables(target))
    torch.testing.assert_close(outputs(made, changed(e, change)), outputs(made, e), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["classes", "reals"])
def test_predictions_do_not_depend_on_the_order_of_rows(target: Any, options: Any) -> None:
    made, e = learner(target, options), doubled(tables(target))
    order = torch.randperm(e.support.x.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = Examples(x=e.support.x[:, order], y=e.support.y[:, order])
    torch.testing.assert_close(outputs(made, e, shuffled), outputs(made, e), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
def test_renaming_classes_renames_predictions(options: Any) -> None:
    made, e = learner(options=options), doubled(tables())
    new = torch.tensor([2, 3, 1, 0])
    e = replace(e, classes=None)
    renamed = replace(e.support, y=new[e.support.y])
    torch.testing.assert_close(outputs(made, e, renamed)[..., new], outputs(made, e), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["classes", "reals"])
@pytest.mark.parametrize("more", [1, 3, 7])
def test_rows_of_padding_change_nothing_where_cells_and_columns_are_missing(
    target: Any, options: Any, more: int
) -> None:
    made, e = learner(target, options), doubled(tables(target))
    if target == "classes":  # of one size, so that what is in the cells decides
        e = replace(e, classes=None, support=replace(e.support, y=torch.arange(e.support.y.shape[1]).expand(4, -1) % 2))
    e = changed(e, lambda x: with_column(x, 2, NAN))
    padded = Examples(
        x=torch.cat([e.support.x, torch.zeros_like(e.support.x[:, :more])], 1),
        y=torch.cat([e.support.y, torch.zeros_like(e.support.y[:, :more])], 1),
        mask=torch.cat([e.support.mask, torch.zeros_like(e.support.mask[:, :more])], 1),
    )
    torch.testing.assert_close(outputs(made, e, padded), outputs(made, e), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["classes", "reals"])
@pytest.mark.parametrize("rows", [1, None])
def test_columns_that_order_the_rows_alike_may_change_places(target: Any, options: Any, rows: int | None) -> None:
    made, e = learner(target, options), doubled(tables(target))
    e = changed(e, lambda x: torch.cat([x, x[..., :1].exp()], -1))
    e = replace(e, support=e.support[:, :rows])
    other = changed(e, lambda x: x[..., [6, 4, 2, 3, 1, 5, 0]])
    torch.testing.assert_close(outputs(made, other), outputs(made, e), **CLOSE)


@pytest.mark.parametrize("options", OPTIONS)
def test_classes_of_the_same_rows_are_equally_probable(options: Any) -> None:
    made, e = learner(options=options), doubled(tables())
    half = e.support.x[:, :12]
    twice = Examples(x=torch.cat([half, half], 1), y=(torch.arange(24) // 12).expand(4, -1))
    logits = outputs(made, replace(e, classes=None), twice)
    torch.testing.assert_close(logits[..., 0], logits[..., 1], **CLOSE)


@pytest.mark.parametrize("decimals", [0, 1])
def test_a_cell_rounded_to_float32_is_the_same_cell(decimals: int) -> None:
    x = torch.randn(1, 60, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round(decimals=decimals)
    x = (x - x.median()) / x.std()
    features = CellFeatures()
    known = features.measure(x, torch.ones(1, 60, dtype=torch.bool))
    torch.testing.assert_close(features(x.float().double(), known), features(x, known), atol=1e-4, rtol=0)


def test_a_cell_stands_beside_the_first_and_the_third_after_it_among_the_columns_that_there_are() -> None:
    features = torch.arange(6.0).view(1, 6, 1, 1)  # of six columns, of which the third is not there
    place = torch.tensor([[4, 0, 5, 1, 3, 2]])
    exists = torch.tensor([[True, True, False, True, True, True]])
    got = beside(features, place, exists)[0, :, 0].tolist()
    in_order = [1, 3, 5, 4, 0]
    for at, column in enumerate(in_order):
        assert got[column] == [column, in_order[(at + 1) % 5], in_order[(at + 3) % 5]]


def test_real_y_in_another_unit_is_answered_in_it() -> None:
    made, e = learner("reals"), doubled(tables("reals"))
    other = replace(e.support, y=5000 + 20 * e.support.y)
    target = made.spec.target
    mean = target.mean(outputs(made, e, other))
    torch.testing.assert_close(mean, 5000 + 20 * target.mean(outputs(made, e)), rtol=1e-4, atol=1e-2)


def test_a_value_in_the_query_of_a_column_without_support_is_not_read() -> None:
    made, e = learner(), doubled(tables())
    gone = replace(e.support, x=with_column(e.support.x, 2, NAN))
    some, other = (replace(e, support=gone, query=replace(e.query, x=with_column(e.query.x, 2, v))) for v in (1.0, 7.0))
    assert torch.equal(outputs(made, some), outputs(made, other))
    torch.testing.assert_close(outputs(made, some), outputs(made, e), **CLOSE)


def test_a_missing_value_is_told_from_every_number() -> None:
    made, e = learner(), doubled(tables())
    base = changed(e, lambda x: x.nan_to_num(0.0))
    for value in (0.0, float(base.support.x[0, :, 0].mean()), NAN):
        x = base.query.x.clone()
        x[:, :, 0] = value
        got = outputs(made, replace(base, query=replace(base.query, x=x)))
        assert got.isfinite().all()
        if value == value:
            x[:, :, 0] = NAN
            gone = outputs(made, replace(base, query=replace(base.query, x=x)))
            assert not torch.allclose(got, gone, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
def test_queries_in_chunks_are_answered_as_at_once(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, e = learner(options=options), doubled(tables())
    whole = outputs(made, e)
    calls = []
    for module in ("learners.tabular_transformer", "nn.columns_then_rows"):
        monkeypatch.setattr(f"metabox.{module}.MOST_CELLS", 4 * e.support.x.shape[1] * 3)
    monkeypatch.setattr(made, "_answer", lambda phi, x, own=made._answer: calls.append(x.shape[1]) or own(phi, x))
    torch.testing.assert_close(outputs(made, e), whole, **CLOSE)
    assert max(calls) == 3
    assert sum(calls) == e.query.x.shape[1]
    one = [outputs(made, replace(e, query=e.query[:, i : i + 1])) for i in range(e.query.x.shape[1])]
    torch.testing.assert_close(torch.cat(one, 1), whole, **CLOSE)


def test_too_many_columns_and_another_number_than_the_support_had_are_refused() -> None:
    made, e = learner(), doubled(tables())
    with pytest.raises(ValueError, match=r"expected x of shape \[T, N, 8\]"):
        made.adapt(replace(e.support, x=torch.zeros(*e.support.x.shape[:2], 9).double()))
    phi = made.adapt(e.support)
    with pytest.raises(ValueError, match="expected x of the 6 columns of the support, got 5"):
        made.predict(phi, e.query.x[..., :5])
    with pytest.raises(ValueError, match="expected finite x"):
        made.predict(phi, e.query.x + torch.inf)


def test_another_learner_refuses_missing_values_by_name() -> None:
    e = tables()
    other = CNP(TabularPrior(n_columns=6, n_classes=(2, 4)).spec).eval()
    with pytest.raises(ValueError, match="expected finite x, got NaN"):
        other.adapt(e.support, None, e.classes)
    with pytest.raises(ValueError, match="expected finite x, got NaN"):
        other.check_episodes(e)
    learner().check_episodes(e)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_supports_of_hardly_any_row_are_answered(rows: int) -> None:
    made, e = learner(), doubled(tables())
    params = outputs(made, replace(e, support=e.support[:, :rows]))
    assert params.isfinite().all()


def test_a_place_among_the_knots_is_the_share_of_the_support_below() -> None:
    x = torch.randn(1, 1000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).exp()
    features = CellFeatures()
    known = features.measure(x, torch.ones(1, 1000, dtype=torch.bool))
    place = (features(x, known)[0, 0, :, 2] + 1) / 2
    exact = x[0, :, 0].argsort().argsort() / 999
    assert (place - exact).abs().max() < 0.02
    coded = torch.tensor([0.0, 0, 1, 1, 1, 2, 2, 2, 2, 2]).double()[None, :, None]
    known = features.measure(coded, torch.ones(1, 10, dtype=torch.bool))
    place = (features(coded, known)[0, 0, :, 2] + 1) / 2
    assert place[0] < place[2] < place[5]
    assert place[0] == place[1]


def test_class_numbers_are_by_size_and_then_by_what_is_in_the_cells() -> None:
    e = tables()
    number = class_numbers(e.support.x, e.support.y, e.support.mask, 4)
    size = (e.support.y[..., None] == torch.arange(4)).sum(1)
    ordered = size.gather(1, number.argsort(1))
    assert bool((ordered.diff(dim=1) <= 0).all())
    tied = replace(e.support, y=torch.arange(e.support.y.shape[1]).expand_as(e.support.y) % 2)
    both = {tuple(class_numbers(tied.x, y, tied.mask, 2)[0].tolist()) for y in (tied.y, 1 - tied.y)}
    assert both == {(0, 1), (1, 0)}  # of two classes of one size, the same one is first under both names


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target", ["classes", "reals"])
def test_a_training_step_on_tables_with_missing_values_has_finite_gradients(target: Any, options: Any) -> None:
    spec = TabularPrior(target, n_columns=8, n_classes=(2, 4)).spec
    spec = spec if target == "classes" else TaskSpec((8,), Reals(1), scale="support")
    made = TabularTransformer(spec, cell=16, width=32, depth=1, **OPTIONS[options])
    QueryLoss(made)(tables(target, odd=0.9))["loss"].sum().backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in made.parameters())


def test_fewer_key_heads_shrink_phi() -> None:
    def keys(heads: int) -> int:
        made = TabularTransformer(TabularPrior(n_columns=8, n_classes=(2, 4)).spec, width=32, key_heads=heads)
        phi = made.adapt(tables().support)
        return sum(part.numel() for name, part in phi.items() if name.startswith(("keys.", "values.")))

    assert keys(4) == 4 * keys(1)
