"""Task affinity, where it is known on paper."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import named_rows

from metabox.learners import HardSharing
from metabox.multitask import TaskAffinity
from metabox.multitask.affinity import read_affinity, task_affinity
from metabox.nn.towers import shared_parameters
from metabox.objectives import QueryLoss
from metabox.tasks.named import InMemory
from metabox.tasks.place import Place
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

S = 0.1
CENTRES = [[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]


class Squares(nn.Module):
    """L_k = |theta - c_k|^2 / 2 + own_k^2 - less, whose gradient on theta is theta - c_k; theta begins at 0."""

    def __init__(self, centres: list[list[float]] = CENTRES, less: float = 0.0) -> None:
        super().__init__()
        self.centres, self.less = torch.tensor(centres), less
        self.theta, self.own = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(len(centres)))
        names = tuple("abc"[: len(centres)])
        self.learner: Any = SimpleNamespace(spec=SimpleNamespace(tasks=names, target=SimpleNamespace(parts=())))

    def at_scale_one(self, episodes: Any) -> dict[str, Tensor]:
        loss = (self.theta - self.centres).square().sum(1) / 2 + self.own.square() - self.less
        return {"loss": loss[episodes.task]}


def affinity(objective: Squares, *tasks: int) -> Tensor:
    return task_affinity(objective, SimpleNamespace(task=torch.tensor(tasks)), [objective.theta], step=S)  # type: ignore[arg-type]


def test_it_is_the_share_of_a_loss_that_a_step_on_another_takes_away() -> None:
    """A step on L_a goes to (S, 0), which is towards a, away from c and a little away from b."""
    wanted = [
        [1 - (1 - S) ** 2, -(S**2) / 4, 1 - (1 + S) ** 2],
        [-4 * S**2, 1 - (1 - S) ** 2, -4 * S**2],
        [1 - (1 + S) ** 2, -(S**2) / 4, 1 - (1 - S) ** 2],
    ]
    torch.testing.assert_close(affinity(Squares(), 0, 1, 2), torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_a_task_that_the_batch_lacks_or_whose_loss_is_not_above_0_has_none() -> None:
    found = affinity(Squares(), 0, 0, 2)
    assert found.isnan().tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    below = affinity(Squares(less=1.0), 0, 1, 2)  # losses of -.5, 1 and -.5
    assert below.isfinite().tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_looking_at_it_changes_nothing() -> None:
    learner = HardSharing((sampler := InMemory(named_rows(), n_query=3)).spec)
    objective, episodes = QueryLoss(learner).train(), sampler.sample(Place(6))
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():
        found = task_affinity(objective, episodes, list(shared_parameters(learner).values()))
    assert found.shape == (3, 3)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())
    assert objective.training


def test_a_run_records_it_every_few_steps(tmp_path: Path) -> None:
    outer = OuterLoop(steps=8, n_tasks=9, validate_every=8, n_validation=3, precision="32", warmup=0, accelerator="cpu")
    run(InMemory(named_rows(), n_query=3), HardSharing, outer, hooks=[TaskAffinity(4, step=0.05)], out=tmp_path)
    path = tmp_path / "hooks" / "affinity.json"
    tasks, steps, found = read_affinity(path)
    assert (tasks, steps, found.shape) == (["a", "b", "c"], [0, 4], (2, 3, 3))
    own = found.diagonal(dim1=1, dim2=2)
    assert (own[~own.isnan()] > 0).all()  # a step on a task's own loss lowers it
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON


@pytest.mark.parametrize("options", [{"every": 0}, {"step": 0.0}, {"step": math.nan}, {"tasks": ("a",)}])
def test_bad_options_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        TaskAffinity(**options)
