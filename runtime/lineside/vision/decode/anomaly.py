"""Anomaly models as Anomalib exports them: a score of the whole picture, a heat map, or both.

Anomalib 2: outputs pred_score [1] or [1, 1], anomaly_map [1, 1, h, w], pred_label and pred_mask (not used: the
threshold is the bundle's). Anomalib 1: one map [1, 1, h, w] named output; its score is the map's maximum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.records import AnomalyMap, DecodeSettings, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = "pred_score [1] or [1, 1], anomaly_map [1, 1, h, w], or both"


class AnomalyDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        numbers = [at for at, output in enumerate(outputs) if output.dtype not in ("bool", "int64", "int32")]
        scores = [at for at in numbers if _is_score(outputs[at])]
        maps = [at for at in numbers if _is_map(outputs[at])]
        # where names tell, they decide: a mask of floats looks like a map, a float label like a score
        scores = [at for at in scores if "score" in outputs[at].name] or scores
        maps = [at for at in maps if "map" in outputs[at].name] or maps
        if len(scores) > 1 or len(maps) > 1 or not scores + maps:
            raise out.misfit(outputs, EXPECTED)
        self._score_at = scores[0] if scores else None
        self._map_at = maps[0] if maps else None

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> AnomalyMap:
        heat: NDArray[np.float32] | None = None
        if self._map_at is not None:
            real = outputs[self._map_at].real()
            heat = real.reshape(real.shape[-2:]).copy()  # the tensor's memory is reused by the next frame
        if self._score_at is not None:
            return AnomalyMap(float(outputs[self._score_at].real().reshape(-1)[0]), heat)
        assert heat is not None
        return AnomalyMap(float(heat.max()), heat)


def _is_score(output: TensorSpec) -> bool:
    known = [size for size in output.shape if size is not None]
    return len(output.shape) <= 2 and math.prod(known) == 1


def _is_map(output: TensorSpec) -> bool:
    *lead, height, width = (1, 1, *output.shape)
    one_channel = len(output.shape) == 4 or (len(output.shape) == 3 and "map" in output.name)
    if width == 7 and height != 7 and not ("map" in output.name or "mask" in output.name):
        return False  # rows of image, class, score and box
    return (
        one_channel
        and all(size in (1, None) for size in lead)
        and all(size is None or size > 4 for size in (height, width))
    )
