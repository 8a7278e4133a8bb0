"""SSD with TFLite's own post-processing (operator TFLite_Detection_PostProcess): suppression is done in the model.

Four outputs: boxes [1, K, 4] as y1 x1 y2 x2 of 0 to 1, classes [1, K], scores [1, K], count [1]. Converters order and
name them differently, so each is known by its shape; classes and scores, which look alike, by what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, nms, to_frame
from lineside.vision.decode import outputs as out

EXPECTED = "the four of TFLite_Detection_PostProcess: boxes [1, K, 4], classes [1, K], scores [1, K], count [1]"
ORDER = {"TFLite_Detection_PostProcess:1": "classes", "TFLite_Detection_PostProcess:2": "scores"}  # TF1's exporter


class SsdDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        if len(outputs) != 4:
            raise out.misfit(outputs, EXPECTED)
        boxes = [at for at, output in enumerate(outputs) if output.shape[-1:] == (4,) and len(output.shape) == 3]
        counts = [at for at, output in enumerate(outputs) if output.shape in ((1,), ())]
        rest = [at for at in range(4) if at not in boxes + counts]
        if len(boxes) != 1 or len(counts) != 1 or any(len(outputs[at].shape) != 2 for at in rest):
            raise out.misfit(outputs, EXPECTED)
        self._boxes_at, self._count_at = boxes[0], counts[0]
        self._pair = (rest[0], rest[1])
        named = {ORDER.get(outputs[at].name): at for at in rest}
        self._named = (named["classes"], named["scores"]) if {"classes", "scores"} <= named.keys() else None
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        boxes = outputs[self._boxes_at].real(0)
        count = min(len(boxes), int(outputs[self._count_at].real().reshape(-1)[0]))
        first, second = (outputs[at].real(0)[:count] for at in self._named or self._pair)
        classes, scores = (first, second) if self._named else _classes_and_scores(first, second)
        found = np.flatnonzero(scores >= self._settings.min_score)
        if found.size == 0:
            return NOTHING
        size = np.array([placement.canvas_width_px, placement.canvas_height_px] * 2, np.float32)
        corners = np.ascontiguousarray(boxes[:count][found][:, [1, 0, 3, 2]]) * size
        class_ids = np.rint(classes[found]).astype(np.int32)
        # the model's own suppression stays as it is (an IoU of 1 removes nothing): only order and limit
        kept = nms(corners, scores[found], class_ids, 1.0, self._settings.max_findings)
        return Detections(to_frame(corners[kept], placement), scores[found][kept], class_ids[kept])


def _classes_and_scores(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Classes are whole numbers, scores are not and fall from best to worst."""
    return (first, second) if _whole(first) and not _whole(second) else (second, first)


def _whole(values: NDArray[np.float32]) -> bool:
    return bool(np.all(values == np.rint(values)))
