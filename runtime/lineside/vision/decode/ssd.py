"""SSD with TFLite's own post-processing (operator TFLite_Detection_PostProcess): suppression is done in the model.

Four outputs: boxes [1, K, 4] as y1 x1 y2 x2, classes [1, K], scores [1, K], count [1]. Boxes are 0 to 1 of the canvas,
or its pixels (TensorFlow Model Garden's default). Converters order and name the outputs differently, so each is known
by its shape; classes and scores, which look alike, by what they hold. TensorFlow 2's converter writes no shapes: then
they are known when the model has run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lineside.records import DecodeSettings, Detections, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.boxes import NOTHING, nms, to_frame
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = "the four of TFLite_Detection_PostProcess: boxes [1, K, 4], classes [1, K], scores [1, K], count [1]"
ORDER = {"TFLite_Detection_PostProcess:1": "classes", "TFLite_Detection_PostProcess:2": "scores"}  # TF1's exporter


class SsdDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        roles = _roles([output.shape for output in outputs])
        if len(outputs) != 4 or (roles is None and any(output.shape for output in outputs)):
            raise out.misfit(outputs, EXPECTED)
        self._outputs, self._roles = outputs, roles
        named = {ORDER.get(output.name): at for at, output in enumerate(outputs)}
        self._named = (named["classes"], named["scores"]) if {"classes", "scores"} <= named.keys() else None
        self._unit = None if settings.boxes == "auto" else settings.boxes == "unit"
        self._settings = settings

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Detections:
        roles = self._roles or _roles([output.raw.shape for output in outputs])
        if roles is None:
            raise out.misfit(self._outputs, EXPECTED)
        boxes = outputs[roles.boxes].real(0)
        count = min(len(boxes), int(outputs[roles.number].real().reshape(-1)[0]))
        first, second = (outputs[at].real(0)[:count] for at in self._named or roles.pair)
        classes, scores = (first, second) if self._named else _classes_and_scores(first, second)
        found = np.flatnonzero(scores >= self._settings.min_score)
        if found.size == 0:
            return NOTHING
        corners = np.ascontiguousarray(boxes[:count][found][:, [1, 0, 3, 2]])
        corners = out.in_pixels(corners, self._unit, placement.canvas_width_px, placement.canvas_height_px)
        class_ids = np.rint(classes[found]).astype(np.int32)
        # the model's own suppression stays as it is (an IoU of 1 removes nothing): only order and limit
        kept = nms(corners, scores[found], class_ids, 1.0, self._settings.max_findings)
        return Detections(to_frame(corners[kept], placement), scores[found][kept], class_ids[kept])


class _Roles(NamedTuple):
    """Which output is which; `pair` are classes and scores, in the model's order."""

    boxes: int
    number: int  # of findings
    pair: tuple[int, int]


def _roles(shapes: Sequence[tuple[int | None, ...]]) -> _Roles | None:
    """By their shapes, or None if these are not the operator's."""
    boxes = [at for at, shape in enumerate(shapes) if len(shape) == 3 and shape[-1] == 4]
    counts = [at for at, shape in enumerate(shapes) if shape in ((1,), ())]
    rest = [at for at, shape in enumerate(shapes) if len(shape) == 2]
    if (len(boxes), len(counts), len(rest)) != (1, 1, 2):
        return None
    return _Roles(boxes[0], counts[0], (rest[0], rest[1]))


def _classes_and_scores(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Classes are whole numbers, scores are not and fall from best to worst."""
    return (first, second) if _whole(first) and not _whole(second) else (second, first)


def _whole(values: NDArray[np.float32]) -> bool:
    return bool(np.all(values == np.rint(values)))
