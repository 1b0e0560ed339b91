"""CNAPs against a plain transcription: each image by itself through each layer, and no cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from learner_cases import CLASSES, DESCRIBED, ragged, real_examples
from torch import Tensor, nn

from metabox.episodes import Episodes, Examples
from metabox.learners.cnaps import CNAPs, FiLMGenerator, SetConv
from metabox.nn.backbones import Conv4
from metabox.targets import Classes, TaskSpec
from metabox.testing import build, make_episodes, outputs

IMAGES = TaskSpec((1, 16, 16), Classes(3))


def plain_code(learner: CNAPs, support: list[Tensor]) -> Tensor:
    """z_G: the mean over the support of what the set encoder makes of each image."""
    codes = []
    for x in support:
        if len(learner.spec.x_shape) == 3:
            maps = (x.float() / 255)[None]
            for layer in learner.encoder.layers:
                maps = layer(maps)
            codes.append(maps.mean((2, 3))[0])
        else:
            codes.append(learner.encoder(x))
    return sum(codes, torch.zeros(learner.encoder.out_features)) / max(1, len(codes))


def plain_film(film: FiLMGenerator, code: Tensor) -> tuple[Tensor, Tensor]:
    """gamma = 1 + a residual network times its amount, beta = another times its own."""
    shared = torch.relu(film.shared[0](code))
    made = []
    for network, amount in zip((film.scale, film.shift), film.amount, strict=True):
        v = shared
        for i in (0, 2, 4):
            v = network[i].linear(v) + v
            v = torch.relu(v) if i < 4 else v
        made.append(v * amount)
    return 1 + made[0], made[1]


def plain_features(learner: CNAPs, code: Tensor, x: Tensor) -> Tensor:
    if len(learner.spec.x_shape) == 3:
        maps = (x.float() / 255)[None]
        for (conv, norm, _), film in zip(learner.embed.backbone.blocks, learner.films, strict=True):
            gamma, beta = plain_film(film, code)
            maps = norm.norm(conv(maps)) * gamma[:, None, None] + beta[:, None, None]
            maps = nn.functional.max_pool2d(torch.relu(maps), 2)
        return maps.flatten()
    return learner.embed.backbone(x)


def plain_modulated(learner: CNAPs, episodes: Episodes, t: int, code: Tensor) -> Callable[[Tensor], Tensor]:
    def features(x: Tensor) -> Tensor:
        z = [] if episodes.descriptor is None else [episodes.descriptor[t]]
        h = torch.cat([plain_features(learner, code, x), *z])
        if learner.modulate is None:
            return h
        scale, shift = learner.modulate.scale_shift(code).chunk(2)
        return h * (1 + scale) + shift

    return features


def plain_cnaps(learner: CNAPs, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    seen = real_examples(episodes.support, t)
    features = plain_modulated(learner, episodes, t, plain_code(learner, [x_i for x_i, _ in seen]))
    query, logits = features(x), []
    for c in range(3):
        mine = [features(x_i) for x_i, y in seen if y == c]
        pooled = sum(mine) / len(mine) if mine else torch.zeros_like(query)
        logits.append((pooled + learner.weight(pooled)) @ query + learner.bias(pooled)[0])
    return torch.stack(logits)


@pytest.mark.parametrize("spec", [IMAGES, CLASSES, DESCRIBED], ids=str)
def test_cnaps_is_its_plain_transcription(spec: TaskSpec) -> None:
    learner, episodes = build(CNAPs, spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        wanted = torch.stack([plain_cnaps(learner, episodes, t, x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-4)


def test_every_normalisation_layer_is_modulated_and_its_film_is_a_part_of_phi() -> None:
    learner, episodes = build(CNAPs, IMAGES), make_episodes(IMAGES)
    phi = learner.adapt(episodes.support)
    films = {name: value.shape for name, value in phi.items() if name.startswith("backbone.film.")}
    assert films == {f"backbone.film.{i}": (3, 2, 64) for i in range(4)}
    before = learner.predict(phi, episodes.query.x)
    for name in films:
        assert not torch.allclose(learner.predict(phi | {name: phi[name] + 0.1}, episodes.query.x), before, atol=1e-4)


def test_modulation_begins_near_the_identity() -> None:
    torch.manual_seed(0)
    learner, episodes = CNAPs(IMAGES).eval(), make_episodes(IMAGES)
    phi = learner.adapt(episodes.support)
    assert all(0 < value.abs().max() < 0.02 for name, value in phi.items() if "film" in name)
    torch.testing.assert_close(
        learner.embed(episodes.query.x, phi), learner.embed.backbone(episodes.query.x), rtol=0.05, atol=0.01
    )


def test_the_features_of_a_query_depend_on_the_task_and_on_nothing_but_its_images() -> None:
    learner, episodes = build(CNAPs, IMAGES), make_episodes(IMAGES)
    phi, other = learner.adapt(episodes.support), learner.adapt(make_episodes(IMAGES, seed=1).support)
    x = episodes.query.x
    assert not torch.allclose(learner.embed(x, phi), learner.embed(x, other), atol=1e-4)
    relabelled = learner.adapt(Examples(x=episodes.support.x, y=(episodes.support.y + 1) % 3))
    assert torch.equal(learner.embed(x, phi), learner.embed(x, relabelled))


@pytest.mark.parametrize("norm", ["support", "task", "group"])
def test_modulation_goes_with_the_normalisations_by_task(norm: str) -> None:
    learner = build(partial(CNAPs, backbone=partial(Conv4, norm=norm)), IMAGES)
    episodes = ragged(IMAGES)
    whole = outputs(learner, episodes)
    assert whole.isfinite().all()
    torch.testing.assert_close(outputs(learner, episodes[1:2]), whole[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 16, 28, 84])
def test_the_set_encoder_takes_images_of_any_size(size: int) -> None:
    encoder = SetConv((3, size, size), 8).eval()
    assert encoder(torch.zeros(2, 4, 3, size, size, dtype=torch.uint8)).shape == (2, 4, 8)
