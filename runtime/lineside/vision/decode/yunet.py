"""YuNet faces: per stride 8, 16 and 32 the outputs cls, obj [1, n, 1], bbox [1, n, 4] (and kps [1, n, 10], not used).

score = sqrt(cls * obj); box as YOLOX's (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, corners_of_centres, settle
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = "outputs named cls, obj and bbox for each of the strides 8, 16 and 32, such as cls_8 [1, n, 1]"
STRIDES = (8, 16, 32)


class YuNetDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        if len(labels) != 1:
            raise out.wrong_labels(labels, 1)
        where = {output.name.split(":")[0]: index for index, output in enumerate(outputs)}
        try:
            self._at = [(where[f"cls_{s}"], where[f"obj_{s}"], where[f"bbox_{s}"]) for s in STRIDES]
        except KeyError:
            raise out.misfit(outputs, EXPECTED) from None
        self._settings = settings
        self._grids: dict[tuple[int, int], list[NDArray[np.float32]]] = {}  # canvas -> cells a stride
        if input.width_px is not None and input.height_px is not None:
            for (_, _, at), cells in zip(self._at, self._cells(input.width_px, input.height_px), strict=True):
                if out.trimmed(outputs[at].shape)[0] not in (None, len(cells)):
                    raise out.misfit(outputs, f"{EXPECTED}, for an input of {input.width_px} x {input.height_px}")

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes, scores = [], []
        cells_of = self._cells(placement.canvas_width_px, placement.canvas_height_px)
        min_score = self._settings.min_score
        for (cls, obj, bbox), cells in zip(self._at, cells_of, strict=True):
            # neither factor is above 1, so both are at least min_score squared
            found = np.flatnonzero(outputs[cls].raw[0, :, 0] >= out.level(outputs[cls], min_score * min_score))
            if found.size == 0:
                continue
            product = outputs[cls].real((0, found, 0)).clip(0, 1) * outputs[obj].real((0, found, 0)).clip(0, 1)
            score = np.sqrt(product)
            keep = score >= min_score
            cell, box = cells[found[keep]], outputs[bbox].real((0, found[keep]))
            boxes.append(np.concatenate([box[:, :2] + cell[:, :2], np.exp(box[:, 2:])], axis=1) * cell[:, 2:])
            scores.append(score[keep])
        if not boxes:
            return NOTHING
        corners, score = corners_of_centres(np.concatenate(boxes)), np.concatenate(scores)
        class_ids = np.zeros(len(score), np.int32)
        return settle(corners, score, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)

    def _cells(self, width: int, height: int) -> list[NDArray[np.float32]]:
        if (width, height) not in self._grids:
            self._grids.clear()  # one size at a time: cameras do not change theirs
            self._grids[width, height] = [out.grid((width, height), (stride,)) for stride in STRIDES]
        return self._grids[width, height]
