"""YOLOv8 and YOLO11, raw head: boxes cx cy w h and one score a class, no objectness.

Layout from Ultralytics' exporters: one output [1, 4 + C, N] (or transposed), or boxes [1, 4, N] and scores [1, C, N]
as two outputs, which INT8 models need (one scale for both would round every score to 0).
"""

from __future__ import annotations

from collections.abc import Sequence

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, corners_of_centres, settle
from lineside.vision.decode import outputs as out

EXPECTED = "one output [1, 4 + classes, N] or [1, N, 4 + classes], or boxes [1, 4, N] and scores [1, classes, N]"


class YoloV8Decoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        classes = len(labels)
        shapes = [out.trimmed(output.shape) for output in outputs]
        if len(outputs) not in (1, 2) or any(len(shape) != 2 for shape in shapes):
            raise out.misfit(outputs, EXPECTED)
        if len(outputs) == 1:
            self._boxes_at = self._scores_at = 0
            self._columns = _channels_first(outputs, shapes[0], 4 + classes, labels)
            self._box_channels, self._score_channels = slice(0, 4), slice(4, 4 + classes)
            if not self._columns and _is_end_to_end(shapes[0], input):
                raise out.misfit(outputs, f"{EXPECTED}, N candidates of a grid")
        else:
            self._boxes_at = 0 if 4 in shapes[0] else 1
            self._scores_at = 1 - self._boxes_at
            if classes == 4 and shapes[0] == shapes[1]:  # told apart by what they can hold
                self._boxes_at = 0 if "box" in outputs[0].name or out.largest(outputs[0]) > 1.5 else 1
                self._scores_at = 1 - self._boxes_at
            if 4 not in shapes[self._boxes_at]:
                raise out.misfit(outputs, EXPECTED)
            self._columns = _channels_first(outputs, shapes[self._scores_at], classes, labels)
            self._box_channels, self._score_channels = slice(0, 4), slice(0, classes)
        out.check_step(outputs[self._scores_at], "export boxes and scores as two outputs, or boxes as 0 to 1")
        self._unit = out.unit_boxes(settings.boxes, outputs[self._boxes_at])
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes_of, scores_of = outputs[self._boxes_at], outputs[self._scores_at]
        at_least = out.level(scores_of, self._settings.min_score)
        if self._columns:
            raw = scores_of.raw[0, self._score_channels]
            found = out.surviving_columns(raw, at_least)
            if found.size == 0:
                return NOTHING
            # numpy puts the picked candidates first when a slice stands between two picks: (n, channels)
            scores, class_ids = out.best_class(scores_of.real((0, self._score_channels, found)))
            boxes = boxes_of.real((0, self._box_channels, found))
        else:
            raw = scores_of.raw[0, :, self._score_channels]
            found = out.surviving_rows(raw, at_least)
            if found.size == 0:
                return NOTHING
            scores, class_ids = out.best_class(scores_of.real((0, found, self._score_channels)))
            boxes = boxes_of.real((0, found, self._box_channels))
        boxes = out.in_pixels(boxes, self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners = corners_of_centres(boxes)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def _channels_first(
    outputs: tuple[TensorSpec, ...], shape: tuple[int | None, ...], channels: int, labels: tuple[str, ...]
) -> bool:
    """Whether channels come before candidates; where both could be, the first as Ultralytics writes it."""
    if channels in shape:
        return shape[0] == channels
    known = [size for size in shape if size is not None]
    if len(known) == 2 and min(known) > 6 and max(known) > 4 * min(known):
        extra = channels - len(labels)
        raise ConfigError(
            f"{out.misfit(outputs, EXPECTED)}; the {len(labels)} labels of this bundle would need {channels} channels, "
            f"the model has {min(known)}, so {min(known) - extra} classes"
        )
    raise out.misfit(outputs, EXPECTED)


def _is_end_to_end(shape: tuple[int | None, ...], input: InputSpec) -> bool:
    """[1, 300, 6] of an end-to-end model looks like the rows of a model with two classes."""
    if shape[1] != 6 or shape[0] is None or shape[0] > 1000 or input.width_px is None or input.height_px is None:
        return False
    return shape[0] != len(out.grid((input.width_px, input.height_px), (8, 16, 32)))
