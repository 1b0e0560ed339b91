"""Handwriting: pure functions of their ids, drawn in alphabets, nearer to real drawings than Glyphs."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from metabox.tasks import Handwriting
from metabox.tasks.images.glyphs import CLASSES_PER_SPLIT, DRAWINGS
from metabox.tasks.images.handwriting import (
    ALPHABET,
    CLOSING,
    COMPLICATED,
    HandwritingImages,
    _blurred,
    _closed,
    _in_alphabets,
    _pressed,
)
from metabox.tasks.images.strokes import PIECES, TRAITS
from metabox.tasks.place import Place

IMAGES = HandwritingImages()


def spread(k: int) -> tuple[np.ndarray, np.ndarray]:
    """k pairs of ids from the whole range, the last of each included."""
    return tuple(np.linspace(0, n - 1, k).astype(np.int64) for n in (3 * CLASSES_PER_SPLIT, DRAWINGS))


def draw(classes, items, images: HandwritingImages = IMAGES, device: str = "cpu") -> torch.Tensor:
    return images.gather(*(np.array(ids) for ids in np.broadcast_arrays(classes, items)), device)


def test_a_drawing_is_a_uint8_image_with_ink_and_background():
    images = draw(*spread(2000))
    assert images.shape == (2000, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert images.amax((1, 2, 3)).min() > 60
    share = (images > 60).float().mean((1, 2, 3))
    assert share.min() > 0.005
    assert share.max() < 0.6


def test_a_drawing_does_not_depend_on_what_is_drawn_beside_it():
    classes, items = spread(600)  # more than one chunk of shapes, and many of pictures
    whole = draw(classes, items)
    parts = [draw(classes[a:b], items[a:b]) for a, b in ((0, 1), (1, 37), (37, 600))]
    assert torch.equal(whole, torch.cat(parts))


def test_the_pixels_behind_a_fingerprint_stay_as_they_are():
    assert IMAGES.fingerprint == "Handwriting 1 (generated), image_size 28, wobble 1.0"
    # Another digest means other tasks: then the number in the fingerprint must change too.
    assert hashlib.sha256(draw(*spread(300)).numpy().tobytes()).hexdigest()[:16] == "19d1778017728ae9"


@pytest.mark.cuda
def test_cpu_and_cuda_draw_the_same_bits():
    assert torch.equal(draw(*spread(5000), device="cuda").cpu(), draw(*spread(5000)))


def test_drawings_of_a_class_differ_and_so_do_classes():
    assert len(draw(7, np.arange(500)).flatten(1).unique(dim=0)) == 500
    assert len(draw(np.arange(500), 0).flatten(1).unique(dim=0)) == 500


def test_an_alphabet_shares_three_kinds_of_pieces_its_curvature_and_its_slant():
    classes = torch.arange(50 * ALPHABET)
    free = torch.rand(len(classes), PIECES, TRAITS, generator=torch.Generator().manual_seed(0))
    traits, slant = _in_alphabets(free, classes)
    for kinds in traits[..., 0].reshape(50, -1):
        _, times = kinds.unique(return_counts=True)
        assert abs(times.topk(3).values.sum() / len(kinds) - 0.75) < 0.12
    assert traits[..., 2].reshape(50, -1).mean(1).std() > 0.1
    assert torch.equal(slant, slant[::ALPHABET].repeat_interleave(ALPHABET))
    assert len(slant.unique()) == 50


def test_alphabets_are_the_groups_and_lie_in_one_split():
    tasks = Handwriting(n_way=ALPHABET, n_shot=1, n_query=1, within_groups=True)
    for i, split in enumerate(("train", "val", "test")):
        classes = tasks.sample(Place(4, split)).origin >> 32
        assert (classes // CLASSES_PER_SPLIT == i).all()
        assert (classes // ALPHABET == classes[:, :1] // ALPHABET).all()
    assert CLASSES_PER_SPLIT % ALPHABET == 0


def test_half_of_the_characters_have_a_second_part():
    control, _ = IMAGES.lines(torch.arange(4000), torch.zeros(4000, dtype=torch.int64))
    first, second = control[..., :4], control[..., 4:]  # [2, 4, K, pieces]
    beside = (first - second).abs().amax((0, 1, 3)) > 4.0  # without one, it differs by the noise only
    assert abs(beside.float().mean() - COMPLICATED) < 0.06


def test_some_pieces_return_to_the_start_of_the_one_before():
    arc = [torch.tensor([point]) for point in ([0.0, 0.0], [0.0, 1.3], [2.0, 1.3], [2.0, 0.0])]
    line = [torch.tensor([[float(x), 5.0]]) for x in range(4)]
    closes = _closed([arc, line, line, line], torch.tensor([[0.9, CLOSING / 2, 0.9, 0.9]]))
    torch.testing.assert_close(torch.cat(closes[1]), torch.tensor([[2.0, 0.0], [2.0, -1.3], [0.0, -1.3], [0.0, 0.0]]))
    assert torch.equal(torch.cat(closes[2]), torch.cat(line))
    single = _closed([arc, line, line, arc], torch.tensor([[0.1, 0.9, 0.9, 0.9]]))
    assert all(torch.equal(torch.cat(single[i]), torch.cat([arc, line, arc, line][i])) for i in range(4))


def test_pen_and_scan_widen_lines_and_keep_their_ink():
    dot = torch.zeros(1, 9, 9)
    dot[0, 4, 4] = 200.0
    half = torch.full((1, 1, 1), 0.5)
    pressed = _pressed(dot, half)
    assert pressed[0, 4].tolist() == pressed[0, :, 4].tolist() == [0, 0, 0, 100, 200, 100, 0, 0, 0]
    assert pressed.sum() == 600
    blurred = _blurred(dot, half * 0.25)
    assert blurred.sum() == 200
    assert blurred[0, 4, 3:6].tolist() == [25, 100, 25]


@pytest.mark.parametrize("image_size", [8, 56])
def test_other_image_sizes_are_drawn(image_size):
    images = draw(*spread(64), HandwritingImages(image_size=image_size))
    assert images.shape == (64, 1, image_size, image_size)
    assert images.amax((1, 2, 3)).min() > 30


@pytest.mark.parametrize("options", [{"image_size": 7}, {"wobble": 2.1}, {"n_way": 65, "within_groups": True}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Handwriting(**options).sample(Place(1, "train"))
