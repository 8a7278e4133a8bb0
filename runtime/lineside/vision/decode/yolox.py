"""YOLOX, raw head: one output [1, N, 5 + C] whose boxes are offsets in the cells of strides 8, 16 and 32.

cx = (dx + column) * stride, w = exp(dw) * stride (Ge et al. 2021, arXiv:2107.08430, section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, corners_of_centres, settle
from lineside.vision.decode import outputs as out
from lineside.vision.decode.yolov5 import check_rows, surviving


class YoloxDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        self._cells = out.grid(out.canvas_size(input), (8, 16, 32))
        expected = f"one output [1, {len(self._cells)}, 5 + classes] for {input.width_px} x {input.height_px}"
        if check_rows(outputs, labels, expected) not in (None, len(self._cells)):
            raise out.misfit(outputs, expected)
        self._classes = len(labels)
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        found, scores, class_ids = surviving(outputs[0], self._settings.min_score, self._classes)
        if found.size == 0:
            return NOTHING
        cells, boxes = self._cells[found], outputs[0].real((0, found, slice(0, 4)))
        centres = np.concatenate([boxes[:, :2] + cells[:, :2], np.exp(boxes[:, 2:])], axis=1) * cells[:, 2:]
        corners = corners_of_centres(centres)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)
