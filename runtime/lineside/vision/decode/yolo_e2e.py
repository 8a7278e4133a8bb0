"""End-to-end YOLO (YOLO26, YOLOv10, Ultralytics' export with nms=True): one output [1, K, 6], rows of x1 y1 x2 y2,
score,
class; no suppression left. Rows that are no finding are zeros. Behind them there may be key points, or coefficients of
masks whose prototypes are an output of four sizes: they are not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, to_frame
from lineside.vision.decode import outputs as out

EXPECTED = "one output [1, K, 6]: x1 y1 x2 y2 score class"
MAX_ROWS = 1000  # exporters write 300; thousands of rows are another family's candidates


class YoloE2eDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        heads, extra = out.without_masks(outputs, settings.extra_channels)
        self._at = at = heads[0] if len(heads) == 1 else -1
        shape = out.batched(outputs[at]) if at >= 0 else ()
        if len(shape) != 2 or shape[1] != 6 + extra or (shape[0] or 0) > MAX_ROWS:
            raise out.misfit(outputs, EXPECTED)
        out.check_step(outputs[at], "export the model with float outputs, or its raw head for --decode yolov8")
        self._unit = out.unit_boxes(settings.boxes, outputs[at])
        self._format = "xyxy" if settings.box_format == "auto" else settings.box_format
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        rows_of = outputs[self._at]
        found = np.flatnonzero(rows_of.raw[0, :, 4] >= out.level(rows_of, self._settings.min_score))
        if found.size == 0:
            return NOTHING
        rows = rows_of.real((0, found))
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][: self._settings.max_findings]
        boxes = out.in_pixels(rows[:, :4], self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners = boxes if self._format == "xyxy" else out.corners(boxes, self._format)
        whole = np.rint(rows[:, 5]) if out.is_quantised(rows_of) else rows[:, 5]
        class_ids = out.numbers(whole, self._settings)
        return Detections(to_frame(corners, placement), np.ascontiguousarray(rows[:, 4]), class_ids)
