"""What every backend checks before its runtime sees a model: that the file is one and takes the bundle's input."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lineside.errors import ConfigError
from lineside.hal.causes import cause, one_line
from lineside.records import Artefact, InputSpec, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_LEVELS = 16  # of a quantised input
Options: TypeAlias = Mapping[str, str | int | float | bool]

_COPY_AGAIN = "copy the bundle again, or export the model again"


def check_file(artefact: Artefact, formats: Sequence[str], backend: str) -> None:
    """Raises ConfigError when the file is absent, empty, or of another kind than its bundle says."""
    path = Path(artefact.path)
    if artefact.format not in formats:
        raise ConfigError(f"{path}: {backend} cannot run a model of format {artefact.format!r}: {_one_of(formats)}")
    for part in (path, path.with_suffix(".bin")) if artefact.format == "openvino" else (path,):
        try:
            with part.open("rb") as file:
                head = file.read(64)
        except OSError as error:
            raise ConfigError(f"{part}: model file cannot be read: {error.strerror}: {_COPY_AGAIN}") from error
        if not head:
            raise ConfigError(f"{part}: model file is empty: {_COPY_AGAIN}")
        if part is path and not _looks_like(artefact.format, head):
            raise ConfigError(f"{part}: is no {artefact.format} model ({_guess(head)}): {_COPY_AGAIN}")


def unreadable(artefact: Artefact, runtime: str, error: Exception) -> ConfigError:
    """What to say when a runtime refuses a file that looked right at its head: the cause, where its message tells."""
    if why := cause(error):
        return ConfigError(f"{artefact.path}: {runtime} cannot read this model: {why} ({first_line(error)})")
    size_kb = os.path.getsize(artefact.path) / 1000
    return ConfigError(
        f"{artefact.path}: {runtime} cannot read this model ({first_line(error)}): "
        f"the file ({size_kb:.0f} kB) is truncated or damaged, or uses what {runtime} does not know: {_COPY_AGAIN}"
    )


def first_line(error: object) -> str:
    """A vendor's message as one line, short enough for one log line; a long one keeps its head and its end."""
    return one_line(error)


def check_batch(path: str, spec: TensorSpec) -> None:
    """Raises ConfigError for an input whose first size is fixed to another number than 1."""
    if spec.shape and spec.shape[0] not in (1, None):
        raise ConfigError(
            f"{path}: input {spec.name!r} is {list(spec.shape)}: a fixed batch of {spec.shape[0]}: lineside feeds one "
            "picture at a time: export it with a batch of 1 or a free one (Ultralytics: batch=1 or dynamic=True; "
            "torch.onnx.export: an example input of batch 1; TFLite: a batch of 1 in the input's shape)"
        )


def image_input(path: str, inputs: Sequence[TensorSpec], input: InputSpec) -> tuple[TensorSpec, InputSpec]:
    """The model's one picture input, and `input` with this artefact's own layout.

    One bundle may hold an NCHW .onnx and an NHWC .tflite of one model, so the shape decides where it can; `layout` of
    the bundle does where both would fit. Raises ConfigError where the model contradicts the bundle's `[input]`.
    """
    told = {name for name, _ in input.constants}
    pictures = [spec for spec in inputs if spec.name not in told]
    if len(pictures) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise ConfigError(
            f"{path}: has {len(inputs)} inputs ({names}): lineside feeds one picture: export it with one, or give the "
            "values of the others in constants of [input]"
        )
    spec = pictures[0]
    if len(spec.shape) != 4:
        raise ConfigError(f"{path}: input {spec.name!r} has shape {spec.shape}: a picture needs 4 sizes")
    check_batch(path, spec)
    wanted = 1 if input.color == "gray" else 3
    nchw, nhwc = (spec.shape[at] == wanted for at in (1, 3))
    if nchw != nhwc:
        input = replace(input, layout="nchw" if nchw else "nhwc")
    _, *sizes = spec.shape
    channels, height, width = sizes if input.layout == "nchw" else (sizes[2], sizes[0], sizes[1])
    if channels not in (wanted, None):
        raise ConfigError(
            f'{path}: input {spec.name!r} is {spec.shape}: with color = "{input.color}" the second or the last size '
            f"should be {wanted}: correct [input] in model.toml"
        )
    for side, has, says in (("height_px", height, input.height_px), ("width_px", width, input.width_px)):
        if has is not None and has != says:
            raise ConfigError(f"{path}: [input] {side} = {says}: the model takes {has}: correct it in model.toml")
    _check_levels(path, spec, input)
    return spec, input


