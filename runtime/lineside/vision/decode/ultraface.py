"""Ultra-Light-Fast face detector: scores [1, N, 2] (background, face) and corner boxes of 0 to 1 [1, N, 4]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, settle
from lineside.vision.decode import outputs as out

EXPECTED = "scores [1, N, 2] and boxes [1, N, 4]"


class UltraFaceDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        widths = {shape[1]: at for at, shape in enumerate(out.trimmed(o.shape) for o in outputs) if len(shape) == 2}
        if len(outputs) != 2 or widths.keys() != {2, 4}:
            raise out.misfit(outputs, EXPECTED)
        if len(labels) != 1:
            raise out.wrong_labels(labels, "1 (face; the background is no label), so 1")
        self._scores_at, self._boxes_at = widths[2], widths[4]
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        scores_of = outputs[self._scores_at]
        found = np.flatnonzero(scores_of.raw[0, :, 1] >= out.level(scores_of, self._settings.min_score))
        if found.size == 0:
            return NOTHING
        scores = scores_of.real((0, found, 1))
        boxes = outputs[self._boxes_at].real((0, found))
        corners = out.in_pixels(boxes, True, placement.canvas_width_px, placement.canvas_height_px)
        class_ids = np.zeros(len(scores), np.int32)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)
