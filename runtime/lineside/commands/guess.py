"""What `lineside bundle new` assumes where the user says nothing: first the model file's own word, then its family.

Every assumption is a Guess that names the option which overrides it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lineside.commands.model_facts import ModelFacts
from lineside.errors import ConfigError
from lineside.records import DecodeSettings, InputSpec, Task, TensorSpec
from lineside.vision.decode import fitting
from lineside.vision.decode.outputs import describe

Resize = Literal["letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"]
Floats = tuple[float, ...]


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
    "anomaly": Family("rgb", *_UNIT, "stretch", 114, DecodeSettings(threshold=0.5)),
}
# where several fit, the one whose outputs are the most particular
_PREFERENCE = (
    *("yunet", "blazeface", "ultraface", "ssd", "nanodet", "fastestdet"),
    *("yolox", "yolo_e2e", "yolov8", "yolov5", "classify", "anomaly"),
)
_ONE_CLASS = {"yunet": "face", "ultraface": "face", "blazeface": "face", "anomaly": "anomaly"}
_IMAGENET_WITH_BACKGROUND = 1001
_ANY_SIZE = {"yunet"}  # fully convolutional, and their decoder takes any grid


def task_of(decode: str) -> Task:
    return "classify" if decode == "classify" else "anomaly" if decode == "anomaly" else "detect"


def guess_decode(facts: ModelFacts, labels: tuple[str, ...], task: Task | None, input: InputSpec) -> tuple[str, Guess]:
    """The decoder for these outputs. Raises ConfigError when none fits."""
    many = labels or facts.labels
    fits = [name for name in _PREFERENCE if name in set(fitting(facts.outputs, many or ("object",), input))]
    fits = [name for name in fits if task in (None, task_of(name))]
    if not fits:
        shapes = ", ".join(describe(output) for output in facts.outputs)
        raise ConfigError(
            f"{facts.path}: no decoder fits the outputs {shapes} with {len(many)} labels: "
            "check --labels, or say --decode NAME to read what that decoder expects"
        )
    others = f" (so do {', '.join(fits[1:])})" if fits[1:] else ""
    return fits[0], Guess(f"decode = {fits[0]}", f"the outputs fit it{others}", "--decode")


def guess_labels(facts: ModelFacts, decode: str) -> tuple[tuple[str, ...], Guess]:
    """Labels when no --labels file was given. Raises ConfigError when nothing tells them."""
    if facts.labels:
        count = len(facts.labels)
        return facts.labels, Guess(f"{count} labels, {facts.labels[0]!r} first", "the model's metadata", "--labels")
    if decode in _ONE_CLASS:
        return (_ONE_CLASS[decode],), Guess(f"labels = {_ONE_CLASS[decode]!r}", f"{decode} models know one", "--labels")
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
    if told := facts.metadata.get("imgsz"):
        sides = [int(side) for side in told.strip("[]() ").split(",") if side.strip().isdigit()]
        if sides:
            width, height = sides[-1], sides[0]
            return (width, height), Guess(f"size = {width}x{height}", "the model's metadata", "--size")
    if decode in _ANY_SIZE:
        return None, Guess("any size, padded to a multiple of 32", "the model takes any", "--size")
    raise ConfigError(f"{facts.path}: takes pictures of any size: give --size WIDTHxHEIGHT, as it was trained")


def guess_input(facts: ModelFacts, decode: str, size: tuple[int, int] | None) -> tuple[InputSpec, list[Guess]]:
    """Colour, normalisation and resize."""
    family = FAMILIES[decode]
    guesses: list[Guess] = []
    channels = facts.input.shape[-1] if facts.layout == "nhwc" else facts.input.shape[1]
    (mean, std), why = _normalisation(facts.input, decode)
    spec = InputSpec(
        width_px=size[0] if size else None,
        height_px=size[1] if size else None,
        color=family.color,
        layout=facts.layout,
        mean=mean,
        std=std,
        resize=family.resize if size else "pad",
        pad_value=family.pad_value,
        crop_fraction=1.0,
    )
    if channels == 1:
        spec = replace(spec, color="gray", mean=mean[:1], std=std[:1])
        guesses.append(Guess("color = gray", "the input has one channel", "--color"))
    else:
        guesses.append(Guess(f"color = {spec.color}", f"{decode} models are trained so", "--color"))
    words = f"mean = {_short(spec.mean)}, std = {_short(spec.std)}"
    guesses.append(Guess(words, why, "--mean, --std"))
    if size:
        guesses.append(Guess(f"resize = {spec.resize}", f"{decode} models are trained so", "--resize"))
    return spec, guesses


def _normalisation(input: TensorSpec, decode: str) -> tuple[tuple[Floats, Floats], str]:
    """A quantised classifier's range tells which real values it expects; the others follow their family."""
    family = FAMILIES[decode]
    if input.dtype not in ("int8", "uint8"):
        return (family.mean, family.std), f"{decode} models are trained so"
    pixel_zero = input.zero_point + (128 if input.dtype == "int8" else 0)  # the pixel that stands for 0
    if decode not in ("classify", "ssd"):
        return (family.mean, family.std), f"{decode} models are trained so"
    low, high = -pixel_zero * input.scale, (255 - pixel_zero) * input.scale
    why = f"the quantised input covers {low:.2f} to {high:.2f}"
    if abs(low + 2.12) < 0.1 and abs(high - 2.64) < 0.1:
        return _IMAGENET, why
    return ((float(pixel_zero),) * 3, (1.0 / input.scale,) * 3), f"{why}: pixels go in as they are"


def _short(values: Floats) -> str:
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else ",".join(f"{value:g}" for value in values)
