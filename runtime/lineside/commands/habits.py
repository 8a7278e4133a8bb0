"""How a model's exporter scales pictures: what `lineside bundle new` assumes of [input] filter where nobody says it."""

from __future__ import annotations

import json
from typing import Literal

from lineside.commands.guess import Guess, task_of
from lineside.commands.model_facts import ModelFacts
from lineside.errors import ConfigError
from lineside.store.onnxfile import read_head

Filter = Literal["linear", "area", "antialias", "bicubic"]

_PILLOW: dict[int, Filter] = {2: "antialias", 3: "bicubic", 4: "area"}  # PIL.Image.BILINEAR, BICUBIC, BOX
_NEAREST: dict[int, tuple[Filter, str]] = {
    0: ("linear", "no filter"),
    1: ("bicubic", "Lanczos"),
    5: ("area", "Hamming"),
}
_OF_TENSORFLOW = ("tf2onnx", "keras2onnx", "keras", "tensorflow")
# families whose own code scales with torchvision or Pillow, always with antialias; others do it with OpenCV
_WITH_ANTIALIAS = {"anomaly": "Anomalib scales with torchvision's antialias"}


def guess_filter(facts: ModelFacts, decode: str) -> tuple[Filter, Guess]:
    """The filter, and what it was taken from."""
    chosen, why = _filter(facts, decode)
    return chosen, Guess(f"filter = {chosen}", why, "--filter")


def _filter(facts: ModelFacts, decode: str) -> tuple[Filter, str]:
    if told := _preprocessor(facts):
        return told
    if facts.metadata.get("author", "").lower().startswith("ultralytics"):
        if task_of(decode) == "classify":
            return "antialias", "Ultralytics classifiers scale with Pillow"
        return "linear", "Ultralytics scales with OpenCV"
    if decode in _WITH_ANTIALIAS:
        return "antialias", _WITH_ANTIALIAS[decode]
    if task_of(decode) != "classify":
        return "linear", f"{decode} models scale with OpenCV or TensorFlow, without antialias"
    producer = _producer(facts)
    if producer in _OF_TENSORFLOW or facts.format in ("tflite", "edgetpu") or facts.layout == "nhwc":
        return "linear", "TensorFlow scales without antialias"
    if producer == "pytorch":
        return "antialias", "PyTorch classifiers scale with Pillow or torchvision; many of timm with bicubic"
    return "antialias", "its layout, nchw, is PyTorch's, where classifiers scale with Pillow or torchvision"


def _preprocessor(facts: ModelFacts) -> tuple[Filter, str] | None:
    """Hugging Face's preprocessor_config.json beside the model: "resample" is Pillow's number of a filter."""
    path = facts.path.parent / "preprocessor_config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    number = told.get("resample") if isinstance(told, dict) else None
    if number in _PILLOW:
        return _PILLOW[number], f"{path.name} beside the model has resample {number}"
    if number in _NEAREST:
        chosen, name = _NEAREST[number]
        return chosen, f"{path.name} beside the model has resample {number}, {name}, to which this is the nearest"
    return None


def _producer(facts: ModelFacts) -> str:
    if facts.path.suffix.lower() != ".onnx":
        return ""
    try:
        return read_head(facts.path).producer.lower()
    except ConfigError:
        return ""
