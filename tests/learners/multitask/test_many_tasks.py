"""Thousands of named tasks: what is told by index is gathered, and nothing is K x K."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from toys import named_rows

from metabox.learners import PLE, CrossStitch, HardSharing, Independent, MMoE, SoftSharing
from metabox.learners.base import Learner
from metabox.nn.backbones import MLP
from metabox.nn.conditioning import Add, Concat
from metabox.objectives import QueryLoss
from metabox.targets import Reals, TaskSpec
from metabox.tasks.descriptors import Beside, OneHot, Specification
from metabox.tasks.multitask.regressions import DescribedRegressions
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows
from metabox.training.preflight import check
from metabox.training.settings import OuterLoop

T, ROWS = 8, 6
GATHERED: list[Callable[..., Learner]] = [HardSharing, Independent, SoftSharing, MMoE, partial(PLE, levels=1)]


def sampler(k: int) -> InMemory:
    x = torch.randn(k * ROWS, 4, generator=torch.Generator().manual_seed(0))
    rows = Rows(
        x=x,
        y=x[:, :1],
        split=np.tile(np.repeat(["train", "val", "test"], 2), k),
        spec=TaskSpec((4,), Reals(1, noise=1), descriptor_size=k, index_size=k, tasks=tuple(map(str, range(k)))),
        task=np.repeat(np.arange(k), ROWS),
    )
    return InMemory(rows, n_query=2)


class Largest(TorchDispatchMode):
    """Notes the most numbers of any tensor that is made inside."""

    most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **kwargs or {})
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.most = max(self.most, part.numel())
        return made


def step(make: Callable[..., Learner], k: int) -> tuple[int, int, int]:
    """Numbers in the largest tensor of drawing, building and a step; its products; and the parameters."""
    torch.manual_seed(0)
    with Largest() as seen, FlopCounterMode(display=False) as counter:
        tasks = sampler(k)
        objective = QueryLoss(make(tasks.spec)).train()
        objective.learner.fit(tasks)
        objective(tasks.sample(Place(T)))["loss"].mean().backward()
    return seen.most, counter.get_total_flops(), sum(p.numel() for p in objective.parameters())


@pytest.mark.parametrize("make", GATHERED)
def test_memory_and_parameters_are_linear_in_the_number_of_tasks_and_products_do_not_depend_on_it(make: Any) -> None:
    few, many, more = (step(make, k) for k in (10, 1000, 2000))
    assert many[1] == few[1]
    assert 990 * (more[2] - many[2]) == 1000 * (many[2] - few[2])
    assert more[0] <= 2 * many[0]  # a table of K x K would have four times as many


@pytest.mark.parametrize("make", [*GATHERED, CrossStitch, PLE])
def test_a_network_that_is_gathered_is_the_one_that_its_code_mixes(make: Any) -> None:
    tasks = InMemory(named_rows(), n_query=3)
    torch.manual_seed(0)
    learner = make(tasks.spec)
    learner.fit(tasks)
    episodes = tasks.sample(Place(6))
    code = learner.train().adapt(episodes.support, episodes.descriptor)
    assert code["code"].argmax(1).tolist() == episodes.task.tolist()
    assert not learner.chooser(code).is_floating_point()
    training = learner.predict(code, episodes.query.x)
    assert learner.eval().chooser(code).is_floating_point()
    mixed = learner.predict(learner.adapt(episodes.support, episodes.descriptor), episodes.query.x)
    torch.testing.assert_close(training, mixed)


@pytest.mark.parametrize(
    "make", [partial(HardSharing, condition=Add), partial(HardSharing, condition=Concat, at="input")]
)
def test_a_code_that_conditions_is_no_number(make: Any) -> None:
    tasks = InMemory(named_rows(), n_query=3)
    learner = make(tasks.spec, backbone=partial(MLP, width=8)).train()
    episodes = tasks.sample(Place(6))
    phi = learner.adapt(episodes.support, episodes.descriptor)
    assert torch.equal(learner.chooser(phi), torch.eye(3)[episodes.task])


def test_a_description_beside_the_index_is_mixed() -> None:
    tasks = DescribedRegressions(n_tasks=5, descriptor=Beside([OneHot(), Specification()]))
    learner = HardSharing(tasks.spec).train()
    phi = learner.adapt((episodes := tasks.sample(Place(3))).support, episodes.descriptor)
    assert learner.chooser(phi).is_floating_point()


def test_a_sampler_that_seldom_leaves_a_task_untold_is_refused_in_training() -> None:
    with pytest.raises(ValueError, match="expected every task told in training"):
        check(InMemory(named_rows(), untold=1e-6), HardSharing, OuterLoop(steps=2, n_tasks=4, warmup=0))
