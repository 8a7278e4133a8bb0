"""A model bundle: a folder with model.toml, labels and artefacts, read and checked before anything else looks at it.

docs/models.md describes the format. A bundle is never written after it is packed.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, InputSpec, ModelRef, Task
from lineside.registry import names
from lineside.resources import shipped

MANIFEST = "model.toml"
MAX_LABEL_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """One model as the rest of lineside sees it. `digest` covers model.toml, the labels and, through it, every file."""

    folder: Path
    name: str
    version: str
    digest: str  # "sha256:..."
    task: Task
    decode: str  # a decoder's name in the registry
    settings: DecodeSettings
    labels: tuple[str, ...]
    input: InputSpec
    artefacts: tuple[Artefact, ...]  # in the order of model.toml
    licence: str

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version, self.digest)

    def input_for(self, artefact: Artefact) -> InputSpec:
        """The input of one of the artefacts: its layout may be its own."""
        return self.input.of(artefact)


def open_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle: a folder, or the name of one that ships with lineside. Raises ConfigError.

    Hashes every artefact (1.6 ms a megabyte); `read_bundle` and `verify` are the two steps apart.
    """
    bundle = read_bundle(path)
    for artefact in bundle.artefacts:
        verify(bundle, artefact)
    return bundle


def read_bundle(path: str | Path) -> Bundle:
    """Read model.toml and the labels; artefacts must exist but are not hashed. Raises ConfigError."""
    folder = find(path)
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = Manifest.model_validate(tomllib.loads(text.decode()))
    except OSError as error:
        raise ConfigError(f"bundle {folder}: {MANIFEST} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"bundle {folder}: {MANIFEST} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(*(f"bundle {folder}: {MANIFEST}: {line}" for line in _lines(error))) from error
    labels, labels_text = _labels(folder, manifest)
    return Bundle(
        folder=folder,
        name=manifest.name,
        version=manifest.version,
        digest="sha256:" + hashlib.sha256(text + b"\0" + labels_text).hexdigest(),
        task=manifest.task,
        decode=manifest.decode.name,
        settings=DecodeSettings(**manifest.decode.model_dump(exclude={"name"})),
        labels=labels,
        input=InputSpec(**manifest.input.model_dump()),
        artefacts=tuple(_artefact(folder, entry) for entry in manifest.artefact),
        licence=manifest.licence,
    )


def find(path: str | Path) -> Path:
    """The absolute folder of a bundle given by path or by the name of a shipped one. Raises ConfigError."""
    asked = Path(path).expanduser()
    if asked.name == MANIFEST:
        asked = asked.parent
    models = shipped("models")
    for folder in (asked, models / asked) if len(asked.parts) == 1 else (asked,):
        if (folder / MANIFEST).is_file():
            return folder.resolve()
    known = sorted(folder.parent.name for folder in models.glob(f"*/{MANIFEST}"))
    what = f"holds no {MANIFEST}" if asked.is_dir() else "is no folder" if asked.exists() else "does not exist"
    raise ConfigError(
        f"bundle {path}: {what}: give a folder made by `lineside bundle new`"
        + (f", or one of the shipped models: {', '.join(known)}" if known else "")
    )


def verify(bundle: Bundle, artefact: Artefact) -> None:
    """Compare an artefact with the hash in model.toml. Raises ConfigError when it was cut short or changed."""
    found = sha256_of(Path(artefact.path))
    if found != artefact.sha256:
        raise ConfigError(
            f"bundle {bundle.folder}: {Path(artefact.path).name}: sha256 is {found[:12]}..., {MANIFEST} says "
            f"{artefact.sha256[:12]}...: the file was cut short or changed after packing: "
            f"copy the bundle again, or pack a new one with `lineside bundle new`"
        )


def sha256_of(path: Path) -> str:
    """The hash that model.toml holds: of the file; for an OpenVINO .xml, of the .xml followed by its .bin.

    Raises ConfigError when a file cannot be read.
    """
    digest = hashlib.sha256()
    for part in artefact_files(path):
        try:
            with part.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise ConfigError(f"model file {part}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def artefact_files(path: Path) -> tuple[Path, ...]:
    """The files that make up one artefact: an OpenVINO .xml keeps its weights in a .bin beside it."""
    return (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)


def _artefact(folder: Path, entry: _Artefact) -> Artefact:
    path = folder / entry.file
    for part in artefact_files(path):
        if not part.is_file():
            raise ConfigError(
                f"bundle {folder}: artefact file {part.relative_to(folder)} is missing: "
                "copy the whole folder, or remove its [[artefact]] table"
            )
        if part.stat().st_size == 0:
            raise ConfigError(f"bundle {folder}: artefact file {part.relative_to(folder)} is empty: copy it again")
    return Artefact(str(path), entry.format, entry.precision, entry.sha256, entry.layout)


def _labels(folder: Path, manifest: Manifest) -> tuple[tuple[str, ...], bytes]:
    if not isinstance(manifest.labels, str):
        return tuple(manifest.labels), b""
    path = folder / manifest.labels
    try:
        text = path.read_bytes()[: MAX_LABEL_BYTES + 1]
    except OSError as error:
        raise ConfigError(
            f'bundle {folder}: {MANIFEST}: labels = "{manifest.labels}": cannot be read: {error.strerror}'
        ) from error
    return parse_labels(text, str(path)), text


def parse_labels(text: bytes, where: str) -> tuple[str, ...]:
    """One label a line, in the order of the model's classes; blank lines at the end are dropped. Raises ConfigError."""
    if len(text) > MAX_LABEL_BYTES:
        raise ConfigError(f"labels {where}: larger than {MAX_LABEL_BYTES >> 20} MB: give a text file, one label a line")
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels {where}: not UTF-8 text ({error}): save it as UTF-8, one label a line") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ConfigError(f"labels {where}: no label in it: write one label a line, in the order of the classes")
    if "" in lines:
        raise ConfigError(
            f"labels {where}: line {lines.index('') + 1} is blank, so it is not clear which class comes next: "
            'write "n/a" for a class that the model does not use'
        )
    return tuple(lines)


# --- model.toml ---------------------------------------------------------------------------------------------------


def _known_decoder(name: str) -> str:
    if name not in names("decoder"):
        raise ValueError(f"unknown; known are {', '.join(names('decoder'))}")
    return name


def _inside(file: str) -> str:
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path inside the bundle's folder")
    return file


FileName = Annotated[str, AfterValidator(_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Input(_Strict):
    """The [input] table: InputSpec, and what must hold between its values."""

    width_px: Annotated[int, Field(ge=1, le=8192)] | None = None
    height_px: Annotated[int, Field(ge=1, le=8192)] | None = None
    color: Literal["rgb", "bgr", "gray"]
    layout: Literal["nchw", "nhwc"]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "letterbox_top_left", "stretch", "center_crop", "pad"] = "letterbox"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    stride_px: Annotated[int, Field(ge=1, le=1024)] = 32
    crop_fraction: Annotated[float, Field(gt=0, le=1)] = 0.875

    @model_validator(mode="after")
    def _fits(self) -> Self:
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
        return self


class _Decode(_Strict):
    """The [decode] table: the decoder's name and DecodeSettings."""

    name: Annotated[str, AfterValidator(_known_decoder)]
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.25
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.45
    max_findings: Annotated[int, Field(ge=1, le=10_000)] = 100
    boxes: Literal["auto", "pixels", "unit"] = "auto"
    scores: Literal["auto", "probability", "logit"] = "auto"
    threshold: float | None = None


class _Artefact(_Strict):
    """One [[artefact]] table."""

    file: FileName
    format: Literal["onnx", "openvino", "tflite", "edgetpu"]
    precision: Literal["int8", "fp16", "fp32", "mixed"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    layout: Literal["nchw", "nhwc"] | None = None


class Manifest(_Strict):
    """The whole model.toml."""

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    task: Literal["detect", "classify", "anomaly"]
    licence: str
    source: str = ""  # where the model came from, for people
    labels: FileName | Annotated[tuple[str, ...], Field(min_length=1)]
    input: _Input
    decode: _Decode
    artefact: Annotated[tuple[_Artefact, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _decoder_fits_task(self) -> Self:
        expected = {"classify": "classify", "anomaly": "anomaly"}.get(self.decode.name, "detect")
        if self.decode.name in ("classify", "anomaly") and self.task != expected:
            raise ValueError(f'task = "{self.task}": the decoder {self.decode.name} gives "{expected}"')
        if self.task != "detect" and self.decode.name not in ("classify", "anomaly"):
            raise ValueError(f'task = "{self.task}": the decoder {self.decode.name} gives "detect"')
        return self


def _lines(error: ValidationError) -> Sequence[str]:
    """One line a fault: path = value: what is allowed."""
    lines: list[str] = []
    for fault in error.errors(include_url=False):
        path = ".".join(str(step) for step in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        match fault["type"]:
            case _ if fault["loc"][:1] == ("labels",):  # one fault for each side of the union
                if not any(line.startswith("labels") for line in lines):
                    lines.append("labels: give the name of a file inside the folder, or a list of at least one label")
            case "missing":
                lines.append(f"{path}: missing: docs/models.md lists the keys")
            case "extra_forbidden":
                lines.append(f"{path}: unknown key: docs/models.md lists the keys")
            case "value_error" if isinstance(fault["input"], dict):
                lines.append(f"{path}: {message}" if path else message)
            case _:
                lines.append(f"{path} = {fault['input']!r}: {message[:1].lower()}{message[1:]}")
    return lines
