"""Down-scaling with antialias, as Pillow, torchvision and Hugging Face's processors do it; OpenCV's resize has no such.

A triangle (PIL.Image.BILINEAR) or a cubic of a = -0.5 (BICUBIC), stretched by the scale where that shrinks the picture,
cut at the picture's edges and normalised there; one axis after the other, rounded to 8 bits between. Within one or two
grey levels of Pillow's own. Source: Pillow's documentation, "Filters"; Keys 1981, doi:10.1109/TASSP.1981.1163711.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np

from lineside.records import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kernel = Literal["antialias", "bicubic"]

_ROWS_AT_ONCE = 8  # of the result in one product: more would multiply more zeros
_ALONE = 1 << 18  # multiplications in one product: NumPy's OpenBLAS does more than these on all cores, which costs


class _Block(NamedTuple):
    """Rows `first` to `last` of the result are `weights` times rows `low` to `high` of the source."""

    first: int
    last: int
    low: int
    high: int
    weights: NDArray[np.float32]


class Resampler:
    """Fills canvases from frames of one size. Not for two threads at once: it owns its scratch memory."""

    def __init__(
        self, frame: tuple[int, int], area: tuple[float, float, float, float], size: tuple[int, int], kernel: Kernel
    ) -> None:
        """`frame` and `size` are (width, height); `area` of the frame is left, top, width, height in its pixels."""
        left, top, wide, high = area
        (frame_w, frame_h), (out_w, out_h) = frame, size
        # a cubic overshoots and is cut to 0 to 255 after each pass, so their order shows: columns first, as Pillow
        self._columns_first = kernel == "bicubic"
        down_w, across_h = (out_w, frame_h) if self._columns_first else (frame_w, out_h)
        self._down = _Axis(frame_h, top, high, out_h, down_w * 3, kernel)
        self._across = _Axis(frame_w, left, wide, out_w, across_h * 3, kernel)
        self._turned = np.empty((frame_w, across_h, 3), np.uint8)
        self._narrow = np.empty((out_w, across_h, 3), np.uint8)
        self._upright = np.empty((frame_h, out_w, 3) if self._columns_first else (out_h, frame_w, 3), np.uint8)

    def put(self, image: Image, out: Image) -> None:
        """uint8 (H, W, 3) -> `out`, uint8 (h, w, 3), which may be a window of a canvas."""
        if self._columns_first:
            cv2.transpose(image, self._turned)
            self._across.apply(_flat(self._turned), _flat(self._narrow))
            cv2.transpose(self._narrow, self._upright)
            whole = np.empty(out.shape, np.uint8)
            self._down.apply(_flat(self._upright), _flat(whole))
            np.copyto(out, whole)
        else:
            self._down.apply(_flat(np.ascontiguousarray(image)), _flat(self._upright))
            cv2.transpose(self._upright, self._turned)
            self._across.apply(_flat(self._turned), _flat(self._narrow))
            cv2.transpose(self._narrow, out)


def _flat(image: Image) -> NDArray[np.uint8]:
    return image.reshape(image.shape[0], image.shape[1] * 3)


class _Axis:
    """One pass: each row of the result is a weighted sum of some rows of the source."""

    def __init__(self, rows: int, start: float, length: float, size: int, columns: int, kernel: Kernel) -> None:
        self._blocks = _blocks(rows, start, length, size, kernel)
        most = max(block.weights.size for block in self._blocks)
        pieces = -(-columns // max(1, _ALONE // most))
        self._chunk = -(-columns // pieces)
        self._clips = kernel == "bicubic"  # it overshoots; what is below 0 must not come back as above
        self._real = np.empty((rows, self._chunk), np.float32)
        self._sums = np.empty((size, self._chunk), np.float32)

    def apply(self, source: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """(rows, columns) -> (size, columns)."""
        columns = source.shape[1]
        for first in range(0, columns, self._chunk):
            part = slice(first, min(first + self._chunk, columns))
            wide = part.stop - first
            real, sums = self._real[:, :wide], self._sums[:, :wide]
            low, high = self._blocks[0].low, self._blocks[-1].high
            np.copyto(real[low:high], source[low:high, part])
            for block in self._blocks:
                np.matmul(block.weights, real[block.low : block.high], out=sums[block.first : block.last])
            if self._clips:
                np.maximum(sums, 0, out=sums)
            np.copyto(out[:, part], cv2.convertScaleAbs(sums))


def _blocks(rows: int, start: float, length: float, size: int, kernel: Kernel) -> tuple[_Block, ...]:
    scale = length / size
    stretch = max(scale, 1.0)
    reach = stretch * (1.0 if kernel == "antialias" else 2.0)
    centres = start + (np.arange(size) + 0.5) * scale
    low = np.clip((centres - reach + 0.5).astype(int), 0, rows - 1)
    high = np.clip((centres + reach + 0.5).astype(int), low + 1, rows)
    blocks = []
    for first in range(0, size, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, size)
        begin, end = int(low[first]), int(high[last - 1])
        at = (np.arange(begin, end)[None, :] + 0.5 - centres[first:last, None]) / stretch
        weights = _triangle(at) if kernel == "antialias" else _cubic(at)
        reached = (np.arange(begin, end) >= low[first:last, None]) & (np.arange(begin, end) < high[first:last, None])
        weights = np.where(reached, weights, 0.0)
        blocks.append(
            _Block(first, last, begin, end, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
        )
    return tuple(blocks)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
