"""From the driver's picture to the one the path sees: rotate clockwise, then flip, then cut out the region of interest.

The region is cut first, in the driver's own coordinates, so that only its pixels are turned; without rotate and flip it
is a view and costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lineside.errors import ConfigError
from lineside.records import Image

Flip = Literal["none", "horizontal", "vertical"]
Roi = tuple[int, int, int, int]  # x, y, width, height; pixels of the picture after rotate and flip


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a camera hangs, and what part of its picture matters."""

    rotate_deg: Literal[0, 90, 180, 270] = 0
    flip: Flip = "none"
    roi: Roi | None = None

    def apply(self, image: Image) -> Image:
        """(H, W, 3) as driven -> (h, w, 3) as used; a view where it can be. Raises ConfigError if roi is outside."""
        if self.roi is not None:
            image = self._cut(image, self.roi)
        if self.rotate_deg == 0 and self.flip == "none":
            return image
        import cv2  # here: a camera that hangs straight needs none of it

        if self.rotate_deg:
            image = cv2.rotate(image, _ROTATIONS[self.rotate_deg])  # type: ignore[assignment]
        if self.flip != "none":
            image = cv2.flip(image, 1 if self.flip == "horizontal" else 0)  # type: ignore[assignment]
        return image

    def _cut(self, image: Image, roi: Roi) -> Image:
        height_px, width_px = image.shape[:2]
        turned_px = (height_px, width_px) if self.rotate_deg in (90, 270) else (width_px, height_px)
        x, y, w, h = roi
        if x + w > turned_px[0] or y + h > turned_px[1]:
            raise ConfigError(
                f"roi = {list(roi)}: reaches outside the picture of {turned_px[0]} x {turned_px[1]} pixels"
            )
        if self.flip == "horizontal":
            x = turned_px[0] - x - w
        elif self.flip == "vertical":
            y = turned_px[1] - y - h
        if self.rotate_deg == 90:  # turned (x, y) came from driven (y, H - 1 - x)
            x, y, w, h = y, height_px - x - w, h, w
        elif self.rotate_deg == 180:
            x, y = width_px - x - w, height_px - y - h
        elif self.rotate_deg == 270:  # turned (x, y) came from driven (W - 1 - y, x)
            x, y, w, h = width_px - y - h, x, h, w
        return image[y : y + h, x : x + w]


_ROTATIONS = {90: 0, 180: 1, 270: 2}  # cv2.ROTATE_90_CLOCKWISE, ROTATE_180, ROTATE_90_COUNTERCLOCKWISE
