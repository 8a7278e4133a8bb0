"""YOLOv5 (and YOLOv7): one output [1, N, 5 + C], rows of cx cy w h, objectness, one score a class.

Not read beside it: the raw heads of five sizes that older exporters add, and a segmenter's mask prototypes, of which
each row has the coefficients behind its classes.
"""

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
        kept = [at for at, output in enumerate(outputs) if len(output.shape) != 5]
        heads, extra = out.without_masks([outputs[at] for at in kept], settings.extra_channels)
        if len(heads) != 1:
            raise out.misfit(outputs, EXPECTED)
        self._at = kept[heads[0]]
        check_rows((outputs[self._at],), labels, EXPECTED, extra)
        out.check_step(outputs[self._at], "export it with float outputs, or boxes as 0 to 1")
        self._classes = len(labels)
        self._unit = out.unit_boxes(settings.boxes, outputs[self._at])
        self._format = "cxcywh" if settings.box_format == "auto" else settings.box_format
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        head = outputs[self._at]
        found, scores, class_ids = surviving(head, self._settings.min_score, self._classes)
        if found.size == 0:
            return NOTHING
        boxes = head.real((0, found, slice(0, 4)))
        boxes = out.in_pixels(boxes, self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners = corners_of_centres(boxes) if self._format == "cxcywh" else out.corners(boxes, self._format)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def check_rows(outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], expected: str, extra: int = 0) -> int | None:
    """The number of rows of the one output [1, N, 5 + C + extra]. Raises ConfigError if that is not what there is."""
    shape = out.batched(outputs[0]) if len(outputs) == 1 else ()
    if len(shape) != 2 or shape[1] is None or shape[1] < 6 or (shape[0] is not None and shape[0] < shape[1]):
        raise out.misfit(outputs, expected)
    if shape[1] != 5 + len(labels) + extra:
        raise ConfigError(f"{out.misfit(outputs, expected)}; {out.wrong_labels(labels, shape[1] - 5 - extra)}")
    return shape[0]


def surviving(output: Tensor, min_score: float, classes: int) -> tuple[out.Indices, Scores, ClassIds]:
    """Rows whose objectness times best class score is high enough, with that score and class."""
    found = np.flatnonzero(output.raw[0, :, 4] >= out.level(output, min_score))  # a product is below its factors
    rows = output.real((0, found, slice(4, 5 + classes)))
    scores, class_ids = out.best_class(rows[:, 1:])
    scores = scores * rows[:, 0]
    keep = scores >= min_score
    return found[keep], scores[keep], class_ids[keep]
