"""Detectors that end in boxes, whole-number labels and scores as outputs of their own, all suppression done.

torchvision: boxes [N, 4] x1 y1 x2 y2 in pixels, labels [N] with 0 for the background, scores [N]. RT-DETR and D-FINE
with post-processing, TensorRT's EfficientNMS, tf2onnx and others: the same with a batch, maybe a count of findings.
MMDetection: dets [1, N, 5] with the score last, labels [1, N]. Masks and key points beside them are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, nms, to_frame
from lineside.vision.decode import outputs as out

EXPECTED = "boxes [N, 4], labels [N] and scores [N] with or without a batch, or dets [N, 5] and labels [N]"
_NOT_READ = re.compile("mask|keypoint|kpt|raw_|multiclass|anchor_ind", re.IGNORECASE)
_BOXES = re.compile("box|dets", re.IGNORECASE)
_LABELS = re.compile("label|class", re.IGNORECASE)
_SCORES = re.compile("score|conf|prob", re.IGNORECASE)
_COUNT = re.compile("num|count|valid", re.IGNORECASE)


class LabelledBoxesDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        roles = _roles(outputs)
        if roles is None:
            raise out.misfit(outputs, EXPECTED)
        self._roles = roles
        self._unit = out.unit_boxes(settings.boxes, outputs[roles.boxes])
        tensorflow = outputs[roles.boxes].name.startswith("detection_boxes")
        self._format = settings.box_format
        if settings.box_format == "auto":
            self._format = "yxyx" if tensorflow else "xyxy"
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes = outputs[self._roles.boxes].real()
        boxes = boxes.reshape(-1, boxes.shape[-1])
        scores = boxes[:, 4] if self._roles.scores is None else outputs[self._roles.scores].real().reshape(-1)
        class_ids = outputs[self._roles.labels].real().reshape(-1)
        if not len(boxes) == len(scores) == len(class_ids):
            raise ValueError(f"{len(boxes)} boxes, {len(scores)} scores, {len(class_ids)} labels")
        if self._roles.number is not None:
            count = int(outputs[self._roles.number].real().reshape(-1)[0])
            boxes, scores, class_ids = boxes[:count], scores[:count], class_ids[:count]
        found = np.flatnonzero(scores >= self._settings.min_score)
        if found.size == 0:
            return NOTHING
        scores = np.ascontiguousarray(scores[found])
        boxes = out.in_pixels(boxes[found, :4], self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners, numbers = out.corners(boxes, self._format), out.numbers(class_ids[found], self._settings)
        kept = nms(corners, scores, numbers, 1.0, self._settings.max_findings)  # IoU 1: only order and limit
        return Detections(to_frame(corners[kept], placement), scores[kept], numbers[kept])


class Roles(NamedTuple):
    """Which output is which; without `scores` they are the fifth column of the boxes."""

    boxes: int
    labels: int
    scores: int | None
    number: int | None  # of findings


def _roles(outputs: Sequence[TensorSpec]) -> Roles | None:
    """By their sizes and types, and by names where those leave it open; None if these are not such outputs."""
    read = [at for at, output in enumerate(outputs) if not _NOT_READ.search(output.name) and len(output.shape) <= 3]
    lists = [at for at in read if _is_list(outputs[at].shape)]
    boxes = [at for at in read if at not in lists and _is_boxes(outputs[at].shape)]
    boxes = boxes if len(boxes) == 1 else [at for at in boxes if _BOXES.search(outputs[at].name)]
    if len(boxes) != 1 or len(read) > 4 or set(read) - set(lists) - set(boxes):
        return None
    counts = [at for at in lists if _is_count(outputs[at])]
    rest = [at for at in lists if at not in counts]
    whole = [at for at in rest if outputs[at].dtype.startswith(("int", "uint"))]
    if outputs[boxes[0]].shape[-1] == 5 and len(rest) == 1:
        return Roles(boxes[0], rest[0], None, counts[0] if counts else None)
    if len(rest) != 2 or len(counts) > 1 or outputs[boxes[0]].shape[-1] != 4:
        return None
    named = [at for at in rest if _LABELS.search(outputs[at].name) and not _SCORES.search(outputs[at].name)]
    labels = whole if len(whole) == 1 else named
    if len(labels) != 1:
        return None
    scores = next(at for at in rest if at != labels[0])
    return Roles(boxes[0], labels[0], scores, counts[0] if counts else None)


def _is_list(shape: Sequence[int | None]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[0] in (1, None) and shape[1] not in (4, 5))


def _is_boxes(shape: Sequence[int | None]) -> bool:
    lead = shape[:-2]
    return len(shape) in (2, 3) and shape[-1] in (4, 5) and all(size in (1, None) for size in lead)


def _is_count(output: TensorSpec) -> bool:
    one = all(size == 1 for size in output.shape)
    return one and bool(_COUNT.search(output.name))
