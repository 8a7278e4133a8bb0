"""Runs a model once on a grey picture, to see before it is packed that its outputs fit the decoder."""

from __future__ import annotations

import numpy as np

from lineside.commands.looking import unfit
from lineside.commands.model_facts import RUNTIMES, ModelFacts
from lineside.contracts import Backend
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Tensor
from lineside.registry import VENDORS, driver
from lineside.vision.decode import open_decoder
from lineside.vision.decode.classify import are_probabilities
from lineside.vision.decode.outputs import is_quantised
from lineside.vision.prepare import Prepare

_PICTURE = (480, 640, 3)
_IMPORT_NAMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}


def try_model(
    facts: ModelFacts, decode: str, labels: tuple[str, ...], input: InputSpec, settings: DecodeSettings
) -> tuple[Tensor, ...] | None:
    """The outputs for a grey picture, decoded without a fault; None for a model that only an Edge TPU runs.

    Raises ConfigError when the outputs don't fit, or no runtime for this format is installed.
    """
    if facts.format == "edgetpu":
        open_decoder(decode, facts.outputs, labels, input, settings)
        return None
    backend = _open(facts, input)
    try:
        decoder = open_decoder(decode, backend.outputs, labels, input, settings)
        canvas, placement, _ = Prepare(input).put(np.full(_PICTURE, 127, np.uint8))
        outputs = backend.infer(canvas)
        try:
            decoder.decode(outputs, placement)
        except (IndexError, ValueError, TypeError) as error:  # the outputs have other shapes than the file says
            raise unfit(facts.path, decode, outputs, error) from error
        return tuple(Tensor(each.name, each.raw.copy(), each.scale, each.zero_point) for each in outputs)
    finally:
        backend.close()


def kind_of_values(decode: str, outputs: tuple[Tensor, ...]) -> dict[str, str]:
    """What the values tell of settings that shapes and quantisation leave open."""
    if is_quantised(outputs[0]):
        return {}
    if decode == "classify":
        return {"scores": "probability" if are_probabilities(outputs[0].real().reshape(-1)) else "logit"}
    if decode not in ("yolov5", "yolov8", "yolo_e2e"):
        return {}
    # candidates cover the whole canvas, so among all of them, found or not, the far corner tells pixels from 0 to 1
    boxes = (slice(None), slice(None), slice(0, 4)) if decode == "yolo_e2e" else ...
    biggest = max(float(output.real(boxes).max()) for output in outputs)
    return {"boxes": "pixels" if biggest > 4.0 else "unit"}


def _open(facts: ModelFacts, input: InputSpec) -> Backend:
    missing = []
    for name in RUNTIMES[facts.format]:
        make = driver("backend", name)
        try:
            backend: Backend = make(facts.artefact, input.of(facts.artefact))
        except ConfigError as error:
            if "cannot be imported" not in str(error):
                raise
            missing.append(VENDORS[_IMPORT_NAMES[name]])
            continue
        return backend
    raise ConfigError(f"{facts.path}: no runtime for this format is installed: {' or '.join(missing)}")
