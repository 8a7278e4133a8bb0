"""What a model's graph does first with the picture and last with its outputs: does it normalise or swap the colours
itself, and does an output end in a sigmoid or a softmax.

Reads .onnx (protobuf, by its lengths; source: onnx/onnx.proto), .tflite and OpenVINO's models, without their packages
but for OpenVINO's. What it does not recognise it says nothing of.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lineside.hal.tflite import FlatTable

_FEW = 16  # values of a constant that may be a mean, a scale or an order of channels
_WRAPPERS = {
    *("Identity", "Cast", "Convert", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"),
    *("QuantizeLinear", "DequantizeLinear"),
}
_AFFINE = {"Add", "Sub", "Subtract", "Mul", "Multiply", "Div", "Divide"}
_TFLITE = {
    **{0: "Add", 18: "Mul", 41: "Sub", 42: "Div", 53: "Cast", 114: "QuantizeLinear", 6: "DequantizeLinear"},
    **{14: "Sigmoid", 25: "Softmax", 22: "Reshape", 39: "Transpose", 36: "Gather", 43: "Squeeze"},
}


@dataclass(frozen=True, slots=True)
class Peek:
    """`takes`: the values of a picture that the graph's own normalisation is made for; None: it has none."""

    takes: Literal["pixels", "unit"] | None = None  # 0 to 255, or 0 to 1
    swaps: bool = False  # turns the order of the channels round
    ends: Mapping[str, str] = field(default_factory=dict)  # output -> "Sigmoid", "Softmax" or another operator


