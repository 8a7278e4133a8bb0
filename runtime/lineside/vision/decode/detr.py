"""DETR and its kin (RT-DETR, RF-DETR, D-FINE): boxes [1, N, 4] as cx cy w h of 0 to 1, and logits [1, N, C] a query.

A score is a sigmoid, each class for itself: one query may give two findings, and nothing is suppressed, as in the
projects' own post-processing. DETR's own is a softmax with "no object" last (Carion et al. 2020, arXiv:2005.12872):
that is scores = "softmax". With one column more than there are labels first_class says which is none: 1, the first one;
0, the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, to_frame
from lineside.vision.decode import outputs as out

EXPECTED = "boxes [1, N, 4] and logits [1, N, classes]"
MAX_QUERIES = 2000


class DetrDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        heads, _ = out.without_masks(outputs, 0)
        shapes = [out.batched(output) for output in outputs]
        if len(heads) != 2 or any(len(shapes[at]) != 2 or (shapes[at][0] or 0) > MAX_QUERIES for at in heads):
            raise out.misfit(outputs, EXPECTED)
        boxes = [at for at in heads if shapes[at][1] == 4]
        if len(boxes) == 2:  # four columns of classes, too
            boxes = [at for at in boxes if "box" in outputs[at].name or "dets" in outputs[at].name]
        if len(boxes) != 1 or len({shapes[at][0] for at in heads} - {None}) > 1:
            raise out.misfit(outputs, EXPECTED)
        self._boxes_at = boxes[0]
        self._scores_at = next(at for at in heads if at != boxes[0])
        columns = shapes[self._scores_at][1]
        self._softmax = settings.scores == "softmax"
        self._probability = settings.scores == "probability"
        first = settings.first_class
        if columns == len(labels) + 1 and (self._softmax or first is not None):
            self._columns = slice(1, None) if first == 1 else slice(0, -1)
        elif columns == len(labels):
            self._columns = slice(None)
        else:
            hint = ""
            if columns == len(labels) + 1:
                hint = (
                    "; one column more may be one of no class: --first-class 1 if it is the first, --first-class 0 "
                    "if it "
                    "is the last"
                )
            raise ConfigError(f"{out.misfit(outputs, EXPECTED)}; {out.wrong_labels(labels, columns or '?')}{hint}")
        self._unit = settings.boxes != "pixels"
        self._format = "cxcywh" if settings.box_format == "auto" else settings.box_format
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        scores = self._scores(outputs[self._scores_at])
        queries, class_ids = np.nonzero(scores >= self._settings.min_score)
        if queries.size == 0:
            return NOTHING
        best = scores[queries, class_ids]
        order = np.argsort(-best, kind="stable")[: self._settings.max_findings]
        boxes = outputs[self._boxes_at].real((0, queries[order], slice(0, 4)))
        boxes = out.in_pixels(boxes, self._unit, placement.canvas_width_px, placement.canvas_height_px)
        corners = out.corners(boxes, self._format)
        return Detections(to_frame(corners, placement), best[order], class_ids[order].astype(np.int32))

    def _scores(self, output: Tensor) -> out.Raw:
        values = output.real(0)
        if self._probability:
            return values[:, self._columns]
        if self._softmax:
            powers = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)[:, self._columns]
        return out.sigmoid(values[:, self._columns])
