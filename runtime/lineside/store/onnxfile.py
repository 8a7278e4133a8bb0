"""What the head of an ONNX file says without a runtime: versions, and which files beside it hold its weights.

Protobuf's wire format is walked by its lengths; nothing is searched for in it. Field numbers: onnx/onnx.proto3.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from lineside.errors import ConfigError

Bytes: TypeAlias = "mmap.mmap | bytes"
Span: TypeAlias = tuple[int, int]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64  # graphs in nodes in graphs: a file that goes deeper is not one that an exporter wrote
# message -> field -> message below it; only what can hold a tensor
_BELOW: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA = 13  # of TensorProto: entries of key and value


@dataclass(frozen=True, slots=True)
class OnnxHead:
    """`external`: the locations as the file says them, each once; forward slashes, relative to the model's folder."""

    ir_version: int
    producer: str  # "pytorch", "tf2onnx", ...
    opsets: dict[str, int]  # by domain; "" is ONNX's own
    external: tuple[str, ...]


def read_head(path: Path) -> OnnxHead:
    """Raises ConfigError when the file cannot be read, or its lengths lead out of it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _head(content)
    except OSError as error:
        raise ConfigError(f"model file {path}: cannot be read: {error.strerror}") from error
    except _Malformed as error:
        raise ConfigError(f"{path}: is no ONNX file, or was cut short ({error}): copy or export it again") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise ConfigError(f"{path}: model file is empty: copy it again") from error


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX model that hold its weights, in the order of their names; none for most models.

    Raises ConfigError when a location leads out of the model's folder. Of a file that cannot be read it tells none:
    whoever opens it as a model says what is wrong with it.
    """
    try:
        now = path.stat()
        found = _locations(path, now.st_mtime_ns, now.st_size)
    except (OSError, ValueError, _Malformed):
        return ()
    for location in found:
        _check_inside(path, location)
    return tuple(path.parent / location for location in found)


@lru_cache(64)
def _locations(path: Path, changed_ns: int, size: int) -> tuple[str, ...]:
    """Of this state of the file: a start asks several times."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"location") < 0:  # an entry has this key, so a model without the word has none
            return ()
        return tuple(sorted(set(_external(content, (0, len(content)), "model"))))


def _check_inside(path: Path, location: str) -> None:
    parts = location.replace("\\", "/").split("/")
    if location.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or not location.strip():
        raise ConfigError(
            f"{path}: its weights are in {location!r}, outside of the model's folder: put that file beside the model "
            "(onnx.save(onnx.load(path), new_path) makes one file of both)"
        )


class _Malformed(Exception):
    """Bytes that are no protobuf message."""


def _head(content: Bytes) -> OnnxHead:
    ir_version, producer, opsets = 0, "", {}
    for number, kind, value in _fields(content, (0, len(content))):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 2 and kind == _LENGTH:
            producer = _text(content, value)
        elif number == 8 and kind == _LENGTH:
            domain, version = _opset(content, value)
            opsets[domain] = version
    return OnnxHead(ir_version, producer, opsets, tuple(dict.fromkeys(_external(content, (0, len(content)), "model"))))


def _opset(content: Bytes, span: int | Span) -> tuple[str, int]:
    domain, version = "", 0
    for number, kind, value in _fields(content, span):
        if number == 1 and kind == _LENGTH:
            domain = _text(content, value)
        elif number == 2 and isinstance(value, int):
            version = value
    return ("" if domain == "ai.onnx" else domain), version


def _external(content: Bytes, span: int | Span, message: str, depth: int = 0) -> Iterator[str]:
    """The locations of all tensors below a message."""
    if depth > _DEEPEST:
        raise _Malformed("graphs lie in graphs without end")
    below = _BELOW.get(message, {})
    for number, kind, value in _fields(content, span):
        if kind != _LENGTH:
            continue
        if number in below:
            yield from _external(content, value, below[number], depth + 1)
        elif message == "tensor" and number == _EXTERNAL_DATA:
            texts = {key: _text(content, text) for key, _, text in _fields(content, value) if not isinstance(text, int)}
            if texts.get(1) == "location":
                yield texts.get(2, "")


def _fields(content: Bytes, span: int | Span) -> Iterator[tuple[int, int, int | Span]]:
    """(field number, wire type, value) of one message: an integer, or where the bytes begin and end."""
    if isinstance(span, int):
        raise _Malformed("a number where a message should be")
    at, end = span
    while at < end:
        tag, at = _varint(content, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at, end)
            yield number, kind, value
            continue
        if kind == _LENGTH:
            length, at = _varint(content, at, end)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {kind}")
        if at + length > end:
            raise _Malformed(f"a field of {length} bytes leads out of the file")
        yield number, kind, (at, at + length)
        at += length


def _varint(content: Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _Malformed("a number without end")


def _text(content: Bytes, span: int | Span) -> str:
    if isinstance(span, int):
        return ""
    return content[span[0] : span[1]].decode("utf-8", "replace")
