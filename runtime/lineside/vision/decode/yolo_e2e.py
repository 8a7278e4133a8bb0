"""End-to-end YOLO (YOLO26, YOLOv10): one output [1, K, 6], rows of x1 y1 x2 y2, score, class; no suppression left."""

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
        shape = out.trimmed(outputs[0].shape) if len(outputs) == 1 else ()
        if len(shape) != 2 or shape[1] != 6 or (shape[0] or 0) > MAX_ROWS:
            raise out.misfit(outputs, EXPECTED)
        out.check_step(outputs[0], "export the model with float outputs, or its raw head for --decode yolov8")
        self._unit = out.unit_boxes(settings.boxes, outputs[0])
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        found = np.flatnonzero(outputs[0].raw[0, :, 4] >= out.level(outputs[0], self._settings.min_score))
        if found.size == 0:
            return NOTHING
        rows = outputs[0].real((0, found))
        rows = rows[np.argsort(-rows[:, 4], kind="stable")][: self._settings.max_findings]
        boxes = out.in_pixels(rows[:, :4], self._unit, placement.canvas_width_px, placement.canvas_height_px)
        class_ids = np.rint(rows[:, 5]).astype(np.int32)
        return Detections(to_frame(boxes, placement), np.ascontiguousarray(rows[:, 4]), class_ids)
