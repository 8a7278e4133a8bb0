"""Classifiers: one output with one number a class: probabilities, logits, or sigmoids each for itself.

One number alone is the sigmoid of one class: with one label its score, with two labels 1 - p and p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lineside.errors import ConfigError
from lineside.records import Classification, DecodeSettings, InputSpec, Placement, Tensor, TensorSpec
from lineside.vision.decode import outputs as out

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXPECTED = "one output [1, classes]"


class ClassifyDecoder:
    def __init__(
        self, outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
    ) -> None:
        shape = out.trimmed(outputs[0].shape) if len(outputs) == 1 else ()
        sizes = [size for size in shape if size != 1]
        if len(outputs) != 1 or None in sizes or len(sizes) > 1:
            raise out.misfit(outputs, EXPECTED)
        classes = math.prod(size for size in sizes if size is not None)
        self._classes, self._pair = classes, classes == 1 and len(labels) == 2
        if classes != len(labels) and not self._pair:
            hint = ""
            if classes == len(labels) - 1:
                hint = '; drop the "background" line if the labels begin with one'
            elif classes == len(labels) + 1:
                hint = '; class 0 is probably the background: put a line "background" first'
            raise ConfigError(f"{out.misfit(outputs, EXPECTED)}; {out.wrong_labels(labels, classes)}{hint}")
        self._sigmoid = settings.scores == "sigmoid" or (settings.scores == "logit" and classes == 1)
        self._softmax = softmax_is_due(settings.scores, outputs[0])

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Classification:
        values = outputs[0].real().reshape(-1)
        if values.size != self._classes:
            raise ValueError(f"{values.size} scores, expected {self._classes}")
        if self._classes == 1:
            return self._one(values)
        if self._sigmoid:
            return Classification(out.sigmoid(values))
        due = not are_probabilities(values) if self._softmax is None else self._softmax
        return Classification(softmax(values) if due else values.copy())

    def _one(self, values: NDArray[np.float32]) -> Classification:
        due = self._sigmoid or (self._softmax is None and not 0 <= float(values[0]) <= 1)
        score = out.sigmoid(values) if due else values.copy()
        return Classification(np.concatenate([1 - score, score]) if self._pair else score)


def softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(values - values.max())
    return np.asarray(powers / powers.sum(), np.float32)


def are_probabilities(values: NDArray[np.float32]) -> bool:
    """Whether a softmax has been done: nothing below 0 and a sum of 1; logits do not come to that by chance."""
    return bool(values.min() >= 0.0 and abs(float(values.sum()) - 1.0) < 0.01)


def softmax_is_due(setting: str, output: TensorSpec) -> bool | None:
    """None where only the values will tell. A quantised probability covers 0 to 1 (256 steps) and nothing below."""
    if setting != "auto":
        return setting in ("logit", "softmax")
    if not out.is_quantised(output):
        return None
    lowest = (float(np.iinfo(np.dtype(output.dtype)).min) - output.zero_point) * output.scale
    return not (lowest == 0.0 and out.largest(output) <= 1.01)
