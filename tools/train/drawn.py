"""Golden pictures of the classifiers: surfaces drawn from nothing, with and without a defect. No photo is in them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) BGR


def tile(defect: bool, seed: int = 7) -> Image:
    """A grey tile with the stripes of its grinding; the defect is a dark hole with a bright rim."""
    rng = np.random.default_rng(seed)
    height, width = 320, 280
    across = np.linspace(-1, 1, width)
    stripes = cv2.GaussianBlur(rng.normal(0, 1, (1, width)), (0, 0), 0.8)
    surface = 96 - 22 * across**2 + 7 * stripes + rng.normal(0, 3, (height, width))
    surface += 5 * cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 25) * 25
    if defect:
        hole, rim = np.zeros((2, height, width))
        cv2.ellipse(hole, (150, 190), (9, 6), 10, 0, 360, 1.0, -1)
        cv2.ellipse(rim, (151, 192), (11, 8), 10, 0, 360, 1.0, 2)
        surface += 25 * cv2.GaussianBlur(rim, (0, 0), 1.0)
        surface *= 1 - 0.75 * cv2.GaussianBlur(hole, (0, 0), 1.0)
    return _grey(surface)


def spindle(defect: bool, seed: int = 11) -> Image:
    """The slanted threads of a spindle under a ring light; the defect is a rough dark pit on the raceway."""
    rng = np.random.default_rng(seed)
    height, width = 460, 1130
    y, x = np.mgrid[:height, :width].astype(np.float64)
    turn = (y + 0.18 * x - 30 * np.sin(np.pi * x / width)) / 92  # threads
    raceway = np.clip(np.sin(2 * np.pi * turn) * 2.5 + 0.6, -1, 1)
    light = np.exp(-(((x / width - 0.5) / 0.42) ** 2) * 0.7)
    surface = (105 + 62 * raceway) * light + 25
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), sigmaX=9, sigmaY=0.8)
    surface += 14 * grain / grain.std() * 0.35
    if defect:
        shape = np.zeros((height, width))
        for _ in range(46):
            at = (int(rng.normal(640, 17)), int(rng.normal(236, 9)))
            cv2.ellipse(shape, at, tuple(int(n) for n in rng.integers(3, 9, 2)), 0, 0, 360, 1.0, -1)
        rough = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 1.2)
        soft = cv2.GaussianBlur(shape, (0, 0), 1.5)
        surface = surface * (1 - 0.62 * soft) + soft * 28 * rough / rough.std()
    tint = np.array((0.72, 0.9, 1.0))  # B, G, R: brass
    return np.asarray(np.clip(surface[..., None] * tint, 0, 255), np.uint8)


def _grey(surface: NDArray[np.float64]) -> Image:
    return np.repeat(np.clip(surface, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
