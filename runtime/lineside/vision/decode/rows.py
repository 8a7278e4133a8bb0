"""Detectors whose last layer has suppressed already and lists what was found, one row a finding, image number first.

`detection_output`: OpenVINO's and Caffe's DetectionOutput [1, 1, N, 7]: image, class, score, x1 y1 x2 y2 (0 to 1);
image
-1 ends the list (docs.openvino.ai, "DetectionOutput"). `yolov7_e2e`: YOLOv7's export with --end2end [N, 7]: image,
x1 y1 x2 y2, class, score. `nas_flat`: YOLO-NAS' flat predictions [N, 7]: image, x1 y1 x2 y2, score, class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, nms, to_frame
from lineside.vision.decode import outputs as out


class Columns(NamedTuple):
    """Where a row has what; the image's number comes first."""

    score: int
    class_id: int
    boxes: slice
    words: str


class _RowsDecoder:
    columns: ClassVar[Columns]
    sizes: ClassVar[tuple[int, ...]]  # how many sizes the output may have

    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        shape = outputs[0].shape if len(outputs) == 1 else ()
        leading = shape[:-2]
        if len(shape) not in self.sizes or shape[-1] != 7 or any(size not in (1, None) for size in leading):
            raise out.misfit(outputs, f"one output, rows of {self.columns.words}")
        out.check_step(outputs[0], "export the model with float outputs")
        self._unit = out.unit_boxes(settings.boxes, outputs[0])
        self._format = "xyxy" if settings.box_format == "auto" else settings.box_format
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        rows = outputs[0].real()
        rows = rows.reshape(-1, rows.shape[-1])
        ends = np.flatnonzero(rows[:, 0] < 0)
        rows = rows[: ends[0]] if ends.size else rows
        if rows.size and rows[:, 0].max() >= 1:
            raise ConfigError(
                f"decode: output {outputs[0].name} has findings of image number {int(rows[:, 0].max())}, where one "
                "picture "
                "was given: the model has a batch other than 1, or other columns: give another --decode"
            )
        scores = rows[:, self.columns.score]
        found = np.flatnonzero(scores >= self._settings.min_score)
        if found.size == 0:
            return NOTHING
        scores = np.ascontiguousarray(scores[found])
        boxes = out.in_pixels(
            rows[found, self.columns.boxes], self._unit, placement.canvas_width_px, placement.canvas_height_px
        )
        corners, class_ids = out.corners(boxes, self._format), rows[found, self.columns.class_id]
        numbers = out.numbers(np.rint(class_ids) if out.is_quantised(outputs[0]) else class_ids, self._settings)
        # the model's own suppression stays as it is (an IoU of 1 removes nothing): only order and limit
        kept = nms(corners, scores, numbers, 1.0, self._settings.max_findings)
        return Detections(to_frame(corners[kept], placement), scores[kept], numbers[kept])


class DetectionOutputDecoder(_RowsDecoder):
    """OpenVINO's and Caffe's DetectionOutput."""

    columns = Columns(2, 1, slice(3, 7), "image, class, score, x1 y1 x2 y2 [1, 1, N, 7]")
    sizes = (2, 3, 4)


class YoloV7E2eDecoder(_RowsDecoder):
    """YOLOv7's export with --end2end."""

    columns = Columns(6, 5, slice(1, 5), "image, x1 y1 x2 y2, class, score [N, 7]")
    sizes = (2,)


class NasFlatDecoder(_RowsDecoder):
    """YOLO-NAS' flat predictions."""

    columns = Columns(5, 6, slice(1, 5), "image, x1 y1 x2 y2, score, class [N, 7]")
    sizes = (2,)
