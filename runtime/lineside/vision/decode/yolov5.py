"""YOLOv5 (and YOLOv7): one output [1, N, 5 + C], rows of cx cy w h, objectness, one score a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, ClassIds, Scores, corners_of_centres, settle
from lineside.vision.decode import outputs as out

EXPECTED = "one output [1, N, 5 + classes]"


class YoloV5Decoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        check_rows(outputs, labels, EXPECTED)
        self._unit = out.unit_boxes(settings.boxes, outputs[0])
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        found, scores, class_ids = surviving(outputs[0], self._settings.min_score)
        if found.size == 0:
            return NOTHING
        boxes = outputs[0].real((0, found, slice(0, 4)))
        boxes = out.in_pixels(boxes, self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners = corners_of_centres(boxes)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def check_rows(outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], expected: str) -> int | None:
    """The number of rows of the one output [1, N, 5 + C]. Raises ConfigError if that is not what there is."""
    shape = out.trimmed(outputs[0].shape) if len(outputs) == 1 else ()
    if len(shape) != 2 or shape[1] is None or shape[1] < 6 or (shape[0] is not None and shape[0] < shape[1]):
        raise out.misfit(outputs, expected)
    if shape[1] != 5 + len(labels):
        raise ConfigError(f"{out.misfit(outputs, expected)}; {out.wrong_labels(labels, shape[1] - 5)}")
    return shape[0]


def surviving(output: Tensor, min_score: float) -> tuple[out.Indices, Scores, ClassIds]:
    """Rows whose objectness times best class score is high enough, with that score and class."""
    found = np.flatnonzero(output.raw[0, :, 4] >= out.level(output, min_score))  # a product is below its factors
    rows = output.real((0, found, slice(4, None)))
    scores, class_ids = out.best_class(rows[:, 1:])
    scores = scores * rows[:, 0]
    keep = scores >= min_score
    return found[keep], scores[keep], class_ids[keep]
