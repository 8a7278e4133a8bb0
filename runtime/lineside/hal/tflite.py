"""Reads what a .tflite file says of itself: inputs, outputs, quantisation, Edge TPU operators.

OpenVINO drops a TFLite model's input and output scales, and the legacy runtime crashes on a truncated file; so lineside
reads the flatbuffer itself, bounds checked. Source: tensorflow/lite/schema/schema.fbs, field numbers in its order.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lineside.errors import ConfigError
from lineside.hal.artefact import with_one
from lineside.records import TensorSpec

_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
EDGETPU_OPERATOR = "edgetpu-custom-op"


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """What the first subgraph takes and gives, and which custom operators the model needs."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    custom_operators: tuple[str, ...]

    @property
    def for_edgetpu(self) -> bool:
        return EDGETPU_OPERATOR in self.custom_operators


def read_tflite(path: str) -> TfliteFile:
    """Raises ConfigError when an offset leads outside the file: it was cut short or damaged."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return _read(memory)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: not a whole TFLite model ({error}): the file is truncated or damaged: copy or export it again"
        ) from error


def _read(memory: mmap.mmap) -> TfliteFile:
    if memory[4:8] != b"TFL3":
        raise ValueError("no TFL3 mark")
    model = _Table(memory, _u32(memory, 0))
    for buffer in model.tables(4):
        buffer.check_bytes(0)
    codes = [code.text(1) for code in model.tables(1)]
    graphs = list(model.tables(2))
    if not graphs:
        raise ValueError("no subgraph in it")
    for graph in graphs:
        count = len(list(graph.tables(0)))
        for operator in graph.tables(3):
            if operator.scalar(0, "<I") >= len(codes):
                raise ValueError("an operator without a code")
            for index in (*operator.numbers(1, "<i"), *operator.numbers(2, "<i")):
                if not -1 <= index < count:
                    raise ValueError("an operator with a tensor that is not there")
    tensors = list(graphs[0].tables(0))
    return TfliteFile(
        inputs=tuple(_spec(tensors[index]) for index in graphs[0].numbers(1, "<i")),
        outputs=tuple(_spec(tensors[index]) for index in graphs[0].numbers(2, "<i")),
        custom_operators=tuple(code for code in codes if code),
    )


def _spec(tensor: _Table) -> TensorSpec:
    signature = tensor.numbers(7, "<i")  # -1 where a size is free; absent when none is
    scale, zero_point = 1.0, 0
    for quantisation in tensor.table(4):
        scales, zeros = quantisation.numbers(2, "<f"), quantisation.numbers(3, "<q")
        if len(scales) == 1 and scales[0] > 0:
            scale, zero_point = float(scales[0]), int(zeros[0]) if zeros else 0
    dtype = _DTYPES.get(int(tensor.scalar(1, "<b")), "unknown")
    return TensorSpec(tensor.text(3), with_one(signature or tensor.numbers(0, "<i")), dtype, scale, zero_point)


def _u32(memory: mmap.mmap, at: int) -> int:
    return int(struct.unpack_from("<I", memory, at)[0])


class _Table:
    """One flatbuffer table: a signed offset to a vtable of 16-bit field offsets."""

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory, self._at = memory, at
        vtable = at - struct.unpack_from("<i", memory, at)[0]
        if vtable < 0:
            raise ValueError("an offset before the start")
        size = struct.unpack_from("<H", memory, vtable)[0]
        self._fields = struct.unpack_from(f"<{max(0, size - 4) // 2}H", memory, vtable + 4)

    def scalar(self, field: int, kind: str) -> int | float:
        at = self._field(field)
        return 0 if at is None else struct.unpack_from(kind, self._memory, at)[0]

    def text(self, field: int) -> str:
        start, length = self._vector(field, 1)
        return self._memory[start : start + length].decode()

    def numbers(self, field: int, kind: str) -> tuple[Any, ...]:
        start, length = self._vector(field, struct.calcsize(kind))
        return struct.unpack_from(f"<{length}{kind[1:]}", self._memory, start)

    def tables(self, field: int) -> Iterator[_Table]:
        start, length = self._vector(field, 4)
        for at in range(start, start + 4 * length, 4):
            yield _Table(self._memory, at + _u32(self._memory, at))

    def table(self, field: int) -> Iterator[_Table]:
        """None or one."""
        at = self._field(field)
        if at is not None:
            yield _Table(self._memory, at + _u32(self._memory, at))

    def check_bytes(self, field: int) -> None:
        self._vector(field, 1)

    def _vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        at = self._field(field)
        if at is None:
            return 0, 0
        start = at + _u32(self._memory, at)
        length = _u32(self._memory, start)
        if start + 4 + length * item_bytes > len(self._memory):
            raise ValueError(f"{start + 4 + length * item_bytes} bytes expected, {len(self._memory)} there")
        return start + 4, length

    def _field(self, field: int) -> int | None:
        offset = self._fields[field] if field < len(self._fields) else 0
        return self._at + offset if offset else None


FlatTable = _Table  # for the commands that read more of such files
