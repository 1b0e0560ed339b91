"""Numbers in any unit: what the scale of a spec does to learners, densities and runs."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import metabox
from metabox.episodes import Episodes, Examples
from metabox.export import export, load_exported
from metabox.learners import CNP, NP, TNPA, InContext
from metabox.learners.scaler import X, Y
from metabox.objectives import JointLoss, LatentLoss, QueryLoss, StreamLoss
from metabox.targets import Bars, Binary, Classes, Part, Parts, Reals, TaskSpec
from metabox.targets.spec import Scale
from metabox.tasks.functions.sinusoids import Sinusoids
from metabox.tasks.place import Place
from metabox.tasks.wrappers.base import Wrapper
from metabox.testing import build, make_episodes
from metabox.testing.units import in_other_units
from metabox.training.description import read_description

LINE = TaskSpec((1,), Reals(1), scale="support")


class OtherUnits(Wrapper):
    """The same functions with x in days and y = 5000 + 20 times as much."""

    def change(self, episodes: Episodes, place: Place) -> Episodes:
        return in_other_units(episodes, self.spec)


def examples(x: list[float], y: list[float], mask: list[bool] | None = None) -> Examples:
    there = None if mask is None else torch.tensor([mask])
    return Examples(x=torch.tensor(x)[None, :, None], y=torch.tensor(y)[None, :, None], mask=there)  # type: ignore[arg-type]


# ------------------------------------------------------------------ statistics


@pytest.mark.parametrize(
    ("support", "x", "y"),
    [
        (examples([1.0, 3.0], [5.0, 7.0]), (2.0, 1.0), (6.0, 1.0)),
        (examples([1.0, 3.0, 99.0], [5.0, 7.0, 99.0], [True, True, False]), (2.0, 1.0), (6.0, 1.0)),
        (examples([0.5], [2.0]), (0.0, 1.0), (1.0, 2.0)),  # the statistics of training
        (examples([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]), (0.0, 1.0), (1.0, 2.0)),  # rounding is no spread
        (examples([7.0, 8.0], [5000.0, 5000.0]), (7.5, 0.5), (4994.0, 2.0)),  # within 3 scales of the location
        (examples([], []), (0.0, 1.0), (1.0, 2.0)),
        (examples([1e9, 1e9 + 256], [0.0, 2e-6]), (1e9 + 128, 128.0), (1e-6, 1e-6)),
    ],
)
def test_a_support_has_its_mean_and_deviation_and_without_two_values_those_of_training(
    support: Examples, x: tuple[float, float], y: tuple[float, float]
) -> None:
    learner = build(CNP, LINE)
    assert learner.scaler is not None
    learner.scaler.x.copy_(torch.tensor([[0.0], [1.0]]))
    learner.scaler.y.copy_(torch.tensor([[1.0], [2.0]]))
    phi = learner.adapt(support)
    torch.testing.assert_close(phi[X][0, :, 0], torch.tensor(x))
    torch.testing.assert_close(phi[Y][0, :, 0], torch.tensor(y))


def test_a_run_keeps_mean_and_deviation_of_the_training_tasks_with_the_weights(tmp_path: Path) -> None:
    tasks = Sinusoids(n_support=5, n_query=5)
    learner = metabox.run(tasks, partial(CNP, width=8), OUTER, out=tmp_path)
    assert learner.scaler is not None
    parts = [tasks.sample(Place(50, first=first)) for first in range(0, 1000, 50)]
    y = torch.cat([part.y for p in parts for part in (p.support, p.query)])
    torch.testing.assert_close(learner.scaler.y[:, 0], torch.stack([y.mean(), y.std(correction=0)]))
    spec = read_description(tmp_path).spec
    assert spec.scale == "training"
    again = CNP(spec, width=8)
    metabox.tensors.load_weights(again, tmp_path / "best.safetensors")  # type: ignore[attr-defined]
    assert torch.equal(again.scaler.y, learner.scaler.y)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="scale: training there, none now"):
        metabox.run(tasks, partial(CNP, width=8), OUTER, scale="none", out=tmp_path)


def test_only_numbers_have_a_scale_and_parts_have_one_for_each_channel() -> None:
    parts = (Part("kind", Classes(3)), Part("depth", Reals(2), (2, 2)), Part("marks", Binary(2)), Part("age", Reals(1)))
    assert Parts(parts).units == (-1, *[0] * 4, *[1] * 4, -1, -1, 2)
    assert CNP(TaskSpec((1, 16, 16), Classes(3), scale="support")).scaler is None
    assert InContext(TaskSpec((3,), Classes(3), scale="support")).scaler is not None


# ------------------------------------------------------------------ densities


@pytest.mark.parametrize("target", [Reals(1), Reals(1, noise=0.5), Bars(1, n_bars=20)], ids=str)
def test_a_density_in_units_integrates_to_one_and_has_the_mean_of_the_integral(target: Reals | Bars) -> None:
    torch.manual_seed(0)
    location, scale = torch.tensor([5000.0]), torch.tensor([7.0])
    params = target.in_units(torch.randn(1, 1, target.n_params), location, scale)
    y = torch.linspace(4900, 5100, 400_001, dtype=torch.float64)
    p = target.log_prob(params.expand(1, len(y), -1), y[None, :, None]).exp()[0].double()
    assert float(p.sum() * (y[1] - y[0])) == pytest.approx(1, abs=2e-3)
    mean = target.mean_and_scale(params)[0] if isinstance(target, Reals) else target.mean(params)
    assert float(mean) == pytest.approx(float((p * y).sum() / p.sum()), abs=0.05)
    if isinstance(target, Bars):
        below = p.cumsum(0) / p.sum()
        assert float(target.quantile(params, 0.3)) == pytest.approx(float(y[below > 0.3][0]), abs=0.05)
    else:
        deviation = float((p * (y - float(mean)).square()).sum() / p.sum()) ** 0.5
        assert float(target.mean_and_scale(params)[1]) == pytest.approx(deviation, rel=1e-3)
        if target.noise:
            assert deviation == pytest.approx(7 * target.noise, rel=1e-3)  # noise is a share of the scale
    same = target.mixture(params[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(target.log_prob(same, y[None, :1, None]), target.log_prob(params, y[None, :1, None]))


def test_parts_count_the_jacobian_once_for_each_mean_over_labels() -> None:
    target = Parts((Part("kind", Classes(3)), Part("depth", Reals(1), (2, 2), weight=0.5), Part("age", Reals(1))))
    params, y = torch.randn(2, 3, target.n_params), torch.randn(2, 3, 6)
    y[..., 0] = 1.0
    y[0, 0, 2] = math.nan
    scale = torch.tensor([1.0, *[20.0] * 4, 3.0])
    mask, other = torch.ones(2, 3, dtype=torch.bool), target.in_units(params, torch.zeros(6), scale)
    jacobian = 0.5 * math.log(20) + math.log(3)
    torch.testing.assert_close(target.nll(other, y * scale, mask), target.nll(params, y, mask) + jacobian)
    for of in ("loss", "error"):  # what is minimised does not depend on the unit
        got, wanted = target.losses(other, y * scale, mask, of), target.losses(params, y, mask, of)
        torch.testing.assert_close(got, wanted)
    scores = target.scores(target.in_units(params, torch.zeros(6), scale), y * scale)
    torch.testing.assert_close(scores["squared_error_age"], 9 * target.scores(params, y)["squared_error_age"])


# ------------------------------------------------------------------ objectives and runs

OUTER = metabox.OuterLoop(steps=3, n_tasks=4, validate_every=3, n_validation=4, precision="32", warmup=0)
SMALL = Sinusoids(n_support=(2, 6), n_query=4)


@pytest.mark.parametrize("scale", ["training", "support"])
@pytest.mark.parametrize(
    ("learner", "objective", "target"),
    [
        (CNP, QueryLoss, None),
        (CNP, StreamLoss, Bars(1, n_bars=10)),
        (NP, partial(LatentLoss, predict_support=True), None),
        (TNPA, JointLoss, None),
    ],
)
def test_a_run_in_other_units_ends_with_the_same_weights_and_nats_of_those_units(
    tmp_path: Path, scale: Scale, learner: Any, objective: Any, target: Any
) -> None:
    nll = []
    state: list[dict[str, Tensor]] = []
    for name, tasks in (("here", SMALL), ("there", OtherUnits(SMALL))):
        options: dict[str, Any] = {"objective": objective, "target": target, "scale": scale}
        made = metabox.run(tasks, partial(learner, width=16), OUTER, **options, out=tmp_path / name)
        state.append(dict(made.named_parameters()))
        nll.append(metabox.evaluate(made, tasks, n_tasks=8, objective=objective).mean("nll"))
    for name, value in state[0].items():
        torch.testing.assert_close(state[1][name], value, rtol=1e-2, atol=2e-3)
    assert nll[1] == pytest.approx(nll[0] + math.log(20), abs=2e-2)


def test_dates_in_seconds_are_not_rounded_to_minutes() -> None:
    learner = build(CNP, LINE)
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[None, :, None]
    y = x.sin().float()
    got, wanted = (
        learner.predict(learner.adapt(Examples(x=u, y=y)), u)
        for u in (1.7e9 + 30 * x, x)  # a minute in all
    )
    torch.testing.assert_close(got, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        ("training", r"expected y within 1e\+06 scales of its location, got 3e\+09, where the training tasks had "
                     r"location 1 and scale 2; give it in their unit"),
        ("support", r"expected x within 1e\+06 scales of its location, got 3e\+09, where this task.s support had"),
    ],
)  # fmt: skip
def test_an_absurd_number_is_named_with_the_scale(scale: Scale, says: str) -> None:
    learner = build(CNP, replace(LINE, scale=scale))
    assert learner.scaler is not None
    learner.scaler.y.copy_(torch.tensor([[1.0], [2.0]]))
    support = examples([0.0, 1.0], [0.0, 3e9 if scale == "training" else 1.0])
    with pytest.raises(ValueError, match=says):
        learner.predict(learner.adapt(support), torch.tensor([[[3e9]]]))


def test_exported_graphs_take_any_unit(tmp_path: Path) -> None:
    learner, episodes = build(CNP, LINE), in_other_units(make_episodes(LINE), LINE)
    export(learner, episodes, tmp_path)
    served, s = load_exported(tmp_path, trusted=True), episodes.support
    got = served.predict(served.adapt(s.x, s.y, s.mask), episodes.query.x)
    torch.testing.assert_close(got, learner.predict(learner.adapt(s), episodes.query.x))


def test_a_scale_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="scale"):
        TaskSpec((1,), Reals(1), scale="standard")  # type: ignore[arg-type]
