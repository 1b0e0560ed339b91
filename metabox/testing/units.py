"""What the conformance check of units needs: the same tasks in another unit."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.scaler import Y
from metabox.targets import TaskSpec
from metabox.targets.vector import RealVector
from metabox.testing.cases import MakeLearner, build, make_episodes

LOCATION, SCALE = 5000.0, 20.0


def check_scaled_predictions(make: MakeLearner, spec: TaskSpec) -> None:
    """A learner whose spec has a `scale` makes the same predictions in other units, and its densities are of those."""
    here, there = make_episodes(spec), in_other_units(make_episodes(spec), spec)
    predictions = []
    for episodes in (here, there):
        learner = build(make, spec)
        assert learner.scaler is not None
        learner.scaler.fit([episodes.support, episodes.query])
        phi = learner.adapt(episodes.support, episodes.descriptor)
        predictions.append(learner.predict(phi, episodes.query.x))
    one, other = predictions
    assert other.dtype == torch.promote_types(one.dtype, phi[Y].dtype if Y in phi else one.dtype)
    _close(_own(other, spec), _own(one, spec))
    if isinstance(spec.target, RealVector) and spec.target.has_density:
        jacobian = spec.target.size * math.log(SCALE)
        _close(
            spec.target.log_prob(other, there.query.y) + jacobian,
            spec.target.log_prob(one, here.query.y),
        )


def in_other_units(episodes: Episodes, spec: TaskSpec) -> Episodes:
    """The same tasks with vectors x in days from 0 to 6570, and real y times 20 and 5000 more, in float64."""
    real = torch.tensor([unit >= 0 for unit in spec.target.units])

    def other(part: Examples) -> Examples:
        x, y = part.x, part.y
        if len(spec.x_shape) < 3:
            x = 3285 + 3285 / 2 * x.double()  # from within -2 and 2
        if real.any():
            y = torch.where(real, LOCATION + SCALE * y.double(), y.double())
        return replace(part, x=x, y=y)

    return replace(episodes, support=other(episodes.support), query=other(episodes.query))


def _own(params: Tensor, spec: TaskSpec) -> Tensor:
    """The parameters without location and scale."""
    target = spec.target
    if not target.parts:
        return params[..., : target.n_params]
    widths = [part.n_params for part in target.parts]
    pieces = target.split_params(params)  # type: ignore[attr-defined]  # of `Parts`
    return torch.cat([piece[..., :n] for piece, n in zip(pieces, widths, strict=True)], dim=-1)


def _close(got: Tensor, wanted: Tensor) -> None:
    # x at location 0 is in float32, and the network may amplify its rounding; params of a y in float64 are in float64.
    torch.testing.assert_close(got, wanted, rtol=5e-3, atol=5e-3, check_dtype=False)
