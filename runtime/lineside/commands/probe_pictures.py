"""Pictures to show to a model that nobody knows: grey, noise, solid blocks of colour, and the rendered conveyor.

They differ in all that a model can go by, so a model that sees answers each of them otherwise.
"""

from __future__ import annotations

import numpy as np

from lineside.records import Image

SEED = 9
_COLOURS = (
    (255, 255, 255),
    (0, 0, 255),
    (0, 255, 0),
    (255, 0, 0),
    (0, 0, 0),
    (0, 255, 255),
    (255, 255, 0),
    (255, 0, 255),
)
_SCENE_PX = (640, 360)


def probe_pictures(width: int, height: int) -> list[Image]:
    """BGR pictures of this size; the same each time."""
    import cv2

    from lineside.cameras.render import Scene

    random = np.random.default_rng(SEED)
    noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    grey = np.full((height, width, 3), 127, np.uint8)
    scene = Scene(SEED, *_SCENE_PX).frame(60).image
    return [
        grey,
        noise,
        _blocks(random, width, height, 60),
        _blocks(random, width, height, 200),
        np.asarray(cv2.resize(scene, (width, height), interpolation=cv2.INTER_AREA), np.uint8),
    ]


def _blocks(random: np.random.Generator, width: int, height: int, ground: int) -> Image:
    """Eight squares, one of each colour, in a grid of 4 x 3 places, each up to two thirds of its place."""
    picture = np.full((height, width, 3), ground, np.uint8)
    places = random.permutation(12)[: len(_COLOURS)]
    wide, high = width / 4, height / 3
    for place, colour in zip(places.tolist(), _COLOURS, strict=True):
        side_x, side_y = (random.uniform(0.5, 0.85, 2) * (wide, high)).astype(int).tolist()
        left = int(place % 4 * wide + random.uniform(0, wide - side_x))
        top = int(place // 4 * high + random.uniform(0, high - side_y))
        picture[top : top + max(side_y, 1), left : left + max(side_x, 1)] = colour
    return picture
