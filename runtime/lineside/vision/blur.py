"""Makes faces unrecognisable before a picture is stored or published. Off the frame path."""

from __future__ import annotations

from collections.abc import Iterable

from lineside.records import Box, Image

_CELLS = 6  # across the longer side: averages of so few cells keep no feature of a face, and cannot be undone


def blur_boxes(image: Image, boxes: Iterable[Box], margin: float = 0.25) -> Image:
    """A copy in which each box, grown by `margin` of its sides, is averaged to at most 6 x 6 cells and smoothed."""
    import cv2

    out = image.copy()
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in boxes:
        grow_x, grow_y = (x2 - x1) * margin, (y2 - y1) * margin
        left, top = max(0, int(x1 - grow_x)), max(0, int(y1 - grow_y))
        right, bottom = min(width, int(x2 + grow_x) + 1), min(height, int(y2 + grow_y) + 1)
        if right <= left or bottom <= top:
            continue
        face = out[top:bottom, left:right]
        longer = max(face.shape[:2])
        cells = tuple(max(1, min(side, round(side / longer * _CELLS))) for side in (right - left, bottom - top))
        coarse = cv2.resize(face, cells, interpolation=cv2.INTER_AREA)
        out[top:bottom, left:right] = cv2.resize(coarse, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    return out
