"""The frozen records that flow through the stages. Imports nothing of lineside.

Images are uint8, (H, W, 3), BGR, origin at the top left, as OpenCV has them. Boxes are x1 y1 x2 y2 in pixels of
`Frame.image`, float32; x2 and y2 are exclusive edges, so a box that covers the whole frame is (0, 0, W, H).
Times named `_ns` are nanoseconds of the monotonic clock unless the name says `wall`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:  # who only reads configuration and bundles needs no arrays
    import numpy as np
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8]"
Window: TypeAlias = tuple[slice, slice]  # rows, columns of an image
Box: TypeAlias = tuple[float, float, float, float]  # x1 y1 x2 y2, pixels of Frame.image
Verdict: TypeAlias = Literal["accept", "reject", "unknown"]
Output: TypeAlias = Literal["accept", "reject", "safe_state", "none"]
Task: TypeAlias = Literal["detect", "classify", "anomaly"]


@dataclass(frozen=True, slots=True)
class Captured:
    """What a camera driver hands over: the driver's own picture, before rotate, flip and region of interest."""

    image: Image
    captured_ns: int  # as near to the exposure as the driver can tell
    wall_ns: int  # time.time_ns() at the same instant


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture as the rest of the path sees it."""

    image: Image
    camera: str
    number: int  # counts every picture that the camera gave since the daemon started, skipped ones included
    captured_ns: int
    captured_wall_ns: int
    ready_ns: int  # when the picture was decoded and oriented: where the frame path begins
    paced: bool = True  # False: a recording as fast as it goes; captured_ns is the recording's time, not this clock's


# --- what goes into a model and comes out of it -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model as the runtime reports it. `shape` has None where a size is free."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # numpy name, "float32", "uint8", "int8"
    scale: float = 1.0  # real = (raw - zero_point) * scale
    zero_point: int = 0


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How a picture becomes the model's input: real value = (pixel - mean) / std, per channel in `color` order."""

    width_px: int | None  # None: the model takes any size (see stride_px)
    height_px: int | None
    color: Literal["rgb", "bgr", "gray"]
    layout: Literal["nchw", "nhwc"]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # in pixel units, 0 to 255
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"] = "letterbox"
    pad_value: int = 114
    stride_px: int = 32  # with a free size and resize = "pad": sides are padded up to a multiple of it
    crop_fraction: float = 0.875  # with center_crop: the share of the shorter side that the crop keeps
    # inputs beside the picture that are the same for every frame, (name, values), such as the canvas's width and height
    constants: tuple[tuple[str, tuple[float, ...]], ...] = ()
    filter: Literal["linear", "area", "antialias", "bicubic"] = "linear"  # how a frame is scaled: docs/models.md

    def of(self, artefact: Artefact) -> InputSpec:
        """The input of this file of a bundle, whose layout may differ: TFLite exporters turn NCHW into NHWC."""
        return self if artefact.layout in (None, self.layout) else replace(self, layout=artefact.layout)


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """How a decoder reads its family's outputs: the [decode] table of a bundle."""

    min_score: float = 0.25  # findings below it are dropped
    nms_iou: float = 0.45  # of two boxes of one class that overlap more, the weaker is dropped
    max_findings: int = 100
    boxes: Literal["auto", "pixels", "unit"] = "auto"  # box outputs in canvas pixels, or 0 to 1 of the canvas
    # logit: what the family does with its logits is still to be done, a softmax (classifiers) or a sigmoid (detectors)
    scores: Literal["auto", "probability", "logit", "sigmoid", "softmax"] = "auto"
    threshold: float | None = None  # anomaly models: at or above it a frame is anomalous
    box_format: Literal["auto", "xyxy", "cxcywh", "xywh", "yxyx"] = "auto"  # auto: the family's
    first_class: int | None = None  # the number that the model gives the first label; None: the family's (mostly 0)
    extra_channels: int = 0  # behind the classes of a candidate, not read: key points, coefficients of masks
    outputs: tuple[str, ...] = ()  # names of the outputs to read, of those a file has; none: all of them


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file of a bundle that some runtime can load. `path` is absolute."""

    path: str
    format: Literal["onnx", "openvino", "tflite", "edgetpu"]
    precision: Literal["int8", "fp16", "fp32", "mixed"]
    sha256: str
    layout: Literal["nchw", "nhwc"] | None = None  # where it differs from the bundle's [input]: see InputSpec.of
    needs: tuple[str, ...] = ()  # what a processor must have to run it right: names of hal.processor.features


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output of a model, still quantised where the model's output is. Valid until the slot's next infer.

    `scale` is positive, so order and maximum of `raw` are those of the real values: find the few survivors on
    `raw` with `level`, then dequantise only those with `real`.
    """

    name: str
    raw: NDArray[Any]
    scale: float = 1.0
    zero_point: int = 0

    def real(self, index: Any = ...) -> NDArray[np.float32]:
        """Float32 values of `raw[index]`; a copy where the tensor is quantised, else maybe a view."""
        real: NDArray[np.float32] = self.raw[index].astype("float32", copy=False)
        if self.scale == 1.0 and self.zero_point == 0:
            return real
        return (real - self.zero_point) * self.scale

    def level(self, value: float) -> float:
        """The raw level such that `raw >= level` says `real >= value`."""
        return value / self.scale + self.zero_point


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a frame lies on the model's canvas: canvas = frame * (scale_x, scale_y) + (left, top), in pixels."""

    scale_x: float
    scale_y: float
    left_px: float
    top_px: float
    frame_width_px: int
    frame_height_px: int
    canvas_width_px: int
    canvas_height_px: int


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector saw in one frame, best score first."""

    boxes: NDArray[np.float32]  # (N, 4) x1 y1 x2 y2, pixels of Frame.image
    scores: NDArray[np.float32]  # (N,) 0 to 1
    class_ids: NDArray[np.int32]  # (N,) index into the bundle's labels


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier says of one frame."""

    scores: NDArray[np.float32]  # (C,) 0 to 1, in the order of the bundle's labels


