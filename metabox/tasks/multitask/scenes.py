"""Rooms with balls and boxes, seen by a camera: segmentation, depth and normals of every pixel, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from metabox.arrays import Floats, Integers
from metabox.episodes import Split
from metabox.ranges import Count, NotNegative
from metabox.seeding import Draws
from metabox.targets import Classes, Part, Parts, Reals, TaskSpec
from metabox.tasks.images.rendered import Bytes, RenderedImages, Side

CLASSES = ("floor", "wall", "ball", "box")
FLOOR, WALL, BALL, BOX = range(4)

SLOTS = 3  # balls and boxes in a room, at most
VIEW = math.tan(math.radians(35))  # half the image's width at distance 1


@dataclass(frozen=True)
class Room:
    """The objects of a room, in metres. World axes: x to the right, y up from the floor, z away from the camera.

    eye: height of the camera above the floor, at x = z = 0, `[...]`
    pitch: how far it looks down, radians, `[...]`
    wall: z of the back wall, `[...]`
    kind: BALL, BOX or -1 for an empty slot, `[..., SLOTS]`
    place: x and z of each object's centre, `[..., SLOTS, 2]`
    half: half its sizes along its x, y and z axes, `[..., SLOTS, 3]`; the first is the radius of a ball
    yaw: its rotation about the vertical, radians, `[..., SLOTS]`
    """

    eye: Floats
    pitch: Floats
    wall: Floats
    kind: Integers
    place: Floats
    half: Floats
    yaw: Floats


class Scenes(RenderedImages):
    """Scene understanding with mixed losses: rooms of a floor, a wall and one to three balls and boxes.

    The parts of the target, each at every pixel: `segmentation` (one of `CLASSES`), `depth` (along the camera's axis,
    metres) and `normals` (a unit vector in camera coordinates: right, up, away from the camera).

    Args:
        n_query: images in a row of the batch.
        image_size: height and width in pixels, at least 16.
        weights: weights of the losses of segmentation, depth and normals in their sum.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        n_query: Count = 4,
        image_size: Side = 32,
        weights: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(n_query, image_size)
        self.weights = weights
        self.spec = TaskSpec((3, image_size, image_size), Parts(scene_parts(len(CLASSES), image_size, weights)))

    def render(self, draws: Draws, split: Split) -> tuple[Bytes, Floats]:
        room = draw_room(draws, self.n_query)
        depth, normals, surface = trace(room, self.image_size)
        room_classes = np.broadcast_to([FLOOR, WALL], (*room.eye.shape, 2))
        classes = np.take_along_axis(np.concatenate([room_classes, room.kind], axis=-1), surface, axis=-1)
        normals_first = normals.swapaxes(-1, -2).reshape(*depth.shape[:2], -1)
        return shade(draws, room, depth, normals, surface), np.concatenate([classes, depth, normals_first], axis=-1)


def scene_parts(n_classes: int, size: int | tuple[int, int], weights: tuple[float, float, float]) -> tuple[Part, ...]:
    """Segmentation, depth and normals at every pixel of images of this size."""
    spatial = (size, size) if isinstance(size, int) else size
    return (
        Part("segmentation", Classes(n_classes), spatial, weights[0]),
        Part("depth", Reals(1), spatial, weights[1]),
        Part("normals", Reals(3), spatial, weights[2]),
    )


def draw_room(draws: Draws, m: int) -> Room:
    """m rooms for each row of the batch: arrays `[T, m, ...]`."""
    wall = draws.uniform("wall", 4, 6, m)
    z = 1.8 + draws.uniform("z", 0, 1, m, SLOTS) * (wall[..., None] - 2.6)
    sector = draws.distinct("sectors", SLOTS, np.full(wall.shape, SLOTS), SLOTS, SLOTS) - 1  # left, middle, right
    side = 0.55 * sector + draws.uniform("x", -0.2, 0.2, m, SLOTS)
    filled = np.arange(SLOTS) < draws.integers("count", 1, SLOTS, m, 1)
    return Room(
        eye=draws.uniform("eye", 0.8, 1.6, m),
        pitch=draws.uniform("pitch", 0.0, 0.35, m),
        wall=wall,
        kind=np.where(filled, draws.integers("kind", BALL, BOX, m, SLOTS), -1),
        place=np.stack([side * VIEW * z, z], axis=-1),
        half=draws.uniform("half", 0.25, 0.6, m, SLOTS, 3),
        yaw=draws.uniform("yaw", 0, math.pi / 2, m, SLOTS),
    )


def trace(room: Room, size: int) -> tuple[Floats, Floats, Integers]:
    """What the camera sees: depth `[..., pixels]`, normals `[..., pixels, 3]` and the nearest surface.

    Surfaces are numbers `[..., pixels]`: 0 the floor, 1 the wall, then the slots. Pixels go row by row from the top.
    """
    rays = _rays(room, size)
    up, away = rays[..., 1], rays[..., 2]
    floor = np.where(up < 0, -room.eye[..., None] / np.where(up < 0, up, -1), np.inf)
    wall = room.wall[..., None] / away
    things, their_normals = _things(room, rays)
    depths = np.concatenate([floor[..., None], wall[..., None], things], axis=-1)
    surface = depths.argmin(axis=-1)
    depth = np.take_along_axis(depths, surface[..., None], axis=-1)[..., 0]
    planes = np.broadcast_to([[0.0, 1, 0], [0, 0, -1]], (*depth.shape, 2, 3))
    normals = np.concatenate([planes, their_normals], axis=-2)
    seen = np.take_along_axis(normals, surface[..., None, None], axis=-2)[..., 0, :]
    return depth, seen @ _camera(room.pitch), surface


