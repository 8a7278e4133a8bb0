"""Decoders: one small file a model family. They turn a model's outputs into findings in pixels of the frame.

`open_decoder` is the way in; the names are in the registry.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np

from lineside.contracts import Decoder
from lineside.errors import ConfigError
from lineside.records import (
    AnomalyMap,
    Classification,
    DecodeSettings,
    Detections,
    Finding,
    InputSpec,
    Seen,
    TensorSpec,
)
from lineside.registry import driver, names

_log = logging.getLogger(__name__)


def open_decoder(
    name: str,
    outputs: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    input: InputSpec,
    settings: DecodeSettings,
) -> Decoder:
    """The decoder of this name for these outputs. Raises ConfigError that names the decoders which would fit."""
    make = driver("decoder", name)
    try:
        decoder: Decoder = make(outputs, labels, input, settings)
    except ConfigError as error:
        others = [other for other in fitting(outputs, labels, input) if other != name]
        advice = f"these outputs fit: --decode {' or '.join(others)}" if others else "no other decoder fits them"
        raise ConfigError(f"decode.name = {name!r}: {error}: {advice}") from error
    return decoder


def fitting(outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], input: InputSpec) -> list[str]:
    """The names of all decoders that these outputs fit."""
    fits = []
    for name in names("decoder"):
        try:
            driver("decoder", name)(outputs, labels, input, DecodeSettings())
        except ConfigError:
            continue
        fits.append(name)
    return fits


def findings(seen: Seen, labels: Sequence[str]) -> tuple[Finding, ...]:
    """What was seen, in words, best first: boxes, or every class of a classifier, or the one anomaly score."""
    match seen:
        case Detections():
            return tuple(
                Finding(_label(labels, class_id), class_id, score, (x1, y1, x2, y2))
                for class_id, score, (x1, y1, x2, y2) in zip(
                    seen.class_ids.tolist(), seen.scores.tolist(), seen.boxes.tolist(), strict=True
                )
            )
        case Classification():
            order = np.argsort(-seen.scores, kind="stable").tolist()
            return tuple(Finding(_label(labels, index), index, float(seen.scores[index])) for index in order)
        case AnomalyMap():
            return (Finding(_label(labels, 0), 0, seen.score),)


def _label(labels: Sequence[str], class_id: int) -> str:
    if 0 <= class_id < len(labels):
        return labels[class_id]
    _warn_once(class_id, len(labels))
    return f"class {class_id}"


@cache  # a line for each class, not for each frame
def _warn_once(class_id: int, labels: int) -> None:
    _log.warning(
        "the model found class %d, but its bundle has %d labels (0 to %d): no rule can name it: "
        "make the bundle again with all class names",
        class_id,
        labels,
        labels - 1,
    )
