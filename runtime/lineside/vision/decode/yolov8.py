"""YOLOv8, YOLOv9 and YOLO11, raw head: boxes and one score a class, no objectness. YOLO-NAS and others alike.

Layout from Ultralytics' exporters: one output [1, 4 + C, N] (or transposed), or boxes [1, 4, N] and scores [1, C, N]
as two outputs, which INT8 models need (one scale for both would round every score to 0). Behind the classes there may
be what is not read: coefficients of masks, whose prototypes are an output of four sizes, or key points.
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
        heads, extra = out.without_masks(outputs, settings.extra_channels)
        shapes = [out.batched(output) for output in outputs]
        if len(heads) not in (1, 2) or any(len(shapes[at]) != 2 for at in heads):
            raise out.misfit(outputs, EXPECTED)
        if len(heads) == 1:
            self._boxes_at = self._scores_at = at = heads[0]
            self._columns = _channels_first(outputs, shapes[at], 4 + classes + extra, labels)
            self._box_channels, self._score_channels = slice(0, 4), slice(4, 4 + classes)
            if not self._columns and _is_end_to_end(shapes[at], input):
                raise out.misfit(outputs, f"{EXPECTED}, N candidates of a grid")
        else:
            self._boxes_at, self._scores_at = _boxes_and_scores(outputs, heads, shapes, classes)
            if 4 not in shapes[self._boxes_at]:
                raise out.misfit(outputs, EXPECTED)
            self._columns = _channels_first(outputs, shapes[self._scores_at], classes, labels)
            if 4 not in (shapes[self._boxes_at][0 if self._columns else 1], None):
                raise out.misfit(outputs, EXPECTED)
            self._box_channels, self._score_channels = slice(0, 4), slice(0, classes)
        out.check_step(outputs[self._scores_at], "export boxes and scores as two outputs, or boxes as 0 to 1")
        self._unit = out.unit_boxes(settings.boxes, outputs[self._boxes_at])
        self._format = "cxcywh" if settings.box_format == "auto" else settings.box_format
        self._logits = settings.scores in ("logit", "sigmoid")
        self._least = out.logit(settings.min_score) if self._logits else settings.min_score
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes_of, scores_of = outputs[self._boxes_at], outputs[self._scores_at]
        at_least = out.level(scores_of, self._least)
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
        corners = corners_of_centres(boxes) if self._format == "cxcywh" else out.corners(boxes, self._format)
        if self._logits:
            scores = out.sigmoid(scores)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def _boxes_and_scores(
    outputs: tuple[TensorSpec, ...], heads: tuple[int, ...], shapes: Sequence[tuple[int | None, ...]], classes: int
) -> tuple[int, int]:
    """Which of two outputs holds the boxes: the one with 4 channels, with four classes the one of a larger range."""
    first, second = heads
    if classes == 4 and shapes[first] == shapes[second]:
        boxes_first = "box" in outputs[first].name or out.largest(outputs[first]) > 1.5
        if "box" in outputs[second].name:
            boxes_first = False
        return (first, second) if boxes_first else (second, first)
    return (first, second) if 4 in shapes[first] else (second, first)


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
            f"the model has {min(known)}, so {min(known) - extra} classes (or fewer, and key points or other channels "
            "behind them: --extra-channels)"
        )
    raise out.misfit(outputs, EXPECTED)


def _is_end_to_end(shape: tuple[int | None, ...], input: InputSpec) -> bool:
    """[1, 300, 6] of an end-to-end model looks like the rows of a model with two classes."""
    if shape[1] != 6 or shape[0] is None or shape[0] > 1000 or input.width_px is None or input.height_px is None:
        return False
    canvas = (input.width_px, input.height_px)
    return all(shape[0] != len(out.grid(canvas, strides)) for strides in ((8, 16, 32), (32,), (16, 32)))
