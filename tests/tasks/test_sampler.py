"""What holds for every task distribution of metabox.tasks: pure draws, honest sizes, plain settings, named errors."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import metabox.tasks as tasks
from metabox.discover import subclasses
from metabox.episodes import Episodes, Examples
from metabox.recipe import make_parser, parse
from metabox.seeding import Draws
from metabox.tasks import Glyphs
from metabox.tasks.descriptors import Metadata
from metabox.tasks.functions.base import Sized
from metabox.tasks.named import FiniteTasks
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.curriculum import Growth

BUILT = ("functions.", "multitask.", "images.completion", "wrappers.curriculum")
WITHOUT_FILES = tuple(f"metabox.tasks.{part}" for part in BUILT)
SAMPLERS = {
    found.name: sampler
    for found in subclasses("EpisodeSampler")
    if found.module.startswith(WITHOUT_FILES)
    and not {"path", "data_root"} & set(signature(sampler := found.load()).parameters)
}

# Every option at least once away from its default, and ragged sizes wherever there are sizes.
OPTIONS = {
    "AssociativeRecall": {"length": (2, 5), "test_length": (7, 9), "n_query": 2, "key_bits": 5, "value_bits": 3},
    "Copy": {"length": (1, 5), "test_length": 33, "value_bits": 3},
    "CorrelatedRegressions": {
        "correlation": 0.9,
        "dim": 5,
        "sines": 2,
        "scale": 2.0,
        "noise": 0.5,
        "n_query": 7,
        "data_seed": 3,
    },
    "Curriculum": {
        "tasks": tasks.LinearFunctions(dim=4, n_support=9, n_query=1),
        "dims": Growth(1, 1, 2),
        "points": Growth(3, 1, 2),
    },
    "DecisionTrees": {"dim": 3, "depth": 2, "n_support": (0, 9), "n_query": (1, 4), "max_points": 11},
    "DescribedRegressions": {
        "n_tasks": 5,
        "n_train": 6,
        "n_eval": 9,
        "dim": 3,
        "noise": 0.5,
        "descriptor": Metadata(),
        "data_seed": 2,
        "n_support": (0, 3),
        "n_query": (2, 4),
        "temperature": 2.0,
        "untold": 0.5,
    },
    "GaussianProcess": {
        "kernel": [tasks.RBF(), tasks.Periodic((0.5, 1.0), (0.2, 0.4), (0.5, 2.0)), tasks.WeaklyPeriodic()],
        "noise": (0.0, 0.3),
        "dim": 2,
        "low": -1.0,
        "high": 3.0,
        "n_support": (0, 7),
        "n_query": (1, 5),
        "max_points": 10,
        "share_sizes": 1,
        "oracle_kind": "joint",
        "train_oracle": True,
    },
    "Harmonics": {"frequency": 3.0, "centre": (0.0, 1.0), "noise": 0.2, "n_support": (0, 9), "n_query": (2, 4)},
    "ImageCompletion": {
        "images": Glyphs(image_size=8),
        "low": 0.0,
        "high": 2.0,
        "n_support": (0, 9),
        "n_query": (2, 4),
        "max_points": 12,
        "share_sizes": 2,
    },
    "KalmanFiltering": {
        "hidden": (1, 3),
        "noise": (0.1, 0.5),
        "process": 0.3,
        "radius": (0.1, 0.5),
        "inputs": False,
        "family": None,
        "family_seed": 3,
        "prior_draws": 20,
        "train_oracle": True,
        "n_support": (0, 9),
        "share_sizes": 3,
    },
    "Kinds": {"n_train": (40, 30, 20), "n_eval": 30, "dim": 6, "hidden": 3, "data_seed": 2, "n_query": 5},
    "LinearFunctions": {
        "dim": 6,
        "sparsity": 2,
        "noise": 0.5,
        "pool": 5,
        "pool_seed": 3,
        "n_support": (0, 9),
        "n_query": (2, 4),
        "share_sizes": 3,
    },
    "MadeMail": {
        "n_users": 5,
        "n_train": (3, 30),
        "n_eval": 30,
        "dissent": 0.5,
        "sure": 0.9,
        "length": (3, 8),
        "features": 32,
        "descriptor": Metadata(),
        "data_seed": 2,
        "n_support": (0, 4),
        "n_query": (3, 5),
        "temperature": 2.0,
        "untold": 0.5,
    },
    "Sawtooth": {"frequency": 2.5, "dim": 2, "low": 0.0, "high": 1.0, "noise": 0.1, "n_support": (0, 9), "n_query": 3},
    "Scenes": {"n_query": 3, "image_size": 16, "weights": (1.0, 0.5, 2.0)},
    "Series": {"n_support": (2, 8), "n_query": (1, 6), "max_points": 12},
    "Shapes": {"n_query": 5, "image_size": 16, "parts": True, "missing": 0.3},
    "Sinusoids": {"amplitude": 2.0, "phase": 1.0, "low": 0.0, "noise": 0.1, "n_support": (0, 9), "n_query": (2, 4)},
    "Steps": {"n_steps": (0, 3), "low": 0.0, "high": 1.0, "noise": 0.1, "n_support": (0, 9), "n_query": (2, 4)},
    "TwoLayerNetworks": {"dim": 3, "hidden": 7, "n_support": (0, 9), "n_query": (2, 4)},
    "Viewers": {"correlation": -0.5, "traits": 3, "rated": 0.5, "noise": 0.2, "n_query": 7, "data_seed": 3},
}
BOTH = [(name, options) for name in SAMPLERS for options in ({}, OPTIONS[name])]


def tensors(episodes: Episodes) -> list[torch.Tensor]:
    s, q = episodes.support, episodes.query
    parts = [s.x, s.y, s.mask, q.x, q.y, q.mask, episodes.oracle, episodes.origin]
    return [part.nan_to_num(-99) for part in parts if part is not None]  # NaN, a missing label, is no equal of itself


def same(a: Episodes, b: Episodes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def trimmed(examples: Examples, width: int) -> Examples:
    assert not examples.mask[:, width:].any()
    return examples[:, :width]


def equal_but_for_padding(a: Episodes, b: Episodes) -> bool:
    for one, other in ((a.support, b.support), (a.query, b.query)):
        width = min(one.mask.shape[1], other.mask.shape[1])
        one, other = trimmed(one, width), trimmed(other, width)
        y = (one.y.nan_to_num(-99), other.y.nan_to_num(-99))
        if not (torch.equal(one.x, other.x) and torch.equal(*y) and torch.equal(one.mask, other.mask)):
            return False
    return a.oracle is b.oracle is None or torch.equal(a.oracle, b.oracle)


def contents(episodes: Episodes) -> set[bytes]:
    """The valid examples of each task."""
    found = set()
    for t in range(len(episodes)):
        parts = [p for e in (episodes.support, episodes.query) for p in (e.x[t][e.mask[t]], e.y[t][e.mask[t]])]
        found.add(b"".join(p.numpy().tobytes() for p in parts))
    return found


def test_every_sampler_has_options_to_be_tested_with():
    assert set(SAMPLERS) == set(OPTIONS)
    kernels = {"RBF", "Matern12", "Matern32", "Matern52", "Periodic", "WeaklyPeriodic"}
    assert set(SAMPLERS) | kernels | {"Omniglot", "Glyphs", "FixedLabels"} <= set(dir(tasks))


@pytest.mark.parametrize(("name", "options"), BOTH)
def test_episodes_are_of_the_kind_that_the_spec_says(name, options):
    sampler: EpisodeSampler = SAMPLERS[name](**options)
    for split in ("train", "val", "test"):
        episodes = sampler.sample(Place(20, split))
        sampler.spec.check_episodes(episodes)
        assert episodes.query.mask.any(1).all()
        assert episodes.support.x.dtype == (torch.uint8 if len(sampler.spec.x_shape) == 3 else torch.float32)
        for part in (episodes.support, episodes.query):
            assert (part.mask.int().diff() <= 0).all(), "padding comes last"
            assert part.mask.any(0).all(), "no more padding than the largest task needs"
            assert not part.x[~part.mask].any()
            assert not part.y[~part.mask].any()
        if episodes.oracle is not None:
            assert episodes.oracle.shape == (20,)
            assert episodes.oracle.isfinite().all()


@pytest.mark.parametrize(("name", "options"), BOTH)
def test_the_same_arguments_give_the_same_bits_and_others_do_not(name, options):
    def drawn(index=3, seed=1, split="train"):
        return SAMPLERS[name](**options).sample(Place(9, split, index=index, seed=seed))

    assert same(drawn(), drawn())
    known = contents(drawn())
    for other in (drawn(index=4), drawn(seed=2), drawn(split="val"), drawn(split="test"), drawn(index=4, seed=0)):
        assert len(known & contents(other)) <= 4  # by chance, as between short sequences of few bits


@pytest.mark.parametrize(("name", "options"), BOTH)
def test_a_task_does_not_depend_on_the_tasks_beside_it(name, options):
    sampler = SAMPLERS[name](**options)
    whole = sampler.sample(Place(21, "test", index=2, seed=5))
    for first, n_tasks in ((0, 5), (7, 1), (15, 6), (20, 1)):
        part = sampler.sample(Place(n_tasks, "test", index=2, first=first, seed=5))
        assert equal_but_for_padding(whole[first : first + n_tasks], part), first


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "options"), BOTH)
def test_cpu_and_cuda_draw_the_same_bits(name, options):
    sampler = SAMPLERS[name](**options)
    assert same(sampler.sample(Place(20, "train"), "cuda").to("cpu"), sampler.sample(Place(20, "train")))


@pytest.mark.parametrize(("name", "options"), BOTH)
def test_the_record_is_plain_and_tells_options_apart(name, options):
    sampler, usual = SAMPLERS[name](**options), SAMPLERS[name]()
    record = json.loads(json.dumps(sampler.identity()))
    assert record["class"].endswith(f".{name}")
    assert record == sampler.identity() == SAMPLERS[name](**options).identity()
    assert (sampler.identity() == usual.identity()) == (not options)


def test_the_record_of_image_completion_holds_that_of_the_images():
    record = tasks.ImageCompletion(Glyphs(wobble=0.5, n_way=3)).config
    assert record["images"] == Glyphs(wobble=0.5, n_way=3).config


SIZED = [
    name
    for name, sampler in SAMPLERS.items()
    if issubclass(sampler, Sized) and not issubclass(sampler, (FiniteTasks, tasks.KalmanFiltering))  # one query
]


@pytest.mark.parametrize("name", SIZED)
def test_sizes_take_every_value_of_their_ranges_and_no_other(name):
    few = {"images": Glyphs(image_size=8)} if name == "ImageCompletion" else {}
    sampler = SAMPLERS[name](**few, n_support=(0, 3), n_query=(1, 4), max_points=5, share_sizes=1)
    episodes = sampler.sample(Place(400, "train"))
    n, m = episodes.support.mask.sum(1), episodes.query.mask.sum(1)
    assert {(int(a), int(b)) for a, b in zip(n, m, strict=True)} == {
        (a, b) for a in range(4) for b in range(1, 5) if a + b <= 5
    }
    shares = n.bincount() / len(n)
    assert (shares - 1 / 4).abs().max() < 4 * np.sqrt(3 / 16 / 400), "uniform, to four standard deviations"


def test_tasks_in_a_row_share_their_sizes_where_they_are_told_to():
    sampler = tasks.Sinusoids(n_support=(0, 20), n_query=(1, 20), share_sizes=4)
    episodes = sampler.sample(Place(18, "train", first=2))
    n, m = episodes.support.mask.sum(1), episodes.query.mask.sum(1)
    task = torch.arange(2, 20) // 4
    for group in task.unique():
        assert len(n[task == group].unique()) == len(m[task == group].unique()) == 1
    assert len(n.unique()) > 2
    alone = sampler.sample(Place(4, "train", first=4))  # a whole group: nothing to pad
    assert alone.support.mask.all()
    assert alone.query.mask.all()


def test_uniform_and_normal_draws_have_their_distributions():
    draws = Draws("distributions", n_tasks=200)
    assert kstest(draws.uniform("u", -1, 3, 100).ravel(), "uniform", (-1, 4)).pvalue > 1e-4
    normal = draws.normal("n", 10, 10)
    assert normal.shape == (200, 10, 10)
    assert kstest(normal.ravel(), "norm").pvalue > 1e-4
    assert np.array_equal(Draws("distributions", n_tasks=3, first=7).normal("n", 10, 10), normal[7:10])
    assert np.array_equal(draws.uniform("u", 2.5, 2.5, 3), np.full((200, 3), 2.5))


@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_the_extreme_words_give_finite_draws(word, monkeypatch):
    monkeypatch.setattr(Draws, "words", lambda self, name, *shape: np.full((1, *shape), word))
    draws = Draws(n_tasks=1)
    assert 0 < draws.uniform("u", 0, 1, 1)[0, 0] < 1
    assert 6 < abs(draws.normal("n", 1)[0, 0]) < 6.4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tasks.Sinusoids(n_support=5, n_query=3, max_points=7), "max_points of at least 5 \\+ 3"),
        (lambda: tasks.Sinusoids(low=3.0, high=3.0), "low < high"),
        (lambda: tasks.Sinusoids().sample(Place(0, "train")), "n_tasks as a whole number of at least 1"),
        (lambda: tasks.GaussianProcess(kernel=[]), "a kernel or a list of them"),
        (lambda: tasks.GaussianProcess(oracle="mixture"), "without ranges for the mixture oracle"),
        (lambda: tasks.LinearFunctions(dim=3, sparsity=4), "sparsity from 1 to dim = 3, got 4"),
        (lambda: tasks.LinearFunctions().pool_weights(), "a sampler with a pool"),
        (lambda: tasks.AssociativeRecall(length=5, key_bits=2), r"at most 2\*\*key_bits = 4 pairs, got 5"),
        (lambda: tasks.AssociativeRecall(length=(2, 4), n_query=3), "n_query from 1 to 2"),
        (lambda: tasks.Copy().sample(Place(0, "test")), "n_tasks as a whole number of at least 1"),
        (lambda: tasks.ImageCompletion(low=1.0, high=-1.0), "low < high"),
        (lambda: tasks.ImageCompletion(n_support=785).sample(Place(1, "train")), "at most 784 points"),
    ],
)
def test_bad_options_are_named(make, says):
    with pytest.raises(ValueError, match=says) as error:
        make()
    assert "expected" in str(error.value)


def test_a_recipe_can_name_kernels_ranges_and_images(tmp_path: Path):
    recipe = tmp_path / "gp.yaml"
    recipe.write_text(
        """