@dataclass(frozen=True, slots=True)
class AnomalyMap:
    """What an anomaly model says of one frame."""

    score: float  # the model's own scale; the bundle says its threshold
    heat: NDArray[np.float32] | None = None  # (h, w) over the canvas, or None


Seen: TypeAlias = Detections | Classification | AnomalyMap


# --- parts and decisions ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, in words that a message carries."""

    label: str
    class_id: int
    score: float
    box: Box | None = None  # None for classifiers and anomaly scores


@dataclass(frozen=True, slots=True)
class Observation:
    """What one frame showed: of one part (findings that belong to it), or of the whole view in event pipelines."""

    captured_ns: int
    findings: tuple[Finding, ...]
    frame_number: int = 0
    box: Box | None = None  # where the part was in this frame, if a tracker followed it


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one rule says of a part; `cause` is a short sentence for people that names rule and finding."""

    verdict: Verdict
    cause: str
    score: float = 0.0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What a trigger announced. `id` is unique over boots."""

    id: str
    station: str
    number: int  # counts up per station since the daemon started
    triggered_ns: int
    triggered_wall_ns: int
    serial: str | None = None
    lot: str | None = None
    product: str | None = None
    observations: tuple[Observation, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Which model decided."""

    name: str
    version: str
    digest: str  # of the bundle, "sha256:..."


@dataclass(frozen=True, slots=True)
class Decision:
    """What the box decided about one part. `epoch` and `seq` are given by the journal when it commits."""

    id: str
    station: str
    part: Part
    verdict: Verdict
    output: Output
    cause: str
    late: bool
    score: float
    findings: tuple[Finding, ...]
    model: ModelRef
    backend: str  # "onnxruntime:cpu"
    captured_ns: int
    captured_wall_ns: int
    decided_ns: int
    decided_wall_ns: int
    revision: int = 1
    escalated: bool = False
    recipe: str = ""  # digest of the Note that says by what rules, "sha256:..."


@dataclass(frozen=True, slots=True)
class Event:
    """What changed in a free-running pipeline. `epoch` and `seq` are given by the journal when it commits."""

    id: str  # of this message
    event_id: str  # the same from start to end
    station: str
    phase: Literal["start", "change", "end"]
    cause: str
    count: int  # things present now
    score: float
    findings: tuple[Finding, ...]
    model: ModelRef
    backend: str
    started_ns: int
    started_wall_ns: int
    captured_ns: int
    captured_wall_ns: int
    decided_ns: int
    decided_wall_ns: int
    recipe: str = ""  # as in Decision


@dataclass(frozen=True, slots=True)
class Note:
    """What else a station's journal keeps beside what was decided. `epoch` and `seq` are given by the journal."""

    id: str
    kind: Literal["recipe", "evidence", "in_doubt", "audit"]
    station: str
    fields: Mapping[str, object]  # JSON values; docs/messages.md has those of each kind
    decided_ns: int
    decided_wall_ns: int


Record: TypeAlias = Decision | Event | Note


@dataclass(frozen=True, slots=True)
class Change:
    """A step of an event rule, before the pipeline makes an Event of it."""

    phase: Literal["start", "change", "end"]
    key: str  # which rule and zone, the same from start to end
    cause: str
    count: int
    score: float
    started_ns: int
    findings: tuple[Finding, ...] = field(default=())
