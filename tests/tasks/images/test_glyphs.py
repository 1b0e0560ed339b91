"""Glyphs: the drawings are pure functions of their ids, look like characters, and make fair episodes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from metabox.tasks.images.glyphs import CLASSES_PER_SPLIT, DRAWINGS, GlyphImages, Glyphs
from metabox.tasks.images.strokes import words_of
from metabox.tasks.place import Place

GLYPHS = GlyphImages()


def spread(k: int) -> tuple[np.ndarray, np.ndarray]:
    """k pairs of ids from the whole range, the last of each included."""
    return np.linspace(0, 3 * CLASSES_PER_SPLIT - 1, k).astype(np.int64), np.linspace(0, DRAWINGS - 1, k).astype(
        np.int64
    )


def draw(classes, items, glyphs: GlyphImages = GLYPHS, device: str = "cpu") -> torch.Tensor:
    return glyphs.gather(*(np.array(ids) for ids in np.broadcast_arrays(classes, items)), device)


def nearest_neighbour(wobble: float, n_tasks: int = 200) -> float:
    """Accuracy of the nearest support image in pixels, 5-way 1-shot."""
    episodes = Glyphs(wobble=wobble, n_way=5, n_shot=1, n_query=5).sample(Place(n_tasks, "test"))
    query, support = (part.x.flatten(2).float() for part in (episodes.query, episodes.support))
    guess = episodes.support.y.gather(1, torch.cdist(query, support).argmin(-1))
    return float((guess == episodes.query.y).float().mean())


def test_a_drawing_is_a_uint8_image_with_ink_and_background():
    images = draw(*spread(3000))
    assert images.shape == (3000, 1, 28, 28)
    assert images.dtype == torch.uint8
    share = (images > 127).float().mean((1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.4
    assert images.amax((1, 2, 3)).min() > 200
    assert (images.amin((1, 2, 3)) == 0).all()


def test_a_drawing_does_not_depend_on_what_is_drawn_beside_it():
    classes, items = spread(1100)  # more than two chunks of shapes, and many of pictures
    whole = GLYPHS.gather(classes, items, "cpu")
    parts = [GLYPHS.gather(classes[a:b], items[a:b], "cpu") for a, b in ((0, 1), (1, 37), (37, 700), (700, 1100))]
    assert torch.equal(whole, torch.cat(parts))
    order = np.random.default_rng(0).permutation(len(classes))
    assert torch.equal(whole[torch.from_numpy(order)], GLYPHS.gather(classes[order], items[order], "cpu"))


def test_a_drawing_does_not_depend_on_the_number_of_threads():
    glyphs = GlyphImages(image_size=240)  # large enough for torch to use its threads
    before = torch.get_num_threads()
    try:
        drawn = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            drawn.append(draw(*spread(12), glyphs))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def test_the_pixels_behind_a_fingerprint_stay_as_they_are():
    assert GLYPHS.fingerprint == "Glyphs 1 (generated), image_size 28, wobble 1.0"
    # Another digest means other tasks: then the number in the fingerprint must change too.
    assert hashlib.sha256(draw(*spread(500)).numpy().tobytes()).hexdigest()[:16] == "34de45d0972a9088"


def test_a_drawing_does_not_depend_on_the_default_dtype():
    expected = draw(*spread(50))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(draw(*spread(50)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.cuda
@pytest.mark.parametrize("image_size", [28, 40])
def test_cpu_and_cuda_draw_the_same_bits(image_size):
    glyphs = GlyphImages(image_size=image_size, wobble=1.3)
    assert torch.equal(draw(*spread(20000), glyphs, "cuda").cpu(), draw(*spread(20000), glyphs))


def test_drawings_of_a_class_differ_and_so_do_classes():
    drawings = draw(7, np.arange(2000))
    assert len(drawings.flatten(1).unique(dim=0)) == 2000
    characters = draw(np.arange(2000), 0)
    assert len(characters.flatten(1).unique(dim=0)) == 2000


def test_neighbouring_ids_share_no_random_words():
    # Where ids and positions are added up, a word of class c, drawing i comes back at c + 1 or i + 1.
    classes, items = (torch.arange(30) + offset for offset in (5, 90))
    traits, tremors, warps = words_of(classes.repeat_interleave(30), items.repeat(30))
    for words in (torch.cat((tremors.flatten(), warps.flatten())), traits[::30].flatten()):
        assert len(words.unique()) > len(words) - 4  # about 0.1 pairs agree by chance


def test_drawings_of_one_class_look_alike_and_yet_are_no_copies():
    assert 0.45 < nearest_neighbour(wobble=1.0) < 0.75


def test_more_wobble_makes_a_class_harder_to_recognise():
    calm, usual, wild = (nearest_neighbour(wobble, 100) for wobble in (0.0, 1.0, 2.0))
    assert calm > usual + 0.08
    assert usual > wild + 0.08
    assert wild > 0.25


def test_strokes_stay_inside_the_frame_and_fill_it():
    images = draw(*spread(2000))
    ink = images[:, 0] > 127
    edge = (
        ink[:, 0].float().mean() + ink[:, -1].float().mean() + ink[..., 0].float().mean() + ink[..., -1].float().mean()
    )
    assert edge / 4 < 0.005
    rows, columns = ink.any(2).sum(1), ink.any(1).sum(1)
    assert (torch.maximum(rows, columns) >= 16).float().mean() > 0.99


@pytest.mark.parametrize("image_size", [8, 20, 56, 105])
def test_other_image_sizes_hold_the_same_characters(image_size):
    images = draw(*spread(64), GlyphImages(image_size=image_size))
    assert images.shape == (64, 1, image_size, image_size)
    small = torch.nn.functional.interpolate(images.float(), size=(8, 8), mode="area").flatten(1)
    usual = torch.nn.functional.interpolate(draw(*spread(64)).float(), size=(8, 8), mode="area").flatten(1)
    assert (torch.cdist(small, usual).argmin(1) == torch.arange(64)).float().mean() > 0.9


def test_splits_share_no_class_and_have_a_million_each():
    classes = np.concatenate([GLYPHS.splits[split] for split in ("train", "val", "test")])
    assert np.array_equal(classes, np.arange(3 << 20))
    assert GLYPHS.sizes.strides == (0,)


def test_episodes_of_a_split_hold_only_its_classes():
    glyphs = Glyphs(n_way=5, n_shot=1, n_query=2)
    for i, split in enumerate(("train", "val", "test")):
        episodes = glyphs.sample(Place(8, split, index=3))
        assert ((episodes.origin >> 32) // CLASSES_PER_SPLIT == i).all()
        assert episodes.support.x.shape == (8, 5, 1, 28, 28)


def test_an_empty_request_gives_no_images():
    assert draw(np.arange(0), np.arange(0)).shape == (0, 1, 28, 28)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: draw(3 << 20, [0]), "classes from 0 to 3145727, got 3145728"),
        (lambda: draw(0, [-1]), "items from 0 to 1048575, got -1"),
        (lambda: GLYPHS.gather(np.arange(3), np.arange(2), "cpu"), r"\[K\] and \[K\], got \[3\] and \[2\]"),
        (lambda: Glyphs(within_groups=True).sample(Place(1, "train")), "groups"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()