def camera_rays(size: int) -> Floats:
    """The ray through the centre of each pixel, `[pixels, 3]`: right, up, and 1 away from the camera."""
    middle = ((np.arange(size) + 0.5) / size * 2 - 1) * VIEW
    up, right = np.meshgrid(-middle, middle, indexing="ij")
    return np.stack([right, up, np.ones_like(up)], axis=-1).reshape(-1, 3)


def _rays(room: Room, size: int) -> Floats:
    """The same in world coordinates, `[..., pixels, 3]`; times the depth they reach the surface."""
    rays: Floats = camera_rays(size) @ _camera(room.pitch).swapaxes(-1, -2)
    return rays


def _camera(pitch: Floats) -> Floats:
    """Camera to world coordinates, `[..., 3, 3]`: the columns are the camera's right, up and away."""
    zero, one, sin, cos = np.zeros_like(pitch), np.ones_like(pitch), np.sin(pitch), np.cos(pitch)
    rows = ((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _things(room: Room, rays: Floats) -> tuple[Floats, Floats]:
    """Depth `[..., pixels, SLOTS]`, infinite for a miss, and normals `[..., pixels, SLOTS, 3]` of balls and boxes."""
    is_ball = room.kind == BALL
    above = np.where(is_ball, room.half[..., 0], room.half[..., 1])  # they stand on the floor
    eye = np.stack([-room.place[..., 0], room.eye[..., None] - above, -room.place[..., 1]], axis=-1)
    own_eye = _turn(eye, -room.yaw)[..., None, :, :]  # in each object's axes
    own_rays = _turn(rays[..., None, :], -room.yaw[..., None, :])
    ball, ball_normal = _ball(own_eye, own_rays, room.half[..., None, :, 0])
    box, box_normal = _box(own_eye, own_rays, room.half[..., None, :, :])
    is_ball, there = is_ball[..., None, :], room.kind[..., None, :] >= 0
    normal = _turn(np.where(is_ball[..., None], ball_normal, box_normal), room.yaw[..., None, :])
    return np.where(there, np.where(is_ball, ball, box), np.inf), normal


def _turn(v: Floats, yaw: Floats) -> Floats:
    """Vectors `[..., 3]` rotated about the vertical."""
    (x, y, z), sin, cos = np.moveaxis(v, -1, 0), np.sin(yaw), np.cos(yaw)
    return np.stack(np.broadcast_arrays(cos * x + sin * z, y, cos * z - sin * x), axis=-1)


def _ball(eye: Floats, rays: Floats, radius: Floats) -> tuple[Floats, Floats]:
    """The nearer root of |eye + t ray|^2 = radius^2, and the normal there."""
    a, b, c = (rays * rays).sum(-1), (rays * eye).sum(-1), (eye * eye).sum(-1) - radius**2
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (t > 0), t, np.inf), (eye + t[..., None] * rays) / radius[..., None]


def _box(eye: Floats, rays: Floats, half: Floats) -> tuple[Floats, Floats]:
    """Where a ray has entered the slabs of all three axes, if that is before it leaves one (Kay & Kajiya 1986)."""
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    enters, leaves = (-np.sign(rays) * half - eye) / rays, (np.sign(rays) * half - eye) / rays
    t = enters.max(-1)
    face = enters.argmax(-1)[..., None] == np.arange(3)
    return np.where((t < leaves.min(-1)) & (t > 0), t, np.inf), np.where(face, -np.sign(rays), 0.0)


def shade(draws: Draws, room: Room, depth: Floats, normals: Floats, surface: Integers) -> Bytes:
    """Images `[T, M, 3, H, W]`: each surface of one colour, lit by a distant lamp behind and above the camera.

    The floor has tiles of one metre, without which scale and slope could not be seen.
    """
    m, n_pixels = surface.shape[1:]
    side = math.isqrt(n_pixels)
    colour = draws.uniform("colour", 0.2, 1.0, m, SLOTS + 2, 3)
    lamp = draws.uniform("lamp", 0, 1, m, 3) * [1.4, 0, 0] + [-0.7, 1, -1]
    lamp /= np.linalg.norm(lamp, axis=-1, keepdims=True)
    light = 0.3 + 0.7 * np.maximum((normals * lamp[..., None, :]).sum(-1), 0)  # Lambert's law, and ambient light
    at = _rays(room, side) * depth[..., None]
    odd = (np.floor(at[..., 0]) + np.floor(at[..., 2])) % 2 > 0
    light = np.where((surface == 0) & odd, 0.7 * light, light)
    seen = np.take_along_axis(colour, surface[..., None], axis=-2) * light[..., None]
    noise = draws.uniform("noise", -0.02, 0.02, m, n_pixels, 3)
    pixels = np.clip((seen + noise) * 255 + 0.5, 0, 255).astype(np.uint8)
    images: Bytes = pixels.swapaxes(-1, -2).reshape(*surface.shape[:2], 3, side, side)
    return images
