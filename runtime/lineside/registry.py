"""Names of drivers: kind -> name -> "module:Class", imported on first use; and vendor packages with their remedy.

A package outside lineside adds a driver with an entry point in the group `lineside.<kind>`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from lineside.errors import ConfigError

DRIVERS: dict[str, dict[str, str]] = {
    "camera": {
        "clip": "lineside.cameras.clip:ClipCamera",
        "v4l2": "lineside.cameras.v4l2:V4l2Camera",
        "rtsp": "lineside.cameras.rtsp:RtspCamera",
        "synthetic": "lineside.cameras.synthetic:SyntheticCamera",
    },
    "backend": {
        "onnxruntime": "lineside.hal.ort:OrtBackend",
        "openvino": "lineside.hal.openvino:OpenVinoBackend",
        "litert": "lineside.hal.litert:LiteRtBackend",
        "fake": "lineside.hal.fake:FakeBackend",
    },
    "decoder": {
        "classify": "lineside.vision.decode.classify:ClassifyDecoder",
        "yolov5": "lineside.vision.decode.yolov5:YoloV5Decoder",
        "yolov8": "lineside.vision.decode.yolov8:YoloV8Decoder",
        "yolo_e2e": "lineside.vision.decode.yolo_e2e:YoloE2eDecoder",
        "yolox": "lineside.vision.decode.yolox:YoloxDecoder",
        "ssd": "lineside.vision.decode.ssd:SsdDecoder",
        "nanodet": "lineside.vision.decode.nanodet:NanoDetDecoder",
        "fastestdet": "lineside.vision.decode.fastestdet:FastestDetDecoder",
        "yunet": "lineside.vision.decode.yunet:YuNetDecoder",
        "ultraface": "lineside.vision.decode.ultraface:UltraFaceDecoder",
        "blazeface": "lineside.vision.decode.blazeface:BlazeFaceDecoder",
        "anomaly": "lineside.vision.decode.anomaly:AnomalyDecoder",
        "detr": "lineside.vision.decode.detr:DetrDecoder",
        "labelled_boxes": "lineside.vision.decode.labelled_boxes:LabelledBoxesDecoder",
        "detection_output": "lineside.vision.decode.rows:DetectionOutputDecoder",
        "yolov7_e2e": "lineside.vision.decode.rows:YoloV7E2eDecoder",
        "nas_flat": "lineside.vision.decode.rows:NasFlatDecoder",
        "efficientdet": "lineside.vision.decode.efficientdet:EfficientDetDecoder",
        "fomo": "lineside.vision.decode.fomo:FomoDecoder",
    },
    "trigger": {"free": "lineside.triggers.free:FreeTrigger"},
    "rule": {
        "threshold": "lineside.decide.rules:ThresholdRule",
        "defect": "lineside.decide.rules:DefectRule",
        "count": "lineside.decide.rules:CountRule",
        "zone": "lineside.decide.zones:ZoneRule",
    },
    "sink": {
        "mqtt": "lineside.deliver.mqtt:MqttSink",
        "sparkplug": "lineside.deliver.sparkplug.sink:SparkplugSink",
    },
}

# import name -> the line that installs it
VENDORS: dict[str, str] = {
    "onnxruntime": "pip install 'lineside[onnxruntime]'  (on a Jetson or a PC with CUDA: 'lineside[onnxruntime-gpu]')",
    "openvino": "pip install 'lineside[openvino]'",
    "ai_edge_litert": "pip install 'lineside[litert]'",
    "tflite_runtime": "pip install 'lineside[coral-legacy]'",
    "onnx": "pip install 'lineside[quantize]'",
    "nncf": "pip install 'lineside[quantize]'",
    "ai_edge_quantizer": "pip install 'lineside[quantize]'",
    "torch": "pip install 'lineside[quantize-torch]'",
    "timm": "pip install 'lineside[quantize-torch]'",
    "litert_torch": "pip install 'lineside[quantize-torch]'",
    "iotcore": "pip install 'lineside[demo]'",
    "google": "pip install 'lineside[sparkplug]'",  # google.protobuf
}


def names(kind: str) -> list[str]:
    """Every driver name of a kind, built-in ones first."""
    return [*DRIVERS[kind], *(name for name in _entry_points(kind) if name not in DRIVERS[kind])]


def driver(kind: str, name: str) -> Any:
    """The class of a driver. Raises ConfigError for a name that nobody registered."""
    target = DRIVERS[kind].get(name) or _entry_points(kind).get(name)
    if target is None:
        raise ConfigError(f"{kind} {name!r}: unknown; known are {', '.join(names(kind))}")
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def vendor(module: str) -> ModuleType:
    """Import a vendor package. Raises ConfigError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        remedy = VENDORS.get(top, f"pip install {top}")
        raise ConfigError(f"Python package {top!r} cannot be imported ({error}): {remedy}") from error


def _entry_points(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # here: it costs milliseconds that built-in drivers need not pay

    return {point.name: point.value for point in entry_points(group=f"lineside.{kind}")}
