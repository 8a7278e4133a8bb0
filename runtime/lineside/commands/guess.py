"""What `lineside bundle new` assumes where the user says nothing: first the model file's own word, then its family.

Every assumption is a Guess that names the option which overrides it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from lineside.commands.model_facts import ModelFacts
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Task, TensorSpec

Resize = Literal["letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"]
Floats = tuple[float, ...]
Color = Literal["rgb", "bgr", "gray"]


class Guess(NamedTuple):
    """One assumption: what, why, and the option to say otherwise."""

    what: str
    why: str
    option: str


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one family are trained and exported by their own project."""

    color: Literal["rgb", "bgr"]
    mean: Floats
    std: Floats
    resize: Resize
    pad_value: int
    settings: DecodeSettings


_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's mean and std, times 255
_UNIT = ((0.0,) * 3, (255.0,) * 3)  # 0 to 1
_RAW = ((0.0,) * 3, (1.0,) * 3)  # 0 to 255
_SIGNED = ((127.5,) * 3, (127.5,) * 3)  # -1 to 1
_YOLO = Family("rgb", *_UNIT, "letterbox", 114, DecodeSettings())

FAMILIES: dict[str, Family] = {
    "classify": Family("rgb", *_IMAGENET, "center_crop", 114, DecodeSettings()),
    "yolov5": _YOLO,
    "yolov8": _YOLO,
    "yolo_e2e": _YOLO,
    "yolox": Family("bgr", *_RAW, "letterbox_top_left", 114, DecodeSettings()),
    "ssd": Family("rgb", *_SIGNED, "stretch", 114, DecodeSettings(min_score=0.4)),
    "nanodet": Family(
        "bgr",
        (103.53, 116.28, 123.675),
        (57.375, 57.12, 58.395),
        "stretch",
        114,
        DecodeSettings(min_score=0.35, nms_iou=0.6),
    ),
    "fastestdet": Family("bgr", *_UNIT, "stretch", 114, DecodeSettings(min_score=0.5)),
    "yunet": Family(
        "bgr", *_RAW, "letterbox_top_left", 0, DecodeSettings(min_score=0.5, nms_iou=0.4, max_findings=300)
    ),
    "ultraface": Family(
        "rgb",
        (127.0,) * 3,
        (128.0,) * 3,
        "letterbox_top_left",
        0,
        DecodeSettings(min_score=0.5, nms_iou=0.4, max_findings=300),
    ),
    "blazeface": Family(
        "rgb", *_SIGNED, "letterbox_top_left", 0, DecodeSettings(min_score=0.5, nms_iou=0.2, max_findings=300)
    ),
    "anomaly": Family("rgb", *_UNIT, "stretch", 114, DecodeSettings()),
    "detr": Family("rgb", *_UNIT, "stretch", 114, DecodeSettings(min_score=0.5)),
    "labelled_boxes": Family("rgb", *_UNIT, "stretch", 114, DecodeSettings(min_score=0.5)),
    "detection_output": Family("rgb", *_UNIT, "stretch", 114, DecodeSettings(min_score=0.5)),
    "yolov7_e2e": _YOLO,
    "nas_flat": _YOLO,
    "efficientdet": Family("rgb", *_IMAGENET, "letterbox_top_left", 114, DecodeSettings(min_score=0.4, nms_iou=0.5)),
    "fomo": Family("rgb", *_UNIT, "center_crop", 114, DecodeSettings(min_score=0.5)),
}
# families whose decoder is another's: "rf-detr" is read as detr, with its own preparation
KIN: dict[str, Family] = {
    "rf-detr": Family("rgb", *_IMAGENET, "stretch", 114, DecodeSettings(min_score=0.5)),
    "yolo-nas": replace(_YOLO, settings=DecodeSettings(nms_iou=0.7)),
    "keras": Family("rgb", *_SIGNED, "center_crop", 114, DecodeSettings()),
}
_KERAS_INPUT = re.compile(r"(serving_default_)?(input(_\d+)?|keras_tensor(_\d+)?)(:0)?")
_ONE_CLASS = {"yunet": "face", "ultraface": "face", "blazeface": "face", "anomaly": "anomaly"}
_IMAGENET_WITH_BACKGROUND = 1001
_ANY_SIZE = {"yunet"}  # fully convolutional, and their decoder takes any grid
_BYTES = ("uint8", "int8")


def task_of(decode: str) -> Task:
    return "classify" if decode == "classify" else "anomaly" if decode == "anomaly" else "detect"


