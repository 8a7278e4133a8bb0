"""Golden pictures that are nobody's: a drawn circuit board with a defect of each kind, and drawn faces."""

from __future__ import annotations

import cv2
import numpy as np
from boxes import Picture


def board(seed: int = 3) -> Picture:
    """Copper black on white, 640 x 640: an open, a short, a mousebite, a spur, spurious copper and a pin-hole."""
    rng = np.random.default_rng(seed)
    image = np.full((640, 640), 255, np.uint8)
    for at, points in enumerate(
        (((60, 0), (60, 260), (200, 400), (200, 640)), ((140, 0), (140, 220), (270, 350), (270, 640)))
    ):
        cv2.polylines(image, [np.array(points)], False, 0, 26 + 4 * at)
    cv2.rectangle(image, (360, 60), (600, 300), 0, -1)
    cv2.circle(image, (480, 470), 110, 0, -1)
    for x, y in ((410, 110), (550, 250), (480, 470)):
        cv2.circle(image, (x, y), 22, 255, -1)
    _blob(image, rng, 60, 150, 13, 255, stretch=1.6)  # open: across the first trace
    cv2.line(image, (200, 520), (270, 523), 0, 9)  # short: between the traces
    _blob(image, rng, 360, 190, 10, 255)  # mousebite: out of an edge
    _blob(image, rng, 480, 303, 8, 0)  # spur: on an edge
    _blob(image, rng, 90, 480, 10, 0)  # copper: where none belongs
    _blob(image, rng, 520, 150, 8, 255)  # pin-hole: within copper
    sharp = cv2.threshold(cv2.GaussianBlur(image, (0, 0), 1.2), 127, 255, cv2.THRESH_BINARY)[1]
    return np.asarray(cv2.cvtColor(sharp, cv2.COLOR_GRAY2BGR), np.uint8)


def _blob(
    image: Picture, rng: np.random.Generator, x: int, y: int, radius: float, level: int, stretch: float = 1
) -> None:
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    reach = radius * rng.uniform(0.7, 1.2, 14)
    points = np.stack((x + stretch * reach * np.cos(angles), y + reach * np.sin(angles)), 1)
    cv2.fillPoly(image, [points.round().astype(np.int32)], level)


def faces(seed: int = 5) -> Picture:
    """Two drawn heads, one with a mask, before a plain wall, 416 x 312."""
    rng = np.random.default_rng(seed)
    image = np.full((312, 416, 3), (150, 165, 160), np.float32)
    image += np.linspace(-25, 25, 416)[None, :, None]
    _head(image, 120, 150, 52, (120, 155, 205), mask=False)
    _head(image, 300, 160, 46, (90, 125, 180), mask=True)
    noisy = cv2.GaussianBlur(image, (0, 0), 1.1) + rng.normal(0, 3, image.shape)
    return np.asarray(noisy.clip(0, 255), np.uint8)


def _head(image: np.ndarray, x: int, y: int, r: int, skin: tuple[int, int, int], mask: bool) -> None:
    dark = tuple(0.55 * c for c in skin)
    cv2.ellipse(image, (x, y + int(2.6 * r)), (int(1.9 * r), int(1.5 * r)), 0, 180, 360, (70, 50, 45), -1)  # shoulders
    cv2.rectangle(image, (x - r // 3, y + r // 2), (x + r // 3, y + int(1.5 * r)), dark, -1)  # neck
    cv2.ellipse(image, (x, y - r // 4), (int(0.95 * r), int(1.25 * r)), 0, 0, 360, (25, 28, 32), -1)  # hair
    face = image.copy()
    cv2.ellipse(face, (x, y + r // 8), (int(0.78 * r), int(1.05 * r)), 0, 0, 360, skin, -1)
    shade = np.linspace(0.72, 1.12, 2 * r)[None, :, None]
    face[y - 2 * r : y + 2 * r, x - r : x + r] *= np.where(
        np.all(np.abs(face[y - 2 * r : y + 2 * r, x - r : x + r] - skin) < 1, axis=2, keepdims=True), shade, 1
    )
    image[:] = face
    for side in (-1, 1):
        eye = (x + side * int(0.32 * r), y - r // 8)
        cv2.ellipse(image, eye, (r // 5, r // 10), 0, 0, 360, (225, 230, 235), -1)
        cv2.circle(image, eye, max(2, r // 11), (30, 35, 45), -1)
        brow = (eye[0], eye[1] - r // 4)
        cv2.ellipse(image, brow, (r // 4, r // 12), 0, 180, 360, (30, 35, 42), 3)
    if mask:
        points = [(-0.72, 0.18), (0, 0.05), (0.72, 0.18), (0.6, 0.8), (0, 1.15), (-0.6, 0.8)]
        cv2.fillPoly(image, [np.array([(x + a * r, y + b * r) for a, b in points], np.int32)], (215, 205, 190))
        cv2.line(image, (x - int(0.6 * r), y + r // 2), (x + int(0.6 * r), y + r // 2), (190, 180, 165), 2)
        return
    cv2.line(image, (x, y), (x - r // 12, y + int(0.35 * r)), dark, 3)
    cv2.ellipse(image, (x, y + int(0.38 * r)), (r // 7, r // 14), 0, 0, 180, dark, 3)
    cv2.ellipse(image, (x, y + int(0.66 * r)), (r // 3, r // 9), 0, 0, 360, (95, 95, 165), -1)
