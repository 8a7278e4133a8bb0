"""NanoDet: per stride 8, 16 and 32 class scores [1, n, C] and box sides as distributions over 8 bins [1, n, 32].

A side's distance is the mean of its softmax (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388, eq. 5), times
the stride, from the centre of the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, settle
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = "scores [1, n, classes] and distances [1, n, 4 x bins] for each of the strides 8, 16 and 32"
STRIDES = (8, 16, 32)


class NanoDetDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        size = out.canvas_size(input)
        self._cells = [out.grid(size, (stride,)) for stride in STRIDES]
        shapes = [out.trimmed(output.shape) for output in outputs]
        self._at: list[tuple[int, int]] = []  # (scores, distances) a stride; found by size, names differ
        for cells in self._cells:
            level = [at for at, shape in enumerate(shapes) if len(shape) == 2 and shape[0] == len(cells)]
            if len(outputs) != 6 or len(level) != 2:
                raise out.misfit(outputs, f"{EXPECTED}, for an input of {size[0]} x {size[1]}")
            level.sort(key=lambda at: ("dis" in outputs[at].name or "reg" in outputs[at].name, at))
            scores, sides = level
            if shapes[scores][1] != len(labels) and shapes[sides][1] == len(labels):
                scores, sides = sides, scores
            if (shapes[sides][1] or 0) % 4:
                raise out.misfit(outputs, EXPECTED)
            if shapes[scores][1] != len(labels):
                raise out.wrong_labels(labels, shapes[scores][1] or "an unknown number of")
            self._at.append((scores, sides))
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes, scores, class_ids = [], [], []
        for (scores_at, sides_at), cells in zip(self._at, self._cells, strict=True):
            scores_of = outputs[scores_at]
            found = out.surviving_rows(scores_of.raw[0], out.level(scores_of, self._settings.min_score))
            if found.size == 0:
                continue
            score, class_id = out.best_class(scores_of.real((0, found)))
            scores.append(score)
            class_ids.append(class_id)
            boxes.append(_corners(outputs[sides_at].real((0, found)), cells[found]))
        if not boxes:
            return NOTHING
        return settle(
            np.concatenate(boxes),
            np.concatenate(scores),
            np.concatenate(class_ids),
            placement,
            self._settings.nms_iou,
            self._settings.max_findings,
        )


def _corners(sides: NDArray[np.float32], cells: NDArray[np.float32]) -> NDArray[np.float32]:
    bins = sides.reshape(len(sides), 4, -1)  # left, top, right, bottom
    powers = np.exp(bins - bins.max(axis=2, keepdims=True))
    mean = powers @ np.arange(bins.shape[2], dtype=np.float32) / powers.sum(axis=2)
    stride = cells[:, 2:]
    centre, distance = (cells[:, :2] + np.float32(0.5)) * stride, mean * stride
    return np.concatenate([centre - distance[:, :2], centre + distance[:, 2:]], axis=1)