def _check_levels(path: str, spec: TensorSpec, input: InputSpec) -> None:
    """Raises ConfigError where a quantised input would hold so few different values that nothing could be seen."""
    low, high = {"uint8": (0, 255), "int8": (-128, 127)}.get(spec.dtype, (0, 0))
    if low == high:
        return
    for mean, std in zip(input.mean, input.std, strict=False):
        raw = ((pixel - mean) / std / spec.scale + spec.zero_point for pixel in range(256))
        values = len({round(min(max(value, low), high)) for value in raw})
        if values < FEWEST_LEVELS:
            raise ConfigError(
                f"{path}: input {spec.name!r} is {spec.dtype} with a step of {spec.scale:g}: mean {mean:g} and std "
                f"{std:g} "
                f"leave {values} different values of a pixel's 256, so nothing can be seen: correct [input] mean and "
                "std "
                "(--mean, --std); a model that takes pixels as they are has mean 0 and std 1"
            )


def constant_inputs(path: str, inputs: Sequence[TensorSpec], input: InputSpec) -> dict[int, NDArray[Any]]:
    """The arrays for the inputs that are the same for every frame, by the input's number. Raises ConfigError."""
    import numpy as np  # here: who only looks at files needs no arrays

    arrays: dict[int, NDArray[Any]] = {}
    for name, values in input.constants:
        at = next((number for number, spec in enumerate(inputs) if spec.name == name), None)
        if at is None:
            continue  # another file of the bundle has it
        shape = [1 if size is None else size for size in inputs[at].shape]
        if math.prod(shape) != len(values):
            raise ConfigError(
                f"{path}: [input] constants: {name} has {len(values)} values: the model takes {shape}: correct "
                "model.toml"
            )
        arrays[at] = np.asarray(values).reshape(shape).astype(inputs[at].dtype)
    return arrays


def with_one(shape: Sequence[object]) -> tuple[int | None, ...]:
    """A shape as a runtime reports it: free sizes become None, and a free batch 1."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in shape]
    return (1, *sizes[1:]) if sizes and sizes[0] is None else tuple(sizes)


def take(options: Options, where: str, known: Mapping[str, type]) -> None:
    """Raises ConfigError for an option that `where` does not have, or of the wrong type."""
    for name, value in options.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{where}: option {name!r} is unknown; known are {allowed}")
        wanted = known[name]
        right = isinstance(value, (int, float) if wanted is float else wanted)
        if not right or (isinstance(value, bool) and wanted is not bool):
            raise ConfigError(f"{where}: option {name} = {value!r}: must be {_TYPES[wanted]}")


_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _looks_like(format: str, head: bytes) -> bool:
    if format in ("tflite", "edgetpu"):
        return head[4:8] == b"TFL3"
    if format == "openvino":
        return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"<?xml", b"<net"))
    return head[0] in b"\x08\x12\x1a\x22\x2a\x32\x3a\x42"  # a protobuf field 1 to 8 of onnx.ModelProto comes first


def _guess(head: bytes) -> str:
    for format in ("tflite", "openvino"):
        if _looks_like(format, head):
            return f"it looks like {format}"
    for magic, name in (
        (b"PK", "a zip or PyTorch file"),
        (b"\x89HDF", "a Keras HDF5 file"),
        (b"version https", "a Git LFS pointer"),
    ):
        if head.startswith(magic):
            return f"it looks like {name}"
    return "its first bytes are " + head[:8].hex(" ")


def _one_of(names: Sequence[str]) -> str:
    return "add an artefact of format " + " or ".join(names)
