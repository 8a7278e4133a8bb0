"""Which operators of a TFLite file the Edge TPU's compiler would leave on the CPU, and why.

By the table of supported operations and their limits in Coral's documentation ("TensorFlow models on the Edge TPU",
compiler 16). The compiler itself has unstated limits of size beside these. Read with the schema of ai-edge-litert.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
TYPES = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
MAPPED = {
    *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED"),
    *("L2_NORMALIZATION", "LOGISTIC", "UNIDIRECTIONAL_SEQUENCE_LSTM", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM"),
    *("MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6"),
    *("RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX"),
    *("SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "SQUARED_DIFFERENCE", "TANH", "TRANSPOSE"),
    "TRANSPOSE_CONV",
}
UNTABLED = "not in the table"
MAX_SOFTMAX = 16_000


class Graph:
    """The one subgraph of a TFLite file."""

    def __init__(self, path: Path) -> None:
        self._bytes = path.read_bytes()
        self.model = schema.ModelT.InitFromPackedBuf(self._bytes, 0)
        (self.graph,) = self.model.subgraphs
        self.tensors = self.graph.tensors

    def kind(self, tensor: int) -> str:
        return TYPES[self.tensors[tensor].type]

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(int(size) for size in self.tensors[tensor].shape if self.tensors[tensor].shape is not None)

    def constant(self, tensor: int) -> np.ndarray | None:
        buffer = self.model.buffers[self.tensors[tensor].buffer]
        if buffer.data is not None and len(buffer.data):
            data = np.asarray(buffer.data, np.uint8).tobytes()
        elif buffer.size:  # behind the flatbuffer
            data = self._bytes[buffer.offset : buffer.offset + buffer.size]
        else:
            return None
        kinds = {"INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "FLOAT32": np.float32}
        return np.frombuffer(data, kinds[self.kind(tensor)]).reshape(self.shape(tensor))

    def operators(self) -> Iterator[tuple[str, Any]]:
        for operator in self.graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            custom = code.customCode.decode() if code.customCode else ""
            yield custom or NAMES[number], operator


def is_full_integer(path: Path) -> bool:
    """Whether it takes and gives 8-bit integers only."""
    graph = Graph(path)
    return all(graph.kind(at) in ("INT8", "UINT8") for at in (*graph.graph.inputs, *graph.graph.outputs))


def left_on_cpu(path: Path) -> dict[str, str]:
    """Operator -> why; the first reason of each."""
    graph = Graph(path)
    found: dict[str, str] = {}
    for name, operator in graph.operators():
        if why := _why(graph, name, operator):
            found.setdefault(name, why)
    return found


def _why(graph: Graph, name: str, operator: Any) -> str:
    if name not in MAPPED:
        return UNTABLED
    inputs = [int(at) for at in operator.inputs if at >= 0]
    outputs = [int(at) for at in operator.outputs]
    moving = [at for at in inputs if graph.constant(at) is None]
    for at in (*moving, *outputs):
        if graph.kind(at) not in ("INT8", "UINT8"):
            return f"takes or gives {graph.kind(at)}"
        if math.prod(graph.shape(at)[:-3]) > 1:
            return f"{graph.shape(at)} has more than three sizes above 1"
    return _limit(graph, name, operator.builtinOptions, inputs, outputs)


def _limit(graph: Graph, name: str, options: Any, inputs: list[int], outputs: list[int]) -> str:
    rank = len(graph.shape(inputs[0]))
    match name:
        case "CONV_2D" | "DEPTHWISE_CONV_2D":
            if options.dilationWFactor != options.dilationHFactor:
                return "dilations in x and y differ"
        case "AVERAGE_POOL_2D" | "MAX_POOL_2D" | "CONCATENATION":
            if options.fusedActivationFunction:
                return "a fused activation"
            constants = [value for at in inputs if (value := graph.constant(at)) is not None]
            if name == "CONCATENATION" and constants and (len(inputs) != 2 or constants[0].any()):
                return "a constant that is no padding by zeros"
        case "FULLY_CONNECTED":
            if options.weightsFormat:
                return "weights in another format"
            if math.prod(graph.shape(outputs[0])[:-1]) > 1:
                return f"its output {graph.shape(outputs[0])} has more than one dimension"
        case "MEAN" | "SUM" | "REDUCE_MAX" | "REDUCE_MIN":
            axes = graph.constant(inputs[1])
            if axes is None or (0 in axes % rank and graph.shape(inputs[0])[0] != 1) or (rank == 4 and 0 in axes % 4):
                return "reduces the batch"
        case "PAD":
            padding = graph.constant(inputs[1])
            if padding is None or (rank == 4 and padding[0].any()):
                return "pads the batch"
        case "PACK" | "SPLIT":
            if name == "PACK" and options.axis % (rank + 1) == 0 and rank >= 3:
                return "packs the batch"
            if name == "SPLIT" and int(np.ravel(graph.constant(inputs[0]))[0]) % len(graph.shape(inputs[1])) == 0:
                return "splits the batch"
        case "PRELU":
            alpha = graph.shape(inputs[1])
            if math.prod(alpha[:-1]) > 1:
                return f"alpha is {alpha}"
        case "SOFTMAX":
            sizes = graph.shape(inputs[0])
            if math.prod(sizes[:-1]) > 1 or sizes[-1] > MAX_SOFTMAX:
                return f"over {sizes}: more than one dimension, or more than {MAX_SOFTMAX}"
        case "SQUEEZE":
            sizes = graph.shape(inputs[0])
            ones = [number for number, size in enumerate(sizes) if size == 1]
            squeezed = [axis % rank for axis in options.squeezeDims] if options.squeezeDims is not None else ones
            if any(math.prod(sizes[:axis]) > 1 for axis in squeezed):
                return f"squeezes {sizes} behind a size above 1"
        case "STRIDED_SLICE":
            strides = graph.constant(inputs[3])
            if strides is None or (strides != 1).any() or options.ellipsisMask or options.newAxisMask:
                return "strides other than 1, or masks"
        case "UNIDIRECTIONAL_SEQUENCE_LSTM":
            return ""
    return ""
