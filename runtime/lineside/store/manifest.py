"""model.toml, a bundle's manifest: its tables and what must hold between their values. docs/models.md describes it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Annotated, Literal

from lineside.checked import Check, Fault, Is, Table, Unfit, checked, table
from lineside.errors import ConfigError
from lineside.registry import names


def _known_decoder(name: str) -> str:
    if name not in names("decoder"):
        raise ValueError(f"unknown; known are {', '.join(names('decoder'))}")
    return name


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path inside the bundle's folder")
    return file


FileName = Annotated[str, Check(_inside)]


@table
class _Input(Table):
    """The [input] table: InputSpec, and what must hold between its values."""

    width_px: Annotated[int, Is(ge=1, le=8192)] | None = None
    height_px: Annotated[int, Is(ge=1, le=8192)] | None = None
    color: Literal["rgb", "bgr", "gray"]
    layout: Literal["nchw", "nhwc"]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"] = "letterbox"
    pad_value: Annotated[int, Is(ge=0, le=255)] = 114
    stride_px: Annotated[int, Is(ge=1, le=1024)] = 32
    crop_fraction: Annotated[float, Is(gt=0, le=1)] = 0.875
    constants: tuple[tuple[str, tuple[float, ...]], ...] = ()
    filter: Literal["linear", "area", "antialias", "bicubic"] = "linear"

    def __post_init__(self) -> None:
        channels = (1, 3) if self.color == "gray" else (3,)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in channels:
                raise ValueError(f"{name} = {list(values)}: give one value a channel, {channels[0]} for {self.color}")
        if min(self.std) <= 0:
            raise ValueError(f"std = {list(self.std)}: must be above 0 (value = (pixel - mean) / std, pixel 0 to 255)")
        if (self.width_px is None) != (self.height_px is None):
            raise ValueError("width_px and height_px: give both, or neither for a model that takes any size")
        if (self.width_px is None) != (self.resize == "pad"):
            raise ValueError(
                f'resize = "{self.resize}": "pad" is for models that take any size (no width_px, height_px), '
                "the others need width_px and height_px"
            )


@table
class _Decode(Table):
    """The [decode] table: the decoder's name and DecodeSettings."""

    name: Annotated[str, Check(_known_decoder)]
    min_score: Annotated[float, Is(ge=0, le=1)] = 0.25
    nms_iou: Annotated[float, Is(gt=0, le=1)] = 0.45
    max_findings: Annotated[int, Is(ge=1, le=10_000)] = 100
    boxes: Literal["auto", "pixels", "unit"] = "auto"
    scores: Literal["auto", "probability", "logit", "sigmoid", "softmax"] = "auto"
    threshold: float | None = None
    box_format: Literal["auto", "xyxy", "cxcywh", "xywh", "yxyx"] = "auto"
    first_class: Annotated[int, Is(ge=0, le=1)] | None = None
    extra_channels: Annotated[int, Is(ge=0, le=100_000)] = 0
    outputs: tuple[str, ...] = ()


@table
class _Artefact(Table):
    """One [[artefact]] table."""

    file: FileName
    format: Literal["onnx", "openvino", "tflite", "edgetpu"]
    precision: Literal["int8", "fp16", "fp32", "mixed"]
    sha256: Annotated[str, Is(pattern="^[0-9a-f]{64}$")]
    layout: Literal["nchw", "nhwc"] | None = None
    needs: tuple[Literal["avx2", "avx512", "vnni", "dotprod"], ...] = ()


@table
class _Beside(Table):
    """The [golden] and [parity] tables: the hash of golden.json, of parity.json."""

    sha256: Annotated[str, Is(pattern="^[0-9a-f]{64}$")]


@table
class Manifest(Table):
    """The whole model.toml."""

    format: Literal[1]
    name: Annotated[str, Is(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Is(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    task: Literal["detect", "classify", "anomaly"]
    licence: str
    source: str = ""  # where the model came from, for people
    labels: FileName | Annotated[tuple[str, ...], Is(min_length=1)]
    input: _Input
    decode: _Decode
    artefact: Annotated[tuple[_Artefact, ...], Is(min_length=1)]
    golden: _Beside | None = None
    parity: _Beside | None = None

    def __post_init__(self) -> None:
        expected = {"classify": "classify", "anomaly": "anomaly"}.get(self.decode.name, "detect")
        if self.decode.name in ("classify", "anomaly") and self.task != expected:
            raise ValueError(f'task = "{self.task}": the decoder {self.decode.name} gives "{expected}"')
        if self.task != "detect" and self.decode.name not in ("classify", "anomaly"):
            raise ValueError(f'task = "{self.task}": the decoder {self.decode.name} gives "detect"')


def parse(text: bytes, where: str) -> Manifest:
    """The manifest that a model.toml holds; `where` opens every line of the ConfigError that it raises."""
    try:
        return checked(Manifest, tomllib.loads(text.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    except Unfit as error:
        raise ConfigError(*(f"{where}: {line}" for line in _lines(error.faults))) from error


def _lines(faults: Sequence[Fault]) -> list[str]:
    """One line a fault: path = value: what is allowed."""
    lines: list[str] = []
    for fault in faults:
        path, message = ".".join(map(str, fault.path)), fault.message.removeprefix("Value error, ")
        match fault.kind:
            case _ if fault.path[:1] == ("labels",):  # one fault for each side of the union
                if not any(line.startswith("labels") for line in lines):
                    lines.append("labels: give the name of a file inside the folder, or a list of at least one label")
            case "missing":
                lines.append(f"{path}: missing: docs/models.md lists the keys")
            case "unexpected_keyword_argument":
                lines.append(f"{path}: unknown key: docs/models.md lists the keys")
            case "value_error" if isinstance(fault.value, dict):
                lines.append(f"{path}: {message}" if path else message)
            case _:
                lines.append(f"{path} = {fault.value!r}: {message[:1].lower()}{message[1:]}")
    return lines
