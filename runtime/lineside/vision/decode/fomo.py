"""FOMO (Edge Impulse): a coarse grid [1, h, w, 1 + C] of softmaxes, background first; no boxes, only where things are.

Cells whose best class is no background are taken; neighbours of one class, corners too, are one finding: its box is
that of their cells, its score the best of them, as in Edge Impulse's own SDK (ei_fill_result_struct.h).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, to_frame
from lineside.vision.decode import outputs as out

EXPECTED = "one output [1, rows, columns, 1 + classes], a grid of cells of at least 4 x 4 pixels, background first"
SMALLEST_CELL_PX = 4


class FomoDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        shape = outputs[0].shape if len(outputs) == 1 else ()
        if len(shape) != 4 or shape[0] not in (1, None) or None in shape[1:] or input.width_px is None:
            raise out.misfit(outputs, EXPECTED)
        wanted = 1 + len(labels)
        width, height = out.canvas_size(input)
        first = [shape[1] == wanted and _is_grid(shape[2:], width, height)]
        last = [shape[3] == wanted and _is_grid(shape[1:3], width, height)]
        if not any(first + last):
            channels = shape[3]
            if channels is not None and channels > 1 and _is_grid(shape[1:3], width, height):
                raise ConfigError(f"{out.misfit(outputs, EXPECTED)}; {out.wrong_labels(labels, channels - 1)}")
            raise out.misfit(outputs, EXPECTED)
        self._channels_last = last[0]
        self._softmax = settings.scores in ("logit", "softmax")
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        cells = outputs[0].real(0)
        if not self._channels_last:
            cells = cells.transpose(1, 2, 0)
        if self._softmax:
            powers = np.exp(cells - cells.max(axis=2, keepdims=True))
            cells = np.asarray(powers / powers.sum(axis=2, keepdims=True), np.float32)
        best = cells.argmax(axis=2)
        scores = np.take_along_axis(cells, best[..., None], axis=2)[..., 0]
        taken = np.where(scores >= self._settings.min_score, best, 0)
        rows, columns = taken.shape
        side = np.array([placement.canvas_width_px / columns, placement.canvas_height_px / rows] * 2, np.float32)
        boxes, found, class_ids = [], [], []
        for number in np.unique(taken[taken > 0]).tolist():
            of_class = (taken == number).astype(np.uint8)
            count, where, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
            for at in range(1, count):
                left, top, wide, high = stats[at, :4].tolist()
                boxes.append((left, top, left + wide, top + high))
                found.append(float(scores[where == at].max()))
                class_ids.append(number - 1)
        if not boxes:
            return NOTHING
        best_first = np.argsort(-np.array(found), kind="stable")[: self._settings.max_findings]
        corners = (np.array(boxes, np.float32) * side)[best_first]
        return Detections(
            to_frame(corners, placement),
            np.array(found, np.float32)[best_first],
            np.array(class_ids, np.int32)[best_first],
        )


def _is_grid(sides: Sequence[int | None], width: int, height: int) -> bool:
    rows, columns = sides
    if rows is None or columns is None or rows < 2 or columns < 2:
        return False
    return rows * SMALLEST_CELL_PX <= height and columns * SMALLEST_CELL_PX <= width
