"""INT8 TFLite from a float TFLite file by ai-edge-quantizer: every layer, or all but those that are named.

Whole (int8 in and out) is what the Edge TPU's compiler wants. One scale over a detector's concatenated output rounds
every score to 0, and a transformer is slow and wrong when it is whole: then some of it stays in float.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lineside.errors import ConfigError
from lineside.hal.artefact import first_line
from lineside.hal.tflite import read_tflite
from lineside.quantize.graph import Network, has_attention, split
from lineside.registry import vendor

if TYPE_CHECKING:
    from numpy.typing import NDArray

Seen: TypeAlias = "dict[str, dict[str, Any]]"  # what ai-edge-quantizer knows of each tensor: min and max
_AS_ONNX = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "CONV_2D_TRANSPOSE": "ConvTranspose",
    "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul",
}


@dataclass(frozen=True, slots=True)
class Layers:
    """A float model's operators, named by kind and place: CONV_2D_12 is the thirteenth operator of the file."""

    path: Path
    network: Network
    scopes: dict[str, str]  # operator -> what ai-edge-quantizer calls it
    first: frozenset[str]  # the operators that read the picture


def read_layers(source: Path) -> Layers:
    """Raises ConfigError where ai-edge-quantizer is missing or the file has no layer to quantise."""
    flatbuffer = vendor("ai_edge_quantizer.utils.tfl_flatbuffer_utils")
    model = flatbuffer.read_model(str(source))
    graph = model.subgraphs[0]
    kinds = [flatbuffer.TFL_OP_CODE_TO_NAME.get(code.builtinCode) for code in model.operatorCodes]
    named = [kind.value if kind is not None else "OTHER" for kind in kinds]
    held = [
        f"{number}"
        for number, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
    ]
    nodes, scopes = [], {}
    for number, operator in enumerate(graph.operators):
        kind = named[operator.opcodeIndex]
        name = f"{kind}_{number}"
        inputs = [f"{index}" for index in operator.inputs if index != -1]
        outputs = [f"{index}" for index in operator.outputs]
        nodes.append(SimpleNamespace(name=name, op_type=_AS_ONNX.get(kind, kind), input=inputs, output=outputs))
        scopes[name] = flatbuffer.get_op_scope(operator, graph.tensors)
    shape = SimpleNamespace(node=nodes, initializer=[SimpleNamespace(name=name) for name in held])
    blocks, tail = split(shape)
    if not blocks:
        raise ConfigError(f"{source}: no convolution or fully connected layer in it: INT8 would gain nothing")
    pictures = {f"{index}" for index in graph.inputs}
    return Layers(
        source,
        Network(source, "", blocks, tail, has_attention(shape)),
        scopes,
        frozenset(node.name for node in nodes if pictures & set(node.input)),
    )


def collect(source: Path, inputs: Sequence[NDArray[np.float32]]) -> Seen:
    """The extremes of every tensor over `inputs`, the calibration pictures as the model takes them.

    Raises ConfigError where ai-edge-quantizer is missing or cannot run this file.
    """
    signature, name = _signature(source)
    try:
        worker = vendor("ai_edge_quantizer.quantizer").Quantizer(str(source), _recipe())
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):  # of its memory use
            return _extremes([worker.calibrate({signature: [{name: each}]}, num_threads=1) for each in inputs])
    except Exception as error:  # what it raises shares no base
        raise ConfigError(f"{source}: ai-edge-quantizer cannot run it: {first_line(error)}") from error


def quantise(layers: Layers, seen: Seen, in_float: Collection[str], path: Path) -> None:
    """Write the INT8 model. `in_float` names the operators that stay as they are; the input is int8 where those that
    read it are, the outputs where those that write them are.

    Raises ConfigError where ai-edge-quantizer cannot quantise this file.
    """
    try:
        worker = vendor("ai_edge_quantizer.quantizer").Quantizer(str(layers.path), _recipe(layers, in_float))
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
            made = worker.quantize(seen, **_silent(worker.quantize))
            path.unlink(missing_ok=True)  # else it warns
            made.export_model(str(path))
        read_tflite(str(path))
    except ConfigError:
        raise
    except Exception as error:  # what it raises shares no base
        raise ConfigError(f"{layers.path}: ai-edge-quantizer cannot quantise it: {first_line(error)}") from error


def _silent(function: Callable[..., Any]) -> dict[str, bool]:
    """What keeps the quantiser from printing, as far as this release of it knows the words (0.5 knows none)."""
    known = inspect.signature(function).parameters
    return {word: False for word in ("enable_progress_bar", "enable_progress_report") if word in known}


def _extremes(seen: Sequence[Seen]) -> Seen:
    """Of all pictures: ai-edge-quantizer's own calibration is a moving average, which cuts off what few pictures have,
    such as a defect."""
    merged = {tensor: dict(found) for tensor, found in seen[0].items()}
    for found in seen[1:]:
        for tensor, limits in found.items():
            if "min" in limits:
                merged[tensor]["min"] = np.minimum(merged[tensor]["min"], limits["min"])
                merged[tensor]["max"] = np.maximum(merged[tensor]["max"], limits["max"])
    return merged


def _signature(source: Path) -> tuple[str, str]:
    """The names of the model's one signature and of its input."""
    interpreter = vendor("ai_edge_litert.interpreter").Interpreter(str(source))
    found = interpreter.get_signature_list()
    if len(found) != 1:
        raise ConfigError(
            f"{source}: has {len(found)} signatures, ai-edge-quantizer needs one: convert the model again with a "
            "converter of today (litert-torch, or TensorFlow's from a saved model)"
        )
    ((name, signature),) = found.items()
    return name, signature["inputs"][0]


def _recipe(layers: Layers | None = None, in_float: Collection[str] = ()) -> Any:
    """8 bits for all; the last rule that fits an operator is the one that counts."""
    manager = vendor("ai_edge_quantizer.recipe_manager").RecipeManager()
    names = vendor("ai_edge_quantizer.qtyping").TFLOperationName
    not_at_all = vendor("ai_edge_quantizer.algorithm_manager").AlgorithmName.NO_QUANTIZE
    manager.add_static_config(".*", names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    if layers is not None and in_float:
        if not layers.first.isdisjoint(in_float):
            manager.add_quantization_config(".*", names.INPUT, algorithm_key=not_at_all)
        scopes = "|".join(re.escape(layers.scopes[name]) for name in sorted(in_float))
        manager.add_quantization_config(f"^(?:{scopes})$", names.ALL_SUPPORTED, algorithm_key=not_at_all)
    return manager.get_quantization_recipe()
