"""Made-up images whose labels are known: shapes with attributes, and rooms with balls and boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from metabox.seeding import Draws
from metabox.targets.parts import split_parts
from metabox.tasks.multitask.scenes import BALL, BOX, SLOTS, VIEW, Room, Scenes, camera_rays, draw_room, trace
from metabox.tasks.multitask.shapes import ATTRIBUTES, Shapes
from metabox.tasks.place import Place


def same(a, b):
    pairs = ((a.query.x, b.query.x), (a.query.y, b.query.y))
    return all(torch.equal(one.nan_to_num(9), other.nan_to_num(9)) for one, other in pairs)


@pytest.mark.parametrize("make", [Shapes, Scenes, lambda **kw: Shapes(parts=True, missing=0.2, **kw)])
def test_a_sample_is_a_pure_function_of_its_arguments(make):
    sampler = make(n_query=3)
    whole = sampler.sample(Place(6, "train", index=5, seed=1))
    assert same(whole, make(n_query=3).sample(Place(6, "train", index=5, seed=1)))
    assert same(whole[2:5], sampler.sample(Place(3, "train", index=5, first=2, seed=1)))
    for other in ({"index": 6}, {"seed": 2}, {"split": "test"}):
        changed = sampler.sample(Place(**({"n_tasks": 6, "index": 5, "seed": 1} | other)))
        assert not same(whole, changed), other
    assert whole.support.x.shape == (6, 0, 3, 32, 32)
    assert whole.query.x.dtype == torch.uint8
    if "missing" not in vars(sampler):
        sampler.spec.check_episodes(whole)


@pytest.mark.parametrize("size", [16, 45])
@pytest.mark.parametrize("make", [Shapes, Scenes])
def test_images_of_any_size_are_rendered(make, size):
    sampler = make(n_query=2, image_size=size)
    episodes = sampler.sample(Place(3, "val"))
    assert episodes.query.x.shape == (3, 2, 3, size, size) == (3, 2, *sampler.spec.x_shape)
    assert episodes.query.y.shape == (3, 2, sampler.spec.target.size)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shapes(missing=0.2), "parts=True"),
        (lambda: Scenes().sample(Place(0, "train")), "n_tasks"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Shapes: the labels are read off the pixels, by other means than those that drew them


@pytest.fixture(scope="module")
def shapes():
    """Images `[K, 64, 64, 3]`, where the ink is `[K, 64, 64]`, and a label by its name."""
    query = Shapes(n_query=8, image_size=64).sample(Place(50, "train")).query
    images = query.x.flatten(0, 1).permute(0, 2, 3, 1).numpy().astype(float)
    colourful = images.max(-1) - images.min(-1) > 45  # the paper is grey
    labels = query.y.flatten(0, 1).numpy() > 0
    return images, colourful, dict(zip(ATTRIBUTES, labels.T, strict=True))


def test_light_is_a_light_background(shapes):
    images, _, label = shapes
    assert np.array_equal(np.median(images, axis=(1, 2, 3)) > 125, label["light"])


def test_warm_is_more_red_than_blue(shapes):
    images, ink, label = shapes
    red_over_blue = ((images[..., 0] - images[..., 2]) * ink).sum((1, 2))
    assert np.array_equal(red_over_blue > 0, label["warm"])


def test_filled_is_without_holes(shapes):
    _, ink, label = shapes
    holes = np.array([ndimage.binary_fill_holes(closed(i)).sum() - closed(i).sum() for i in ink])
    assert np.mean((holes < 8) == label["filled"]) > 0.97


def test_several_are_two_or_three_separate_shapes(shapes):
    _, ink, label = shapes
    count = np.array([n_shapes(i) for i in ink])
    small = ~label["large"]
    assert np.array_equal((count > 1)[small], label["several"][small])
    assert set(count[small]) == {1, 2, 3}


def test_large_shapes_cover_more_and_tilted_ones_lean(shapes):
    _, ink, label = shapes
    alone = ~label["several"] & label["filled"]
    area, lean = np.array([moments(i) for i in ink[alone]]).T
    for kind in ("ellipse", "rectangle"):
        chosen = label[kind][alone]
        assert area[chosen & label["large"][alone]].min() > area[chosen & ~label["large"][alone]].max()
        assert np.array_equal(lean[chosen] > 20, label["tilted"][alone][chosen])


def test_an_ellipse_fills_pi_quarters_of_its_box_and_a_triangle_half(shapes):
    _, ink, label = shapes
    upright = ~label["several"] & label["filled"] & ~label["tilted"] & label["large"]
    ratio = np.array([i.sum() / (np.ptp(i.any(1).nonzero()) + 1) / (np.ptp(i.any(0).nonzero()) + 1) for i in ink])
    neither = ~label["ellipse"] & ~label["rectangle"]
    assert ratio[upright & label["ellipse"]] == pytest.approx(math.pi / 4, abs=0.07)
    assert ratio[upright & neither] == pytest.approx(0.5, abs=0.1)
    assert ratio[upright & label["rectangle"]] == pytest.approx(0.95, abs=0.1)


def closed(ink):
    return ndimage.binary_closing(np.pad(ink, 2), iterations=1)


def n_shapes(ink):
    parts, n = ndimage.label(closed(ink), np.ones((3, 3)))
    return sum(np.bincount(parts.ravel(), minlength=n + 1)[1:] > 12)


def moments(ink):
    """Area, and the angle in degrees between the longer axis and the vertical."""
    row, column = np.nonzero(ink)
    values, axes = np.linalg.eigh(np.cov(column, row))
    across, down = axes[:, values.argmax()]
    return ink.sum(), np.degrees(np.arctan2(abs(across), abs(down)))


def test_attributes_are_even_coins_and_kinds_equally_likely():
    y = Shapes(n_query=64).sample(Place(60, "train")).query.y.flatten(0, 1).double()
    assert y[:, 2:].mean(0).sub(0.5).abs().max() < 4 * 0.5 / math.sqrt(len(y))
    assert y[:, :2].mean(0).sub(1 / 3).abs().max() < 4 * 0.48 / math.sqrt(len(y))
    assert y[:, :2].sum(1).max() == 1
    coins = y[:, 2:] - 0.5
    correlation = 4 * coins.T @ coins / len(y) - torch.eye(6)
    assert correlation.abs().max() < 5 / math.sqrt(len(y))


def test_hidden_labels_are_a_fifth_of_the_training_labels_and_no_others():
    some, all_known = Shapes(parts=True, missing=0.2, n_query=64), Shapes(n_query=64)
    y, known = (s.sample(Place(20, "train")).query.y for s in (some, all_known))
    hidden = y.isnan()
    assert hidden.double().mean() == pytest.approx(0.2, abs=0.02)
    assert torch.equal(y[~hidden], known[~hidden])
    assert torch.equal(some.sample(Place(2, "test")).query.y, all_known.sample(Place(2, "test")).query.y)
    assert [part.name for part in some.spec.target.parts] == list(ATTRIBUTES)


# Scenes: closed forms, and an independent renderer


def room(**parts):
    """One room without things, the camera level."""
    empty = {
        "eye": np.array(1.2),
        "pitch": np.array(0.0),
        "wall": np.array(5.0),
        "kind": np.full(SLOTS, -1),
        "place": np.tile([0.0, 3.0], (SLOTS, 1)),
        "half": np.full((SLOTS, 3), 0.5),
        "yaw": np.zeros(SLOTS),
    }
    return Room(**(empty | parts))


def only(kind):
    return np.array([kind, -1, -1])


def test_the_nearest_point_of_a_ball_is_its_distance_less_its_radius():
    depth, normals, surface = trace(room(eye=np.array(0.5), kind=only(BALL)), 33)
    middle = 33 * 33 // 2
    assert surface[middle] == 2
    assert depth[middle] == pytest.approx(3 - 0.5)
    assert normals[middle] == pytest.approx([0, 0, -1])
    assert depth[surface == 2].min() == depth[middle]


def test_a_ball_is_where_its_equation_holds():
    depth, normals, surface = trace(room(kind=only(BALL)), 48)
    hit = (camera_rays(48) * depth[:, None])[surface == 2] + [0, 1.2, 0]
    from_middle = hit - [0, 0.5, 3]
    assert np.linalg.norm(from_middle, axis=-1) == pytest.approx(0.5)
    assert normals[surface == 2] == pytest.approx(from_middle / 0.5)


def test_the_face_of_a_box_is_a_plane_and_has_the_size_of_perspective():
    depth, normals, surface = trace(room(eye=np.array(0.5), kind=only(BOX)), 64)
    assert depth[surface == 2] == pytest.approx(2.5)
    assert normals[surface == 2] == pytest.approx(np.tile([0, 0, -1], (sum(surface == 2), 1)))
    assert sum(surface == 2) == pytest.approx((1 / 2.5 / (2 * VIEW) * 64) ** 2, rel=0.1)


def test_floor_and_wall_are_where_geometry_puts_them():
    depth, normals, surface = trace(room(), 32)
    up = camera_rays(32)[:, 1]
    assert depth == pytest.approx(np.where(up < -1.2 / 5, 1.2 / np.maximum(-up, 1e-9), 5.0))
    assert normals[surface == 0] == pytest.approx(np.tile([0, 1, 0], (sum(surface == 0), 1)))
    looking_down = trace(room(pitch=np.array(0.3)), 32)
    floor = looking_down[1][looking_down[2] == 0]
    assert floor == pytest.approx(np.tile([0, math.cos(0.3), -math.sin(0.3)], (len(floor), 1)))


def test_normals_are_unit_vectors_that_face_the_camera():
    depth, normals, _ = trace(draw_room(Draws("rooms", n_tasks=20), 2), 32)
    assert np.linalg.norm(normals, axis=-1) == pytest.approx(1)
    assert ((normals * camera_rays(32)).sum(-1) < 0).all()
    assert (depth > 0).all()
    assert np.isfinite(depth).all()


def test_normals_are_the_gradient_of_depth():
    """The cross product of the steps from a pixel to its neighbours, where all three show one smooth surface."""
    size = 256
    depth, normals, surface = trace(draw_room(Draws("rooms", n_tasks=4), 1), size)
    grid = (camera_rays(size) * depth[..., None]).reshape(4, size, size, 3)
    down, right = grid[:, 1:, :-1] - grid[:, :-1, :-1], grid[:, :-1, 1:] - grid[:, :-1, :-1]
    made = np.cross(right, down)
    made /= np.linalg.norm(made, axis=-1, keepdims=True)
    given, on = normals.reshape(grid.shape), surface.reshape(grid.shape[:-1])
    whole = (on[:, 1:, :-1] == on[:, :-1, :-1]) & (on[:, :-1, 1:] == on[:, :-1, :-1])
    near = [np.abs(given[:, a, b] - given[:, :-1, :-1]).max(-1) < 0.03 for a, b in (NEXT_ROW, NEXT_COLUMN)]
    smooth = whole & near[0] & near[1]  # no edge of a box, no rim of a ball
    cosine = (made * given[:, :-1, :-1]).sum(-1)[smooth]
    assert smooth.mean() > 0.9
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 4
    assert cosine[on[:, :-1, :-1][smooth] < 2] == pytest.approx(1)  # planes: exactly


NEXT_ROW, NEXT_COLUMN = (slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))


def march(room, direction):
    """Sphere tracing (Hart 1996): step by the distance to the nearest surface, until there is none."""
    sin, cos = math.sin(room.pitch), math.cos(room.pitch)
    x, y, z = direction
    ray = np.array([x, cos * y - sin * z, sin * y + cos * z])
    at, length = np.array([0, float(room.eye), 0]), np.linalg.norm(ray)
    for _ in range(1000):
        gaps = [at[1], room.wall - at[2]]
        for kind, (px, pz), half, yaw in zip(room.kind, room.place, room.half, room.yaw, strict=True):
            dx, dz = at[0] - px, at[2] - pz
            if kind == BALL:
                gaps.append(math.dist((dx, at[1], dz), (0, half[0], 0)) - half[0])
            elif kind == BOX:
                own = math.cos(yaw) * dx - math.sin(yaw) * dz, at[1] - half[1], math.sin(yaw) * dx + math.cos(yaw) * dz
                q = np.abs(own) - half
                gaps.append(np.linalg.norm(np.maximum(q, 0)) + min(q.max(), 0))
        at = at + ray / length * min(gaps)
        if min(gaps) < 1e-7:
            break
    return np.linalg.norm(at - [0, room.eye, 0]) / length


def test_the_renderer_agrees_with_sphere_tracing():
    rooms = draw_room(Draws("rooms", 1, n_tasks=6), 1)
    depth, _, surface = trace(rooms, 16)
    assert set(np.unique(surface)) == set(range(SLOTS + 2)), "all is seen somewhere"
    for i in range(6):
        one = Room(**{name: value[i, 0] for name, value in vars(rooms).items()})
        marched = [march(one, direction) for direction in camera_rays(16)]
        assert depth[i, 0] == pytest.approx(np.array(marched), abs=1e-4)


def test_the_target_holds_classes_depth_and_normals_in_the_order_of_the_parts():
    sampler = Scenes(n_query=2, weights=(1.0, 0.5, 2.0))
    query = sampler.sample(Place(3, "train")).query
    parts = split_parts(sampler.spec.target.parts, query.y)
    assert {name: list(value.shape) for name, value in parts.items()} == {
        "segmentation": [3, 2, 32, 32],
        "depth": [3, 2, 1, 32, 32],
        "normals": [3, 2, 3, 32, 32],
    }
    rooms = draw_room(Draws("Scenes", 0, "train", 0, n_tasks=3), 2)
    depth, normals, surface = trace(rooms, 32)
    assert parts["depth"].flatten(2).numpy() == pytest.approx(depth, rel=1e-6)
    assert parts["normals"].flatten(3).mT.numpy() == pytest.approx(normals, abs=1e-6)
    wanted = [[rooms.kind[t, m, s - 2] if s > 1 else s for s in surface[t, m]] for t in range(3) for m in range(2)]
    assert torch.equal(parts["segmentation"].flatten(2).flatten(0, 1).long(), torch.tensor(wanted))
    assert [part.weight for part in sampler.spec.target.parts] == [1.0, 0.5, 2.0]


def test_each_surface_has_a_colour_of_its_own():
    sampler = Scenes(n_query=1, image_size=64)
    query = sampler.sample(Place(20, "train")).query
    wall = split_parts(sampler.spec.target.parts, query.y)["segmentation"][:, 0] == 1
    for image, here in zip(query.x[:, 0].double(), wall, strict=True):
        assert image[:, here].std(1).max() < 4, "a wall is plain but for the noise"