@dataclass(frozen=True, slots=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Graph:
    nodes: Sequence[_Node]
    constants: Mapping[str, Sequence[float]]  # small ones


def peek_onnx(path: Path, picture: str, outputs: Sequence[str]) -> Peek:
    """Nothing is said of a file that cannot be read so."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return _peek(_onnx(memory), picture, outputs)
    except (OSError, ValueError, IndexError, struct.error):
        return Peek()


def peek_tflite(path: Path, picture: str, outputs: Sequence[str]) -> Peek:
    """Nothing is said of a file that cannot be read so."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            return _peek(_tflite(memory), picture, outputs)
    except (OSError, ValueError, IndexError, struct.error):
        return Peek()


def peek_openvino(model: Any, picture: Any, ports: Sequence[Any], outputs: Sequence[str]) -> Peek:
    """Of an openvino.Model; `picture` its input, `ports` its outputs as they are named in `outputs`."""
    nodes, constants = [], {}
    for op in model.get_ordered_ops():
        name, kind = op.get_friendly_name(), op.get_type_name()
        if kind == "Constant":
            shape = op.get_output_shape(0)
            if int(np.prod(list(shape) or [1])) <= _FEW:
                constants[name] = [float(value) for value in np.asarray(op.data).reshape(-1)]
            continue
        sources = tuple(port.get_source_output().get_node().get_friendly_name() for port in op.inputs())
        nodes.append(_Node("Identity" if kind == "Result" else kind, sources, (name,)))
    ends = dict(zip(outputs, (port.get_node().get_friendly_name() for port in ports), strict=True))
    seen = _peek(_Graph(nodes, constants), picture.get_node().get_friendly_name(), list(ends.values()))
    return Peek(seen.takes, seen.swaps, {output: seen.ends[node] for output, node in ends.items() if node in seen.ends})


def _peek(graph: _Graph, picture: str, outputs: Sequence[str]) -> Peek:
    readers: dict[str, list[_Node]] = {}
    makers: dict[str, _Node] = {}
    for node in graph.nodes:
        for name in set(node.inputs):
            readers.setdefault(name, []).append(node)
        for name in node.outputs:
            makers[name] = node
    gain, swaps, normalises = 1.0, False, False
    name = picture
    while len(readers.get(name, [])) == 1:
        node = readers[name][0]
        others = [graph.constants[each] for each in node.inputs if each != name and each in graph.constants]
        if node.op in _AFFINE and len(others) == 1 and node.inputs[0] == name and others[0]:
            normalises = True
            factor = float(np.mean(np.abs(others[0]))) or 1.0
            gain *= factor if node.op.startswith("Mul") else 1 / factor if node.op.startswith("Div") else 1.0
        elif node.op in ("Gather", "Slice", "StridedSlice") and _turns(node.op, others):
            swaps = not swaps
        elif node.op not in _WRAPPERS:
            break
        name = node.outputs[0]
    takes: Literal["pixels", "unit"] | None = None
    if normalises and 0.5 <= gain * 255 <= 8:
        takes = "pixels"
    elif normalises and 0.5 <= gain <= 16:
        takes = "unit"
    return Peek(takes, swaps, {output: found for output in outputs if (found := _end(makers, output))})


def _turns(op: str, constants: Sequence[Sequence[float]]) -> bool:
    if op == "Gather":
        return any(list(values) == [2.0, 1.0, 0.0] for values in constants)
    return bool(constants) and -1.0 in constants[-1]  # steps


def _end(makers: Mapping[str, _Node], output: str) -> str:
    for _ in range(20):
        node = makers.get(output)
        if node is None:
            return ""
        if node.op not in _WRAPPERS or not node.inputs:
            return node.op
        output = node.inputs[0]
    return ""


# --- onnx.ModelProto


def _onnx(memory: mmap.mmap) -> _Graph:
    nodes: list[_Node] = []
    constants: dict[str, Sequence[float]] = {}
    for number, start, end in _fields(memory, 0, len(memory)):
        if number != 7:  # graph
            continue
        for inner, first, last in _fields(memory, start, end):
            if inner == 1:
                _node(memory, first, last, nodes, constants)
            elif inner == 5:
                name, values = _tensor(memory, first, last)
                if values:
                    constants[name] = values
    return _Graph(nodes, constants)


def _node(memory: mmap.mmap, start: int, end: int, nodes: list[_Node], constants: dict[str, Sequence[float]]) -> None:
    inputs: list[str] = []
    outputs: list[str] = []
    op, value = "", None
    for number, first, last in _fields(memory, start, end):
        if number in (1, 2, 4):
            text = memory[first:last].decode("utf-8", "replace")
            if number == 4:
                op = text
            else:
                (inputs if number == 1 else outputs).append(text)
        elif number == 5:
            for inner, at, until in _fields(memory, first, last):
                if inner == 5:  # AttributeProto.t
                    value = _tensor(memory, at, until)[1]
    if op == "Constant":
        if value and outputs:
            constants[outputs[0]] = value
        return
    nodes.append(_Node(op, tuple(inputs), tuple(outputs)))


def _tensor(memory: mmap.mmap, start: int, end: int) -> tuple[str, Sequence[float]]:
    """TensorProto: its name and, if they are few, its values."""
    name, kind, raw, floats, integers = "", 0, b"", [], []
    for number, first, last in _fields(memory, start, end):
        if number == 8:
            name = memory[first:last].decode("utf-8", "replace")
        elif number == 2:
            kind = first  # a varint: its value
        elif number == 9 and last - first <= 8 * _FEW:
            raw = memory[first:last]
        elif number == 4 and last - first <= 4 * _FEW:
            floats += [float(value) for value in np.frombuffer(memory[first:last], "<f4")]
        elif number == 7 and last - first <= 10 * _FEW:
            integers += _varints(memory, first, last)
    types = {1: "<f4", 10: "<f2", 11: "<f8", 6: "<i4", 7: "<i8"}
    if raw and kind in types:
        return name, [float(value) for value in np.frombuffer(raw, types[kind])][: _FEW + 1]
    return name, floats or [float(value) for value in integers]


def _fields(memory: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of each field; of a varint its value in place of the start."""
    while at < end:
        key, at = _varint(memory, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(memory, at)
            yield key >> 3, value, value
        elif kind == 2:
            size, at = _varint(memory, at)
            if at + size > end:
                raise ValueError("a field that is longer than the file")
            yield key >> 3, at, at + size
            at += size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield key >> 3, at, at + size
            at += size
        else:
            raise ValueError("no protobuf")


def _varint(memory: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = memory[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no protobuf")


def _varints(memory: mmap.mmap, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        value, at = _varint(memory, at)
        found.append(value - (1 << 64) if value >> 63 else value)
    return found


# --- tflite


def _tflite(memory: mmap.mmap) -> _Graph:
    model = FlatTable(memory, struct.unpack_from("<I", memory, 0)[0])
    buffers = list(model.tables(4))
    codes = [max(int(code.scalar(0, "<b")), int(code.scalar(3, "<i"))) for code in model.tables(1)]
    graph = next(iter(model.tables(2)))
    tensors = list(graph.tables(0))
    names = [tensor.text(3) for tensor in tensors]
    constants: dict[str, Sequence[float]] = {}
    for name, tensor in zip(names, tensors, strict=True):
        types = {0: "<f", 2: "<i"}
        data = buffers[int(tensor.scalar(2, "<I"))].numbers(0, "<B") if int(tensor.scalar(1, "<b")) in types else ()
        if 4 <= len(data) <= 4 * _FEW:
            kind = types[int(tensor.scalar(1, "<b"))]
            constants[name] = [float(value) for (value,) in struct.iter_unpack(kind, bytes(data))]
    nodes = []
    for operator in graph.tables(3):
        op = codes[int(operator.scalar(0, "<I"))]
        inputs = tuple(names[at] for at in operator.numbers(1, "<i") if at >= 0)
        made = tuple(names[at] for at in operator.numbers(2, "<i") if at >= 0)
        nodes.append(_Node(_TFLITE.get(op, str(op)), inputs, made))
    return _Graph(nodes, constants)
