"""What is decoded is what a person sees: orientation, grey levels, transparency, first frames."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metabox.data.decode import SEVERAL, open_image
from metabox.data.preprocessing import Preprocessing
from metabox.data.viewing import as_shown

NOISE = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
GREY = Preprocessing(1, None)
COLOUR = Preprocessing(3, None)


def stored(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def seen(image: Image.Image, kind: str = "png", prepared: Preprocessing = GREY, **options: Any) -> NDArray[np.uint8]:
    """What becomes of an image in a file, which is also what becomes of Pillow's own image of it."""
    content = stored(image, kind, **options)
    made = prepared(open_image(content))
    assert np.array_equal(made, prepared(Image.open(io.BytesIO(content))))
    return made


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "avif"])
def test_turned_images_are_decoded_as_a_viewer_shows_them(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a title", orientation
    content = stored(Image.fromarray(NOISE), kind, exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    got = open_image(content)
    assert np.array_equal(np.asarray(got.convert("RGB")), np.asarray(wanted))
    assert np.array_equal(np.asarray(as_shown(got).convert("RGB")), np.asarray(wanted)), "turned once"


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0",
    ],
)
def test_damaged_metadata_mean_upright(exif: bytes) -> None:
    image = Image.fromarray(NOISE)
    image.info["exif"] = b"Exif\0\0" + exif
    assert np.array_equal(np.asarray(as_shown(image)), NOISE)


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    levels = np.array([[0, 2_000, 25_700, 50_000, 65_535, 128, 129]], dtype=np.uint16)
    assert seen(Image.fromarray(levels), kind).tolist() == [[[0, 8, 100, 195, 255, 0, 1]]]


def test_a_grey_level_of_sixteen_bits_may_be_transparent() -> None:
    levels = Image.fromarray(np.array([[300, 301]], dtype=np.uint16))
    assert seen(levels, transparency=300).tolist() == [[[255, 1]]]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100.4, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.float32), [0, 1, 255]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
    ],
)
def test_floats_and_long_numbers_are_scaled_by_their_range(values: NDArray[Any], wanted: list[int]) -> None:
    assert seen(Image.fromarray(values), "tiff")[0].tolist() == [wanted]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1, 1]], np.float32), r"float32 values from -1 to 1, .* \(0 to 1, 255 or 65,535\); scale them"),
        (np.array([[0, 1e6]], np.float32), "from 0 to 1e.06"),
        (np.array([[0, np.nan]], np.float32), "nan"),
        (np.array([[0, np.inf]], np.float32), "inf"),
        (np.array([[0, 1 << 20]], np.int32), r"int32 values .* \(0 to 255 or 65,535\)"),
    ],
)
def test_values_that_are_no_grey_levels_are_refused(values: NDArray[Any], message: str) -> None:
    for read in (lambda: open_image(stored(Image.fromarray(values), "tiff")), lambda: GREY(Image.fromarray(values))):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize("background", [0, 77, 255])
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_transparent_pixels_show_the_background(kind: str, background: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    pixels[..., 3] = np.linspace(0, 255, 99).reshape(9, 11)
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    made = seen(Image.fromarray(pixels), kind, Preprocessing(3, None, background=background), **options)
    share = pixels[..., 3:] / 255
    wanted = pixels[..., :3] * share + background * (1 - share)
    assert np.abs(made.transpose(1, 2, 0) - wanted).max() <= 1


def test_black_on_transparent_is_ink_on_paper_in_every_mode() -> None:
    ink = np.zeros((4, 4), np.uint8)
    ink[1] = 255
    wanted = 255 - ink
    alpha = Image.fromarray(ink)
    grey = Image.merge("LA", [Image.new("L", (4, 4)), alpha])
    palette = Image.fromarray(ink // 255).convert("P")
    palette.putpalette([0, 0, 0] * 256)
    bilevel = Image.fromarray(ink > 0)
    assert np.array_equal(seen(grey)[0], wanted)
    assert np.array_equal(seen(grey.convert("RGBA"))[0], wanted)
    assert np.array_equal(seen(palette, transparency=0)[0], wanted)
    assert np.array_equal(seen(palette, "gif", transparency=0)[0], wanted)
    assert np.array_equal(seen(palette, transparency=bytes([0, 255]))[0], wanted)
    assert np.array_equal(seen(bilevel)[0], ink), "nothing is transparent"
    assert np.array_equal(seen(grey, prepared=Preprocessing(1, None, inverted=True))[0], ink), "inverted paper is black"


def test_ink_of_four_colours_is_decoded() -> None:
    flat = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert seen(flat, "tiff", COLOUR)[:, 0, 0].tolist() == [255, 0, 0]
    assert np.abs(seen(flat, "jpeg", COLOUR, quality=100)[:, 0, 0].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tiff", "avif"])
def test_the_first_frame_counts_and_that_there_are_more_is_known(kind: str) -> None:
    frames = [Image.fromarray(np.roll(NOISE, i)) for i in range(3)]
    exact = {"lossless": True} if kind == "webp" else {}
    many = stored(frames[0], kind, save_all=True, append_images=frames[1:], **exact)
    one = stored(frames[0], kind, **exact)
    assert open_image(many).info.get(SEVERAL) is True
    assert SEVERAL not in open_image(one).info
    assert np.array_equal(COLOUR(open_image(many)), COLOUR(open_image(one))) or kind == "avif"


def test_avif_is_read_and_heic_refused_with_what_to_install() -> None:
    smooth = Image.linear_gradient("L").convert("RGB")
    assert np.abs(COLOUR(open_image(stored(smooth, "avif", quality=95))).astype(int) - COLOUR(smooth)).max() < 8
    with pytest.raises(ValueError, match="a HEIC photograph; install pillow-heif"):
        open_image(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64))


STRIPES = np.repeat(np.arange(0, 240, 40, dtype=np.uint8), 2)[None].repeat(4, 0)  # 4 high, 12 wide


@pytest.mark.parametrize(
    ("fit", "size", "wanted"),
    [
        ("crop", (4, 4), [80, 80, 120, 120]),
        ("crop", (2, 2), [80, 120]),
        ("pad", (12, 12), STRIPES[0].tolist()),
        ("squash", (4, 6), [0, 40, 80, 120, 160, 200]),
    ],
)
def test_other_proportions_are_cropped_padded_or_squashed(fit: Any, size: tuple[int, int], wanted: list[int]) -> None:
    made = Preprocessing(1, size, "box", fit=fit, background=9)(Image.fromarray(STRIPES))[0]
    assert made.shape == size
    assert made[size[0] // 2].tolist() == wanted
    if fit == "pad":
        assert made[:4].tolist() == made[8:].tolist() == [[9] * 12] * 4


def test_a_size_is_height_and_width() -> None:
    for fit in ("squash", "crop", "pad"):
        assert Preprocessing(3, (20, 30), fit=fit)(Image.fromarray(NOISE)).shape == (3, 20, 30)
    assert Preprocessing(3, (20, 30), enlarged=1.2)(Image.fromarray(NOISE)).shape == (3, 20, 30)
    square, pair = (Preprocessing(3, size)(Image.fromarray(NOISE)) for size in (20, (20, 20)))
    assert np.array_equal(square, pair)