def kin_of(facts: ModelFacts, decode: str) -> tuple[Family, str]:
    """The family whose preparation this model most likely has, and its name."""
    outputs = {output.name for output in facts.outputs}
    name = decode
    if decode == "detr" and {"dets", "labels"} <= outputs:
        name = "rf-detr"
    elif decode == "yolov8" and {"pred_bboxes", "pred_scores"} <= outputs:
        name = "yolo-nas"
    elif decode == "classify" and facts.format == "tflite" and _KERAS_INPUT.fullmatch(facts.input.name):
        name = "keras"
    return KIN.get(name) or FAMILIES[decode], name


def guess_labels(facts: ModelFacts, decode: str) -> tuple[tuple[str, ...], Guess]:
    """Labels when no --labels file was given. Raises ConfigError when nothing tells them."""
    note = facts.notes.get("labels")
    one = _ONE_CLASS.get(decode)
    if note and (one is None or len(note.value) == 1):
        return facts.labels, Guess(f"{len(note.value)} labels, {note.value[0]!r} first", note.source, "--labels")
    if one is not None:
        return (one,), Guess(f"labels = {one!r}", f"{decode} models know one", "--labels")
    raise ConfigError(f"{facts.path}: holds no class names: give --labels FILE, one label a line in class order")


def fit_labels(labels: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> tuple[tuple[str, ...], Guess | None]:
    """ImageNet lists come with and without a background class: make the list fit a classifier's one output."""
    sizes = [size for size in outputs[0].shape if size not in (1, None)] if len(outputs) == 1 else []
    classes = sizes[0] if len(sizes) == 1 else None
    starts_with_background = labels[0].lower() == "background"
    if classes == len(labels) - 1 and starts_with_background:
        return labels[1:], Guess('dropped the label "background"', f"the model has {classes} classes", "--labels")
    if classes == len(labels) + 1 == _IMAGENET_WITH_BACKGROUND and not starts_with_background:
        added = Guess('added the label "background" as class 0', f"the model has {classes} classes", "--labels")
        return ("background", *labels), added
    return labels, None


def guess_size(facts: ModelFacts, decode: str) -> tuple[tuple[int, int] | None, Guess | None]:
    """Width and height where the model leaves them free; None: any size. Raises ConfigError when nothing tells."""
    if facts.size_px is not None:
        return facts.size_px, None
    if note := facts.notes.get("size"):
        width, height = note.value
        return (width, height), Guess(f"size = {width}x{height}", note.source, "--size")
    if decode in _ANY_SIZE:
        return None, Guess("any size, padded to a multiple of 32", "the model takes any", "--size")
    raise ConfigError(f"{facts.path}: takes pictures of any size: give --size WIDTHxHEIGHT, as it was trained")


def guess_input(facts: ModelFacts, decode: str, size: tuple[int, int] | None) -> tuple[InputSpec, list[Guess]]:
    """Colour, normalisation and resize: the notes, what the graph does itself, then the family."""
    family, name = kin_of(facts, decode)
    so = f"{name} models are trained so"
    channels = facts.input.shape[-1] if facts.layout == "nhwc" else facts.input.shape[1]
    (mean, std), why = _normalisation(facts, decode)
    color, why_color = _color(facts, family.color, so)
    resize, why_resize = _noted(facts, "resize", family.resize, so)
    pad_value, _ = _noted(facts, "pad_value", family.pad_value, so)
    crop_fraction, _ = _noted(facts, "crop_fraction", 1.0, so)
    spec = InputSpec(
        width_px=size[0] if size else None,
        height_px=size[1] if size else None,
        color=color,
        layout=facts.layout,
        mean=mean,
        std=std,
        resize=resize if size else "pad",
        pad_value=pad_value,
        crop_fraction=crop_fraction,
    )
    guesses: list[Guess] = []
    if channels == 1:
        spec = replace(spec, color="gray", mean=mean[:1], std=std[:1])
        guesses.append(Guess("color = gray", "the input has one channel", "--color"))
    else:
        guesses.append(Guess(f"color = {spec.color}", why_color, "--color"))
    words = f"mean = {_short(spec.mean)}, std = {_short(spec.std)}"
    guesses.append(Guess(words, why, "--mean, --std"))
    if size:
        guesses.append(Guess(f"resize = {spec.resize}", why_resize, "--resize"))
        if spec.resize == "center_crop" and crop_fraction != 1.0:
            guesses.append(Guess(f"crop_fraction = {crop_fraction:.4g}", why_resize, "--crop-fraction"))
    return spec, guesses


def guess_threshold(
    facts: ModelFacts, decode: str, settings: DecodeSettings, scores: Sequence[float]
) -> tuple[DecodeSettings, Guess | None]:
    """Of an anomaly model; `scores` are those of the test pictures.

    Raises ConfigError where neither the user, the notes nor Anomalib 2's outputs tell it.
    """
    if decode != "anomaly" or settings.threshold is not None:
        return settings, None
    normalised = all(-1e-3 <= score <= 1 + 1e-3 for score in scores)
    if normalised and any(output.name == "pred_score" for output in facts.outputs):
        why = "Anomalib 2 normalises pred_score so in the file"
        return replace(settings, threshold=0.5), Guess("threshold = 0.5", why, "--threshold")
    raise ConfigError(
        f"{facts.path}: an anomaly model whose threshold is not in the file: --threshold S, at or above which a "
        "picture is "
        "anomalous (Anomalib 1: image_threshold in the metadata.json that it exports beside the model)"
    )


def noted_settings(facts: ModelFacts, settings: DecodeSettings, said: dict[str, Any]) -> list[Guess]:
    """A line for each setting that the notes told."""
    keys = ("min_score", "nms_iou", "threshold", "scores", "extra_channels")
    return [
        Guess(f"{key} = {note.value}", note.source, "--" + key.replace("_", "-"))
        for key in keys
        if (note := facts.notes.get(key)) and key not in said and getattr(settings, key) == note.value
    ]


def guess_constants(facts: ModelFacts, input: InputSpec, said: dict[str, Floats]) -> tuple[InputSpec, list[Guess]]:
    """Values for the inputs beside the picture. Raises ConfigError for one that neither the user nor its name tells."""
    guesses: list[Guess] = []
    constants: list[tuple[str, Floats]] = []
    for spec in facts.others:
        name, size = spec.name, " ".join(map(str, spec.shape))
        width, height = input.width_px, input.height_px
        values = said.get(name)
        if values is None and width and height and (found := _size_input(name, width, height)):
            values = found
            words = ",".join(f"{value:g}" for value in values)
            guesses.append(Guess(f"{name} = {words}", "it takes the picture's size", f"--constant {name}=..."))
        if values is None:
            raise ConfigError(
                f"{facts.path}: the model has inputs beside the picture; lineside gives them one value for every "
                "frame, and "
                f"nothing tells that of {name!r} {spec.dtype} [{size}]: --constant {name}=VALUE,..., or export "
                "without it"
            )
        constants.append((name, values))
    return (replace(input, constants=tuple(constants)) if constants else input), guesses


def _size_input(name: str, width: int, height: int) -> Floats | None:
    """What exporters feed: RT-DETR and D-FINE width and height, PaddleDetection height and width."""
    if name in ("orig_target_sizes", "orig_target_size", "target_sizes", "orig_size", "target_size"):
        return (float(width), float(height))
    if name in ("im_shape", "image_shape"):
        return (float(height), float(width))
    return (1.0, 1.0) if name == "scale_factor" else None


def _noted(facts: ModelFacts, key: str, otherwise: Any, so: str) -> tuple[Any, str]:
    note = facts.notes.get(key)
    return (note.value, note.source) if note else (otherwise, so)


def _color(facts: ModelFacts, family: Color, so: str) -> tuple[Color, str]:
    if note := facts.notes.get("color"):
        return note.value, note.source
    if facts.peek.swaps:
        turned: Color = "bgr" if family == "rgb" else "rgb"
        return turned, f"the graph itself turns the channels round: {so} on {family}"
    return family, so


def _normalisation(facts: ModelFacts, decode: str) -> tuple[tuple[Floats, Floats], str]:
    """What the files say; else a graph that takes pixels as they are; a quantised classifier's range; the family."""
    input, notes = facts.input, facts.notes
    family, name = kin_of(facts, decode)
    so = f"{name} models are trained so"
    plain = input.scale == 1.0 and input.zero_point == 0
    if input.dtype == "uint8" and plain:
        return _RAW, "the input takes bytes: pixels go in as they are"
    if input.dtype == "int8" and plain:
        return ((128.0,) * 3, (1.0,) * 3), "the input takes signed bytes: pixels go in less 128"
    if "mean" in notes and "std" in notes:
        return (notes["mean"].value, notes["std"].value), notes["mean"].source
    if facts.peek.takes == "pixels":
        return _RAW, "the graph itself normalises pixels of 0 to 255"
    if facts.peek.takes == "unit":
        return _UNIT, "the graph itself normalises values of 0 to 1"
    if input.dtype not in _BYTES or decode not in ("classify", "ssd"):
        return (family.mean, family.std), so
    pixel_zero = input.zero_point + (128 if input.dtype == "int8" else 0)  # the pixel that stands for 0
    low, high = -pixel_zero * input.scale, (255 - pixel_zero) * input.scale
    why = f"the quantised input covers {low:.2f} to {high:.2f}"
    if abs(low + 2.12) < 0.1 and abs(high - 2.64) < 0.1:
        return _IMAGENET, why
    return ((float(pixel_zero),) * 3, (1.0 / input.scale,) * 3), f"{why}: pixels go in as they are"


def _short(values: Floats) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else ",".join(f"{value:g}" for value in values)
