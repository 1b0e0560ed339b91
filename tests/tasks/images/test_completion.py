"""Image completion: pixels as functions of their place."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from function_cases import UNLIKELY
from scipy.stats import chisquare

from metabox.data.class_images import ClassImages
from metabox.tasks import (
    Glyphs,
    ImageCompletion,
)
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place


def test_pixels_are_those_of_the_image_at_their_place():
    glyphs = Glyphs(image_size=12)
    sampler = ImageCompletion(glyphs, n_support=(0, 30), n_query=(1, 30), share_sizes=1)
    episodes = sampler.sample(Place(10, "val"))
    assert sampler.spec.target.size == 1
    for t in range(10):
        seen = []
        for examples, start in ((episodes.support, 0), (episodes.query, episodes.support.y.shape[1])):
            for i in examples.mask[t].nonzero()[:, 0].tolist():
                row, column = ((examples.x[t, i] + 1) / 2 * 11).round().long().tolist()
                identity = int(episodes.origin[t, start + i])
                image = glyphs.images.gather(np.array([identity >> 32]), np.array([identity & (2**32 - 1)]), "cpu")
                assert examples.y[t, i, 0] == pytest.approx(float(image[0, 0, row, column]) / 255, abs=1e-6)
                seen.append((row, column))
        assert len(set(seen)) == len(seen), "no pixel twice, in support and query together"
        split = glyphs.images.splits["val"]
        assert split[0] <= identity >> 32 <= split[-1]


def test_all_pixels_are_asked_for_where_no_number_is_given():
    episodes = ImageCompletion(Glyphs(image_size=9), low=0.0, n_support=5).sample(Place(3, "train"))
    assert episodes.query.y.shape == (3, 81, 1)
    assert episodes.query.mask.all()
    grid = torch.linspace(0, 1, 9)
    wanted = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).view(81, 2)
    torch.testing.assert_close(episodes.query.x, wanted.expand(3, -1, -1))
    assert episodes.query.y.min() >= 0
    assert episodes.query.y.max() == 1  # ink


def test_every_pixel_is_shown_equally_often():
    episodes = ImageCompletion(Glyphs(image_size=8), n_support=4).sample(Place(1000, "train"))
    place = ((episodes.support.x + 1) / 2 * 7).round().long()
    assert chisquare((place[..., 0] * 8 + place[..., 1]).flatten().bincount(minlength=64)).pvalue > UNLIKELY


class Striped(NWayKShot):
    """Colour images of two rows: 10 c + i in the first channel, the column in the second, the row in the third."""

    def load(self):
        class Images(ClassImages):
            sizes, groups, image_shape, fingerprint = np.array([2, 4]), None, (3, 2, 4), "striped"
            splits: ClassVar = {"train": np.array([0, 1])}

            def pictures(self, ids, device):
                image = torch.zeros(len(ids), 3, 2, 4, dtype=torch.uint8)
                image[:, 0] = (10 * (ids >> 32) + (ids & 255))[:, None, None]
                image[:, 1], image[:, 2] = torch.arange(4), torch.arange(2)[:, None]
                return image

        return Images()


def test_images_of_several_channels_have_as_many_targets():
    sampler = ImageCompletion(Striped(), n_support=8, share_sizes=1)
    episodes = sampler.sample(Place(600, "train"))
    sampler.spec.check_episodes(episodes)
    for part in (episodes.support, episodes.query):
        identity, column, row = (part.y * 255).round().long().unbind(-1)
        assert (identity == identity[:, :1]).all()
        torch.testing.assert_close(part.x[..., 0], row * 2.0 - 1)
        torch.testing.assert_close(part.x[..., 1], column * 2 / 3 - 1)
    counts = identity[:, 0].bincount(minlength=14)
    # Classes are equally likely, and the drawings of a class are.
    assert chisquare(counts[[0, 1, 10, 11, 12, 13]], 600 * np.array([2, 2, 1, 1, 1, 1]) / 8).pvalue > UNLIKELY


def test_more_points_than_pixels_are_refused():
    for options in ({"n_support": 9}, {"n_support": 5, "n_query": 4}):
        with pytest.raises(ValueError, match="expected at most 8 points"):
            ImageCompletion(Striped(), **options).sample(Place(1, "train"))
    ImageCompletion(Striped(), n_support=5, n_query=(1, 4), max_points=8).sample(Place(1, "train"))


def test_a_split_without_images_is_named():
    with pytest.raises(ValueError, match="expected a split with classes among"):
        ImageCompletion(Striped(), n_support=1).sample(Place(1, "test"))


def test_grey_values_of_black_and_white_are_exactly_zero_and_one():
    assert torch.tensor(255.0) * (1 / 255) == 1
