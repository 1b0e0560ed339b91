"""Task sets of learn2learn as p(T), and p(T) as a task set of learn2learn."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.evaluation import evaluate
from metabox.learners.cnp import CNP
from metabox.tasks import Glyphs
from metabox.tasks.functions.sinusoids import Sinusoids
from metabox.tasks.place import Place
from metabox.tasks.wrappers.learn2learn import FromLearn2Learn, Taskset, as_taskset

WAYS, SHOTS, EACH, CLASSES, DRAWINGS = 3, 2, 5, 8, 9


@pytest.fixture(scope="module")
def l2l():
    pytest.importorskip("learn2learn")
    from metabox.learners.maml import learn2learn

    return learn2learn()


def make_taskset(l2l, num_tasks: int = -1, classes: range = range(CLASSES)):
    """8 classes with 9 drawings of 2x2 pixels, each of which holds 100 * class + drawing; labels as learn2learn's."""
    ids = torch.tensor([100.0 * c + i for c in classes for i in range(DRAWINGS)])
    images, labels = ids[:, None, None, None].expand(-1, 1, 2, 2), (ids // 100).long()
    dataset = l2l.data.MetaDataset(torch.utils.data.TensorDataset(images, labels))
    transforms = [
        l2l.data.transforms.FusedNWaysKShots(dataset, n=WAYS, k=EACH),
        l2l.data.transforms.LoadData(dataset),
        l2l.data.transforms.RemapLabels(dataset),
        l2l.data.transforms.ConsecutiveLabels(dataset),
    ]
    return l2l.data.Taskset(dataset, transforms, num_tasks=num_tasks)


@pytest.fixture
def tasks(l2l) -> FromLearn2Learn:
    return FromLearn2Learn(make_taskset(l2l), make_taskset(l2l, 3), n_way=WAYS, n_shot=SHOTS)


def ids(x: Tensor) -> Tensor:
    return x[..., 0, 0, 0].round().long()


def equal(a: Episodes, b: Episodes) -> bool:
    pairs = [(p.x, q.x) for p, q in ((a.support, b.support), (a.query, b.query))]
    pairs += [(p.y, q.y) for p, q in ((a.support, b.support), (a.query, b.query))]
    return all(torch.equal(p, q) for p, q in pairs)


# ------------------------------------------------------------------ learn2learn's tasks here


@pytest.mark.parametrize("split", ["train", "val"])
def test_episodes_hold_what_the_task_set_drew(tasks: FromLearn2Learn, split: str) -> None:
    episodes = tasks.sample(Place(20, split))
    s, q = episodes.support, episodes.query
    assert s.x.shape == (20, WAYS * SHOTS, 1, 2, 2)
    assert q.x.shape == (20, WAYS * (EACH - SHOTS), 1, 2, 2)
    for t in range(20):
        drawings = ids(torch.cat([s.x[t], q.x[t]]))
        assert len(set(drawings.tolist())) == WAYS * EACH  # no image twice: none in both support and query
        pairs = set(zip((drawings // 100).tolist(), torch.cat([s.y[t], q.y[t]]).tolist(), strict=True))
        assert len(pairs) == WAYS  # one name for each class, one class for each name
        assert {name for _, name in pairs} == set(range(WAYS))
        assert s.y[t].bincount().tolist() == [SHOTS] * WAYS
        assert q.y[t].bincount().tolist() == [EACH - SHOTS] * WAYS


def test_episodes_are_a_pure_function_of_their_address(l2l, tasks: FromLearn2Learn) -> None:
    for split in ("train", "val"):
        whole = tasks.sample(Place(6, split, index=3, seed=1))
        random.seed(5)
        assert equal(tasks.sample(Place(6, split, index=3, seed=1)), whole)
        assert equal(tasks.sample(Place(2, split, index=3, first=2, seed=1)), whole[2:4])
        others = [tasks.sample(Place(6, split, index=4, seed=1)), tasks.sample(Place(6, split, index=3, seed=2))]
        others.append(tasks.sample(Place(6, split, index=3, first=6, seed=1)))
        assert not any(equal(other, whole) for other in others)
        if split == "train":  # and not only in names and orders
            images = [ids(torch.cat([e.support.x, e.query.x], 1)).flatten() for e in [whole, *others]]
            assert len({tuple(sorted(drawn.tolist())) for drawn in images}) == 4
        again = FromLearn2Learn(make_taskset(l2l), make_taskset(l2l, 3), n_way=WAYS, n_shot=SHOTS)
        assert equal(again.sample(Place(6, split, index=3, seed=1)), whole)


def test_the_global_generators_are_afterwards_as_before(tasks: FromLearn2Learn) -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        wanted = draws()
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        tasks.sample(Place(3, "train"))
        assert draws() == wanted


def test_random_transforms_are_a_function_of_the_address_too(l2l) -> None:
    taskset = make_taskset(l2l)
    for transform in (
        lambda task: [with_noise(d, lambda x: x + torch.rand(())) for d in task],
        lambda task: [with_noise(d, lambda x: x + np.random.rand()) for d in task],  # noqa: NPY002
        lambda task: [with_noise(d, lambda x: x + random.random()) for d in task],
    ):
        taskset.task_transforms.append(transform)
    tasks = FromLearn2Learn(taskset, n_way=WAYS, n_shot=SHOTS)
    x = tasks.sample(Place(2, "train")).support.x
    assert (x % 1 > 0).any()
    random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002  # whatever they have drawn in between
    assert torch.equal(x, tasks.sample(Place(2, "train")).support.x)


def with_noise(description, change):
    description.transforms.append(lambda data: [change(data[0]), *data[1:]])
    return description


def test_names_and_orders_are_drawn_anew_even_where_the_task_is_the_same(l2l) -> None:
    """A set of one task: each class has every name equally often, every drawing is in the support at times."""
    tasks = FromLearn2Learn(make_taskset(l2l, 1), n_way=WAYS, n_shot=SHOTS)
    s = tasks.sample(Place(600, "train")).support
    classes, drawings = (ids(s.x) // 100), ids(s.x)
    assert len(classes.unique()) == WAYS
    assert len(drawings.unique()) == WAYS * EACH
    for c in classes.unique():
        share = s.y[classes == c].bincount(minlength=WAYS) / (600 * SHOTS)
        assert (share - 1 / WAYS).abs().max() < 0.1
    share_first = s.y[:, 0].bincount(minlength=WAYS) / 600
    assert (share_first - 1 / WAYS).abs().max() < 0.1


def test_a_set_of_so_many_tasks_keeps_to_them_and_its_cache_stays_as_it_was(l2l) -> None:
    taskset = make_taskset(l2l, 3)
    tasks = FromLearn2Learn(taskset, n_way=WAYS, n_shot=SHOTS)
    e = tasks.sample(Place(100, "train"))
    drawn = {tuple(sorted(row)) for row in ids(torch.cat([e.support.x, e.query.x], 1)).tolist()}
    assert len(drawn) == 3
    assert not taskset.sampled_descriptions
    endless = FromLearn2Learn(make_taskset(l2l), n_way=WAYS, n_shot=SHOTS).sample(Place(100, "train"))
    assert len({tuple(sorted(row)) for row in ids(torch.cat([endless.support.x, endless.query.x], 1)).tolist()}) > 90


def test_the_data_behind_the_tasks_have_a_name(l2l, tasks: FromLearn2Learn) -> None:
    again = FromLearn2Learn(make_taskset(l2l), make_taskset(l2l, 3), n_way=WAYS, n_shot=SHOTS)
    assert again.identity() == tasks.identity()
    other = FromLearn2Learn(make_taskset(l2l, classes=range(20, 28)), n_way=WAYS, n_shot=SHOTS)
    assert other.fingerprint() != FromLearn2Learn(make_taskset(l2l), n_way=WAYS, n_shot=SHOTS).fingerprint()


def test_a_learner_is_evaluated_on_them(tasks: FromLearn2Learn) -> None:
    small = FromLearn2Learn(as_taskset(Glyphs(n_way=3, n_query=2), "test"), n_way=3, n_shot=1)
    scores = evaluate(CNP(small.spec), small, split="train", n_tasks=4, batch=3)
    assert scores.mean("accuracy") <= 1
    assert tasks.spec.x_shape == (1, 2, 2)


def test_task_sets_that_do_not_fit_are_refused(l2l, tasks: FromLearn2Learn) -> None:
    with pytest.raises(ValueError, match="expected a task set for at least one of train, val and test"):
        FromLearn2Learn(n_way=3, n_shot=1)
    with pytest.raises(ValueError, match=r"expected a split among \['train', 'val'\], got 'test'"):
        tasks.sample(Place(1, "test"))
    for n_way, n_shot in ((4, 2), (3, 5)):
        unfit = FromLearn2Learn(make_taskset(l2l), n_way=n_way, n_shot=n_shot)
        with pytest.raises(ValueError, match=rf"expected {n_way} classes with equally many examples, more than n_shot"):
            unfit.sample(Place(1, "train"))


# ------------------------------------------------------------------ our tasks there


def fast_adapt(batch, learner, loss, adaptation_steps, shots, ways):
    """`fast_adapt` of learn2learn's examples/vision/maml_omniglot.py (MIT licence), on the CPU."""
    data, labels = batch
    adaptation_indices = np.zeros(data.size(0), dtype=bool)
    adaptation_indices[np.arange(shots * ways) * 2] = True
    evaluation_indices = torch.from_numpy(~adaptation_indices)
    adaptation_indices = torch.from_numpy(adaptation_indices)
    adaptation_data, adaptation_labels = data[adaptation_indices], labels[adaptation_indices]
    evaluation_data, evaluation_labels = data[evaluation_indices], labels[evaluation_indices]
    for _ in range(adaptation_steps):
        learner.adapt(loss(learner(adaptation_data), adaptation_labels))
    predictions = learner(evaluation_data)
    accuracy = (predictions.argmax(dim=1).view(evaluation_labels.shape) == evaluation_labels).float().mean()
    return loss(predictions, evaluation_labels), accuracy


@pytest.mark.parametrize(("n_shot", "n_query"), [(1, 1), (2, 2), (2, 3)])
def test_learn2learns_own_code_splits_our_tasks_into_support_and_query(n_shot: int, n_query: int) -> None:
    sampler = Glyphs(n_way=4, n_shot=n_shot, n_query=n_query)
    taskset = as_taskset(sampler, "train", n_tasks=3, seed=7)
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 4)

        def adapt(self, loss: Tensor) -> None: ...

    targets = []

    def loss(_: Tensor, y: Tensor) -> Tensor:
        targets.append(y)
        return torch.zeros(())

    for i, batch in enumerate(taskset):
        seen.clear()
        targets.clear()
        fast_adapt(batch, Spy(), loss, 1, n_shot, 4)
        by_turns = batch[1][: 8 * n_shot]
        assert by_turns.tolist() == sorted(by_turns.tolist())
        assert torch.equal(by_turns[::2], by_turns[1::2])
        episodes = sampler.sample(Place(1, "train", first=i, seed=7))
        for x, y, part in zip(seen, targets, (episodes.support, episodes.query), strict=True):
            assert as_set(x, y) == as_set(part.x[0].float() / 255, part.y[0])
        assert targets[0].tolist() == sorted(targets[0].tolist())


def as_set(x: Tensor, y: Tensor) -> set[tuple[bytes, int]]:
    together = {(image.numpy().tobytes(), label) for image, label in zip(x, y.tolist(), strict=True)}
    assert len(together) == len(x)
    return together


def test_learn2learns_own_code_trains_on_our_tasks(l2l) -> None:
    taskset = as_taskset(Glyphs(n_way=3, n_shot=2, n_query=2), "train")
    torch.manual_seed(0)
    random.seed(0)
    model = l2l.algorithms.MAML(nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 3)), lr=0.1)
    error, accuracy = fast_adapt(taskset.sample(), model.clone(), nn.CrossEntropyLoss(), 3, 2, 3)
    error.backward()
    assert 0 <= accuracy <= 1
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_there_and_back_a_task_is_the_same() -> None:
    sampler = Glyphs(n_way=4, n_shot=1, n_query=2)
    back = FromLearn2Learn(as_taskset(sampler, "test", n_tasks=5), n_way=4, n_shot=1)
    episodes, original = back.sample(Place(30, "train")), sampler.sample(Place(5, "test"))

    def partition(e: Episodes, t: int, scale: float) -> frozenset[frozenset[bytes]]:
        x, y = torch.cat([e.support.x[t], e.query.x[t]]) / scale, torch.cat([e.support.y[t], e.query.y[t]])
        return frozenset(frozenset(image.numpy().tobytes() for image in x[y == c]) for c in range(4))

    assert {partition(episodes, t, 1) for t in range(30)} == {partition(original, t, 255) for t in range(5)}


def test_a_task_set_behaves_as_learn2learns_does() -> None:
    sampler = Glyphs(n_way=3, n_shot=1, n_query=1)
    some, endless = as_taskset(sampler, "val", n_tasks=4), as_taskset(sampler, "val")
    assert (len(some), some.num_tasks, len(endless), endless.num_tasks) == (4, 4, 1, -1)
    assert isinstance(some, Taskset)
    assert torch.equal(some[2][0], some[2][0])
    assert len({x.numpy().tobytes() for x, _ in some}) == 4
    drawn = some.sample()[0]
    assert any(torch.equal(drawn, x) for x, _ in some)
    for bad in (4, -1):
        with pytest.raises(IndexError, match="expected a task from 0 to 3"):
            some[bad]
    random.seed(0)
    first = [endless.sample()[0], endless[0][0], next(iter(endless))[0]]
    assert len({x.numpy().tobytes() for x in first}) == 3
    random.seed(0)
    assert torch.equal(endless.sample()[0], first[0])
    batch = next(iter(torch.utils.data.DataLoader(some, batch_size=2, sampler=range(4))))
    assert batch[0].shape == (2, 6, 1, 28, 28)


def test_tasks_that_cannot_be_a_task_set_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least as many queries as shots of every class"):
        as_taskset(Glyphs(n_way=3, n_shot=2, n_query=1), "train", n_tasks=1)[0]
    with pytest.raises(ValueError, match="expected tasks without padding"):
        as_taskset(Glyphs(n_way=(2, 6), n_shot=1, n_query=1), "train", n_tasks=1)[0]
    with pytest.raises(ValueError, match="expected n_tasks as -1"):
        as_taskset(Glyphs(), "train", n_tasks=0)
    with pytest.raises(ValueError, match="expected tasks of classes, got Reals"):
        as_taskset(Sinusoids(), "train")
