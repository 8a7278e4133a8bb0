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
    Placement,
    Seen,
    Tensor,
    TensorSpec,
)
from lineside.registry import driver, names
from lineside.vision.decode import outputs as out

_PLAIN = DecodeSettings()

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
        at = out.chosen(outputs, settings)
        chosen = tuple(outputs[number] for number in at)
        decoder: Decoder = make(chosen, labels, input, settings)
    except ConfigError as error:
        others = [other for other in fitting(outputs, labels, input, settings) if other != name]
        advice = f"these outputs fit: --decode {' or '.join(others)}" if others else "no other decoder fits them"
        raise ConfigError(f"decode.name = {name!r}: {error}: {advice}") from error
    return _Reading(decoder, name, at if len(at) < len(outputs) else None)


class _Reading:
    """A decoder on the outputs that it reads; outputs of other sizes than the file promised are a ConfigError."""

    def __init__(self, decoder: Decoder, name: str, at: tuple[int, ...] | None) -> None:
        self._decode, self._name, self._at = decoder.decode, name, at

    def decode(self, outputs: Sequence[Tensor], placement: Placement) -> Seen:
        if self._at is not None:
            outputs = [outputs[number] for number in self._at]
        try:
            return self._decode(outputs, placement)
        except (IndexError, ValueError) as error:
            came = ", ".join(f"{each.name} {list(each.raw.shape)}" for each in outputs)
            raise ConfigError(
                f"decode.name = {self._name!r}: the model gave {came}, which this decoder cannot read ({error}): "
                "export it with a batch of one and outputs of fixed size, or give another --decode"
            ) from error


def fitting(
    outputs: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    input: InputSpec,
    settings: DecodeSettings = _PLAIN,
    among: Sequence[str] = (),
) -> list[str]:
    """The names of all decoders that these outputs fit, or of those `among` them."""
    fits = []
    try:
        outputs = tuple(outputs[at] for at in out.chosen(outputs, settings))
    except ConfigError:
        return []
    for name in among or names("decoder"):
        try:
            driver("decoder", name)(outputs, labels, input, settings)
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
