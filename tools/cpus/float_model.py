"""An INT8 ONNX file's float model: the same weights, and activations that are clipped as in the file but not rounded.

The bundles ship without the float models that they were made of. What is left out here is all that an integer kernel
computes: what remains differs from the model before quantising by the rounding of its weights alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def write_float(quantised: Path, out: Path) -> None:
    """Write the float model of `quantised`, an ONNX file with QuantizeLinear and DequantizeLinear, to `out`.

    Raises ValueError where a scale is computed at run time, layers are integer operators, or nothing is quantised.
    """
    model = onnx.load(quantised)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, found = [], 0
    for node in graph.node:
        if node.op_type.startswith("QLinear") or node.op_type.endswith("Integer"):
            raise ValueError(
                f"{quantised}: holds {node.op_type}: only QuantizeLinear and DequantizeLinear are understood"
            )
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        found += 1
        scale, zero = _parameters(node, constants)
        made = node.output[0]
        if node.op_type == "QuantizeLinear":
            levels = np.iinfo(zero.dtype)
            ends = [np.float32((int(end) - int(zero)) * float(scale)) for end in (levels.min, levels.max)]
            names = [f"{made}_{word}" for word in ("least", "most")]
            graph.initializer.extend(map(numpy_helper.from_array, map(np.asarray, ends), names))
            nodes.append(helper.make_node("Clip", [node.input[0], *names], [made]))
        elif node.input[0] in constants:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            real = _real(constants[node.input[0]], scale, zero, axis)
            graph.initializer.append(numpy_helper.from_array(real, made))
        else:
            nodes.append(helper.make_node("Identity", [node.input[0]], [made]))
    if not found:
        raise ValueError(f"{quantised}: nothing in it is quantised")
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)


def _parameters(node: Any, constants: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and zero point of a node; without a zero point it is 0, and uint8."""
    names = list(node.input[1:3])
    if any(name not in constants for name in names if name):
        raise ValueError(f"{node.name or node.output[0]}: its scale is computed at run time")
    zero = constants[names[1]] if len(names) > 1 and names[1] else np.zeros((), np.uint8)
    return constants[names[0]], zero


def _real(raw: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int) -> NDArray[np.float32]:
    if scale.size > 1:  # a scale for each channel
        shape = [1] * raw.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), (zero.reshape(shape) if zero.size > 1 else zero)
    real: NDArray[np.float32] = ((raw.astype(np.int64) - zero.astype(np.int64)) * scale).astype(np.float32)
    return real
