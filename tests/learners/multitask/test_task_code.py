"""Which task a row is of: told, inferred by Bayes' rule, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from multitask_cases import IMAGES, TASKS, one_hot
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.multitask.experts import MMoE
from metabox.learners.multitask.multitask import HardSharing, Independent, MultiTask
from metabox.learners.multitask.task_code import TaskCode
from metabox.testing import CHECKS, build, make_episodes, outputs


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_the_code_is_bayes_rule_over_the_known_tasks() -> None:
    learner = build(partial(Independent, code="both"), TASKS)
    with torch.no_grad():
        learner.code.evidence[-1].weight.mul_(100)
    code, episodes = learner.code, make_episodes(TASKS)
    support, z = episodes.support, episodes.descriptor * torch.tensor([[1.0], [0.0], [1.0]])  # the second is not told
    support = replace(support, mask=torch.rand(3, 6) < 0.6)
    got = code(support, z)
    for t in range(3):
        score = code.prior + code.trust * z[t]
        for n in range(6):
            if support.mask[t, n]:
                label = F.one_hot(support.y[t, n], 3).float()
                score = score + code.evidence(torch.cat([code.backbone(support.x[t, n]), label])) / code.width
        torch.testing.assert_close(got[t], score.exp() / score.exp().sum())


def test_a_given_code_is_the_descriptors_first_columns_and_the_rest_joins_the_features() -> None:
    spec = replace(TASKS, descriptor_size=5)
    learner, episodes = build(Independent, spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    assert torch.equal(phi["code"], episodes.descriptor[:, :3])
    assert torch.equal(phi["descriptor"], episodes.descriptor[:, 3:])
    assert learner.towers.layers[0].weight.shape[-1] == 4 + 2
    with_rest = build(Independent, replace(IMAGES, descriptor_size=5))
    assert with_rest.towers.layers[0].weight.shape[2:] == (1 + 2, 3, 3)  # constant channels
    images = make_episodes(with_rest.spec)
    changed = replace(images, descriptor=images.descriptor + torch.tensor([0.0, 0, 0, 1, 0]))
    assert not torch.allclose(outputs(with_rest, changed), outputs(with_rest, images), atol=1e-3)


def test_without_support_and_untold_the_code_is_the_prior() -> None:
    for kind in ("inferred", "both"):
        learner = build(partial(MMoE, code=kind), TASKS)
        nothing = make_episodes(TASKS, n_support=0).support
        code = learner.adapt(nothing, torch.zeros(3, 3))["code"]
        torch.testing.assert_close(code, learner.code.prior.softmax(0).expand(3, -1))


def test_what_is_told_is_believed_at_first() -> None:
    code, nothing = TaskCode(TASKS, "both"), make_episodes(TASKS, n_support=0).support
    assert code(nothing, one_hot([1, 0, 2])).amax(1).tolist() == pytest.approx([0.9677] * 3, abs=1e-3)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", [HardSharing, Independent, partial(MMoE, expert_size=32, tower_size=32)])
def test_a_network_conforms_when_its_code_is_told_and_inferred_in_one(
    make: Callable[..., MultiTask], check: str
) -> None:
    CHECKS[check](partial(make, code="both"), TASKS)


@pytest.mark.parametrize("check", [name for name in CHECKS if "descriptor" not in name])
def test_a_network_conforms_when_its_code_is_inferred(check: str) -> None:
    CHECKS[check](partial(HardSharing, code="inferred"), TASKS)


def test_one_model_may_be_told_the_task_or_see_it() -> None:
    """Three tasks on the same points, each with its own constant label: the code is all there is to learn."""
    learner = Independent(TASKS, code="both", depth=1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)

    def batch(told: Tensor, n_support: int) -> tuple[Episodes, Tensor]:
        task = torch.randint(3, (64,))
        y = task[:, None].expand(-1, n_support)
        support = Examples(x=torch.randn(64, n_support, 4), y=y)
        query = Examples(x=torch.randn(64, 4, 4), y=task[:, None].expand(-1, 4))
        return Episodes(support=support, query=query, descriptor=F.one_hot(task, 3) * told[:, None]), task

    for _ in range(150):
        episodes, _ = batch((torch.rand(64) < 0.5).float(), 2)
        loss = F.cross_entropy(learner(episodes).flatten(0, 1), episodes.query.y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learner.eval()
    for told, n_support in ((1.0, 0), (0.0, 2), (1.0, 2)):
        episodes, _ = batch(torch.full((64,), told), n_support)
        assert (learner(episodes).argmax(-1) == episodes.query.y).float().mean() > 0.95
