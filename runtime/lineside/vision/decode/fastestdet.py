"""FastestDet: one output [1, 5 + C, rows, columns]: objectness, x y w h, class probabilities, one box a cell.

score = objectness^0.6 * class^0.4; centre by tanh from the cell, size by sigmoid of the picture
(github.com/dog-qiuqiu/FastestDet, its README and post-processing).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lineside.errors import ConfigError
from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, settle
from lineside.vision.decode import outputs as out

EXPECTED = "one output [1, 5 + classes, rows, columns]"


class FastestDetDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        shape = out.trimmed(outputs[0].shape) if len(outputs) == 1 else ()
        if len(shape) != 3 or shape[0] is None or shape[0] < 6 or 1 in shape:
            raise out.misfit(outputs, EXPECTED)
        if shape[0] != 5 + len(labels):
            raise ConfigError(f"{out.misfit(outputs, EXPECTED)}; {out.wrong_labels(labels, shape[0] - 5)}")
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        channels, rows, columns = outputs[0].raw.shape[-3:]
        cells = outputs[0].real().reshape(channels, rows * columns)
        score = cells[0].clip(0, 1) ** 0.6 * cells[5:].max(axis=0).clip(0, 1) ** 0.4
        found = np.flatnonzero(score >= self._settings.min_score)
        if found.size == 0:
            return NOTHING
        dx, dy, w, h = cells[1:5, found]
        row, column = np.divmod(found, columns)
        centre_x = (column + np.tanh(dx)) * (placement.canvas_width_px / columns)
        centre_y = (row + np.tanh(dy)) * (placement.canvas_height_px / rows)
        half_w, half_h = (
            placement.canvas_width_px / 2 / (1 + np.exp(-w)),
            placement.canvas_height_px / 2 / (1 + np.exp(-h)),
        )
        corners = np.stack(
            [centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h], axis=1, dtype=np.float32
        )
        class_ids = cells[5:, found].argmax(axis=0).astype(np.int32)
        best = score[found].astype(np.float32)
        return settle(corners, best, class_ids, placement, self._settings.nms_iou, self._settings.max_findings)
