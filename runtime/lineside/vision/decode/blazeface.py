"""BlazeFace as MediaPipe ships it: logits [1, N, 1] and boxes with six key points [1, N, 16] around fixed anchors.

cx cy w h are pixels of the input, the centre relative to the anchor's (Bazarevsky et al. 2019, arXiv:1907.05047).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, corners_of_centres, settle
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

# stride and anchors a cell: MediaPipe's short-range graph (input 128) and its full-range sparse one (input 192)
LAYOUTS = (((8, 2), (16, 6)), ((4, 1),))


class BlazeFaceDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        shapes = [out.trimmed(output.shape) for output in outputs]
        widths = {shape[1]: at for at, shape in enumerate(shapes) if len(shape) == 2}
        canvas = out.canvas_size(input)
        layouts = [_anchors(canvas, layout) for layout in LAYOUTS]
        expected = " or ".join(
            f"logits [1, {len(anchors)}, 1] and regressors [1, {len(anchors)}, 16]" for anchors in layouts
        )
        if len(outputs) != 2 or widths.keys() != {1, 16}:
            raise out.misfit(outputs, f"{expected}, for an input of {canvas[0]} x {canvas[1]}")
        if len(labels) != 1:
            raise out.wrong_labels(labels, 1)
        self._logits_at, self._boxes_at = widths[1], widths[16]
        fitting = [anchors for anchors in layouts if len(anchors) == shapes[self._logits_at][0]]
        if not fitting:
            raise out.misfit(outputs, f"{expected}, for an input of {canvas[0]} x {canvas[1]}")
        self._anchors = fitting[0]
        self._settings = settings
        low = min(max(settings.min_score, 1e-6), 1 - 1e-6)
        self._min_logit = math.log(low / (1 - low))

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        logits_of = outputs[self._logits_at]
        found = np.flatnonzero(logits_of.raw[0, :, 0] >= out.level(logits_of, self._min_logit))
        if found.size == 0:
            return NOTHING
        scores = (1 / (1 + np.exp(-logits_of.real((0, found, 0)).clip(-80, 80)))).astype(np.float32)
        boxes = outputs[self._boxes_at].real((0, found, slice(0, 4)))
        boxes = np.concatenate([boxes[:, :2] + self._anchors[found], boxes[:, 2:]], axis=1)
        class_ids = np.zeros(len(scores), np.int32)
        corners = corners_of_centres(boxes)
        return settle(corners, scores, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)


def _anchors(canvas: tuple[int, int], layout: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """(N, 2) anchor centres in pixels of the canvas: the middle of each cell, as often as the cell has anchors."""
    centres = []
    for stride, a_cell in layout:
        cells = out.grid(canvas, (stride,))
        centres.append(np.repeat((cells[:, :2] + np.float32(0.5)) * np.float32(stride), a_cell, axis=0))
    return np.concatenate(centres)
