"""Random projections: linear, one map for a task, pure, and few where few are asked for."""

from __future__ import annotations

import pytest
import torch

from metabox.episodes import Device, Episodes, Examples, Split
from metabox.targets import Classes, TaskSpec
from metabox.tasks import Glyphs
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.projections import RandomProjections


class Units(EpisodeSampler):
    """Inputs are unit vectors, so a projected support is the map itself."""

    spec = TaskSpec((4,), Classes(4))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        y = torch.arange(4).expand(place.n_tasks, -1)
        examples = Examples(x=torch.eye(4).expand(place.n_tasks, -1, -1), y=y)
        return Episodes(support=examples, query=Examples(x=2 * examples.x, y=y))


def maps(n_tasks: int = 64, split: Split = "train", index: int = 0, **options) -> torch.Tensor:
    episodes = RandomProjections(Units(), **options).sample(Place(n_tasks, split, index=index))
    assert episodes.query.x.equal(2 * episodes.support.x)  # one map for the whole task
    return episodes.support.x


def test_every_task_has_a_normal_map_of_its_own_with_variance_one_over_the_inputs() -> None:
    drawn = maps(2000, size=3)
    assert drawn.shape == (2000, 4, 3)
    assert len(drawn.flatten(1).unique(dim=0)) == 2000
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / 4, abs=0.01)


def test_training_tasks_choose_from_so_many_maps_and_the_others_have_new_ones() -> None:
    pool = maps(n_maps=3).flatten(1).unique(dim=0)
    assert len(pool) == 3
    assert maps(n_maps=3, index=7).flatten(1).unique(dim=0).equal(pool)
    assert len(maps(n_maps=3, split="val").flatten(1).unique(dim=0)) == 64


def test_images_become_vectors_and_everything_else_stays() -> None:
    inner = Glyphs(n_way=3, n_shot=1, n_query=2)
    tasks = RandomProjections(inner, size=20)
    got, before = tasks.sample(Place(4, "train")), inner.sample(Place(4, "train"))
    assert tasks.spec == TaskSpec((20,), Classes(3))
    tasks.spec.check_episodes(got)
    assert got.query.y.equal(before.query.y)
    whole, part = (
        tasks.sample(Place(4, "val", index=3, seed=1)),
        tasks.sample(Place(2, "val", index=3, first=2, seed=1)),
    )
    torch.testing.assert_close(part.support.x, whole.support.x[2:], rtol=0, atol=1e-6)
    assert tasks.config["size"] == 20


def test_a_task_is_the_same_under_autocast_as_in_a_validation() -> None:
    tasks, place = RandomProjections(Glyphs(n_way=2)), Place(2, "val")
    with torch.autocast("cpu", torch.bfloat16):
        inside = tasks.sample(place)
    assert torch.equal(inside.query.x, tasks.sample(place).query.x)
