"""Losses in standard units: parts of any scale train under every weighting, and cosines show a conflict."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import metabox
from metabox.learners import HardSharing
from metabox.learners.base import Learner
from metabox.multitask import DWA, Fixed, GradientCosines, GradNorm, Random, Surgery, Uncertainty, WorstCase
from metabox.multitask.surgery import METHODS
from metabox.multitask.transfer import hint, read_cosines
from metabox.nn.backbones import MLP
from metabox.nn.conditioning import Concat, Heads
from metabox.targets import Classes, Part, Parts, Reals, Target, TaskSpec
from metabox.tasks.named import InMemory
from metabox.tasks.rows import Rows
from metabox.training.weighting import Weighting

pytest.importorskip("torchjd")

SCALES = (0.001, 1.0, 1000.0)
WEIGHTINGS: dict[str, Callable[[int], Weighting] | None] = {
    "plain": None,
    **{cls.__name__: cls for cls in (Uncertainty, GradNorm, Random, WorstCase)},
    "DWA": partial(DWA, period=10),
    **{method: partial(Surgery, method=method, every=5 if method == "nash" else 1) for method in METHODS},
}


def parts_of_three_scales(target: Target) -> InMemory:
    """Three numbers of one x, in units a million times apart and far from 0."""
    torch.manual_seed(0)
    x = torch.randn(240, 3)
    y = (x @ torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.4], [-0.5, 0.1, 1.0]]) + 3) * torch.tensor(SCALES)
    spec = TaskSpec((3,), Parts([Part(name, target) for name in ("small", "one", "large")]))
    split = np.array(["train", "val", "test"])[np.arange(240) % 3]
    return InMemory(Rows(x=x, y=y, split=split, spec=spec), n_support=0, n_query=16)


SMALL = partial(HardSharing, backbone=partial(MLP, width=24))


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_parts_of_scales_a_million_apart_train_under_every_weighting(name: str, tmp_path: Path) -> None:
    tasks = parts_of_three_scales(Reals(1, noise=1))
    outer = metabox.OuterLoop(
        steps=150, n_tasks=4, lr=2e-2, warmup=0, validate_every=150, n_validation=2, precision="32"
    )
    learner = metabox.run(tasks, SMALL, outer, weighting=WEIGHTINGS[name], out=tmp_path)
    scores = metabox.evaluate(learner, tasks, n_tasks=4)
    for part, scale in zip(tasks.spec.target.parts, SCALES, strict=True):
        deviation = float(learner.scaler.y[1][tasks.spec.target.parts.index(part)])  # type: ignore[union-attr]
        assert deviation == pytest.approx(scale, rel=0.5)
        assert scores.mean(f"squared_error_{part.name}") / deviation**2 < 0.15, part.name  # 1: the mean of y


class Seen(Fixed):
    """Keeps the losses that it is given."""

    last: torch.Tensor

    def weights(self, losses: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        Seen.last = losses.clone()
        return super().weights(losses, share)


@pytest.mark.parametrize("target", [Reals(1), Reals(1, noise=1)], ids=str)
def test_a_weighting_reads_losses_in_standard_units_and_nll_is_in_the_user_s(target: Reals, tmp_path: Path) -> None:
    tasks = parts_of_three_scales(target)
    outer = metabox.OuterLoop(steps=1, n_tasks=8, lr=1e-9, validate_every=1, n_validation=2, precision="32")
    learner = metabox.run(tasks, SMALL, outer, weighting=Seen, out=tmp_path)
    assert float(Seen.last.max() - Seen.last.min()) < 1  # the Jacobian alone: log 1000 = 6.9 apart
    scale = learner.scaler.y[1]  # type: ignore[union-attr]
    nll = metabox.evaluate(learner, tasks, n_tasks=4).mean("nll")
    normaliser = 3 * 0.5 * math.log(2 * math.pi) if target.noise else 0
    assert nll == pytest.approx(float(Seen.last.sum() + scale.log().sum()) + normaliser, abs=1.5)


def test_uncertainty_with_a_learned_scale_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for target in (Reals(1), metabox.Mixture(1)):
        with pytest.raises(ValueError, match=r"expected targets of a fixed scale.*Reals\(\.\.\., noise=1\)"):
            metabox.run(parts_of_three_scales(target), SMALL, weighting=Uncertainty, out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_uncertainty_takes_classes_and_named_tasks_of_one_noise() -> None:
    Uncertainty(2).fit(TaskSpec((2,), Parts([Part("a", Classes(2)), Part("b", Reals(1, noise=1))])))
    Uncertainty(2).fit(TaskSpec((2,), Reals(2, noise=1), descriptor_size=2, index_size=2, tasks=("a", "b")))
    with pytest.raises(ValueError, match=r"got Bars\("):
        Uncertainty(2).fit(TaskSpec((2,), metabox.Bars(1), descriptor_size=2, index_size=2, tasks=("a", "b")))


def opposite_tasks() -> InMemory:
    """y = w . x for one task, -w . x for the other, and the same noise."""
    torch.manual_seed(1)
    x, task = torch.randn(300, 4), np.arange(300) % 2
    y = (x @ torch.tensor([[1.0], [-0.5], [0.8], [0.3]])) * torch.tensor([1.0, -1.0])[task][:, None]
    spec = TaskSpec((4,), Reals(1), descriptor_size=2, index_size=2, tasks=("up", "down"))
    split = np.array(["train", "val", "test"])[np.arange(300) // 2 % 3]
    rows = Rows(x=x, y=y + 0.1 * torch.randn(300, 1), split=split, spec=spec, task=task, descriptors=torch.eye(2))
    return InMemory(rows, n_support=0, n_query=16)


def cosine_after(steps: int, learner: Callable[[TaskSpec], Learner], target: Reals, out: Path) -> float:
    """The mean cosine of the last ten steps."""
    outer = metabox.OuterLoop(
        steps=steps + 1, n_tasks=8, lr=2e-3, validate_every=steps + 1, n_validation=2, precision="32"
    )
    metabox.run(opposite_tasks(), learner, outer, target=target, hooks=[GradientCosines(every=1)], out=out)
    names, steps, cosines = read_cosines(out / "hooks" / "cosines.json")
    assert len(steps) == steps[-1] + 1
    assert hint(cosines, names).not_enough == ()
    return float(cosines[-10:, 0, 1].nanmean())


@pytest.mark.parametrize("noise", [None, 1.0])
def test_two_opposite_tasks_through_one_output_layer_conflict(noise: float | None, tmp_path: Path) -> None:
    learner = partial(HardSharing, backbone=partial(MLP, width=24), condition=Concat)
    assert cosine_after(30, learner, Reals(1, noise=noise), tmp_path) < -0.3


def test_with_a_head_each_they_need_not_conflict(tmp_path: Path) -> None:
    learner = partial(HardSharing, backbone=partial(MLP, width=24), condition=Heads)
    assert cosine_after(200, learner, Reals(1), tmp_path) > 0.3