tasks:
  class_path: GaussianProcess
  init_args:
    kernel:
    - {class_path: RBF, init_args: {length_scale: [0.1, 0.6], scale: [0.1, 1.0]}}
    - {class_path: Periodic, init_args: {period: 0.3}}
    noise: 0.1
    n_support: [3, 10]
evaluation:
  class_path: ImageCompletion
  init_args: {images: {class_path: Glyphs, init_args: {image_size: 16}}, n_support: [3, 50], max_points: 99, n_query: 9}
learner: {class_path: CNP}
"""
    )
    parser = make_parser(recipe)
    made = parser.instantiate(parse(parser, []))
    assert made.tasks.kernel == [
        "RBF(length_scale=[0.1, 0.6], scale=[0.1, 1.0])",
        "Periodic(period=0.3)",
    ]
    assert made.tasks.n_support == (3, 10)
    assert made.evaluation.sample(Place(2, "val")).query.y.shape == (2, 9, 1)
    assert made.evaluation.max_points == 99


@pytest.mark.parametrize("name", ["Sinusoids", "Harmonics", "Sawtooth", "Steps", "LinearFunctions", "DecisionTrees"])
def test_a_recipe_can_set_the_options_that_samplers_share(name, tmp_path: Path):
    recipe = tmp_path / "shared.yaml"
    options = "{n_support: [0, 4], n_query: 3, max_points: 9, share_sizes: 2}"
    recipe.write_text(f"tasks: {{class_path: {name}, init_args: {options}}}\nlearner: {{class_path: CNP}}\n")
    parser = make_parser(recipe)
    sampler = parser.instantiate(parse(parser, [])).tasks
    assert (sampler.n_support, sampler.n_query, sampler.max_points, sampler.share_sizes) == ((0, 4), (3, 3), 9, 2)


def test_the_package_offers_its_own_names():
    assert tasks.GaussianProcess is SAMPLERS["GaussianProcess"]
    with pytest.raises(AttributeError, match="Nothing"):
        _ = tasks.Nothing
